/* Results, as lines of a text table and of a CSV file.
 *
 * Thread: one.
 *
 *     report_open(&rep, "bench.csv");
 *     report_group(&rep, results, n);
 *     report_close(&rep); */
#ifndef PREFIXD_BENCH_REPORT_H
#define PREFIXD_BENCH_REPORT_H

#include "scripts/bench/probe.h"

#include <stdio.h>

enum { REPORT_MAX_RUNS = 64 };

struct result {
    const char *sweep, *variant;
    int rows, context, tokens; /* of a prompt: one row, its length, no tokens */
    int prefix, n_prefixes;    /* tokens of each, and how many different ones the rows have */
    int n_runs;
    double rates[REPORT_MAX_RUNS]; /* tokens a second; the runs of a group's results alternate */
    double ratio; /* by report_group: median over the runs of its rate over the first result's */
};

struct report {
    FILE *csv; /* NULL: none */
    char model[64];
    const char *dtype, *isa;
    int n_threads, chunk;
    struct probe probe; /* of the group to come */
};

/* Fills csv; the rest is the caller's. path: NULL for none. -1 if the file cannot be written. */
int report_open(struct report *rep, const char *path);
int report_close(struct report *rep); /* -1: not all of it was written */

void report_heading(const char *sweep, const char *what);

/* What was measured in alternation: the probe's line, then a line for each. */
void report_group(struct report *rep, struct result *results, int n);

#endif
