/* The sweeps: what is measured over what.
 *
 * Thread: one. */
#ifndef PREFIXD_BENCH_SWEEPS_H
#define PREFIXD_BENCH_SWEEPS_H

#include "scripts/bench/report.h"
#include "scripts/bench/run.h"

enum { SWEEP_MAX_LIST = 16, SWEEP_MAX_ROWS = 128 };

struct list {
    int v[SWEEP_MAX_LIST], n; /* n 0: the sweep's own */
};

struct bench {
    struct run run;
    struct report report;
    struct list rows, context, prompt, prefix, prefixes;
    int tokens, n_runs;
    int prefix_mib; /* what the prefixes of a case may take together */
    int probe_mib;
    uint64_t *memory; /* [probe_mib] what the probe reads */
};

/* Comma-separated whole numbers from min to max; ends the program if they are not. */
struct list sweep_list(const char *name, const char *s, int min, int max);

/* name: prefill, decode, context, sharing, prefixes or mixes; ends the program if it is none. */
void sweep_run(struct bench *b, const char *name);

#endif
