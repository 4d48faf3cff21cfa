/* Work for the engine, timed by the engine's own stamps.
 *
 * Thread: one; it sleeps while the engine computes.
 *
 *     struct run r = {.base = base, .n_threads = 2, .chunk = 512};
 *     struct decoding d = {.rows = 8, .context = 64, .tokens = 32, .windows = 5};
 *     run_open(&r, 8, 8 * run_decode_tokens(&r, &d));
 *     run_decode(&r, &d, rates);
 *     run_close(&r);
 *
 * What fails ends the program with a message. */
#ifndef PREFIXD_BENCH_RUN_H
#define PREFIXD_BENCH_RUN_H

#include "core/engine.h"

struct run {
    struct base_model *base;
    int n_threads, chunk; /* chunk: prompt rows of a step */
    struct engine *engine;
    unsigned n_posted; /* no two prompts are alike, or one might be found in a cache */
};

struct decoding {
    int rows, context; /* sequences at once, and the tokens of its own that each begins with */
    int tokens;        /* steps that are timed together: a window */
    int windows;       /* one after the other, of the same sequences */
    struct kv_prefix *const *prefix_of; /* [rows]; NULL: none have one */
};

_Noreturn void run_die(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* kv_tokens: of all sequences at once, their prefixes not counted. */
void run_open(struct run *r, int max_rows, int kv_tokens);
void run_close(struct run *r);

/* What one sequence of d takes of the KV pool. */
int run_decode_tokens(const struct run *r, const struct decoding *d);

/* rates: [windows] tokens a second, while all rows decode and nothing else runs. */
void run_decode(struct run *r, const struct decoding *d, double *rates);

/* Tokens a second of one prompt, from its posting to its first token. */
double run_prefill(struct run *r, int n_tokens, const struct kv_prefix *prefix);

/* [n] prefixes of n_tokens each, alike and yet each in memory of its own. */
struct kv_prefix **run_prefixes(const struct run *r, int n, int n_tokens);
void run_free_prefixes(struct kv_prefix **p, int n);

#endif
