/* For tests: tenants that keep a real engine busy, and what each of them gets.
 *
 * Thread: the caller's alone. A tenant keeps `backlog` requests of its kind under way, each followed by
 * another after a pause. */
#ifndef PREFIXD_TEST_TENANTS_H
#define PREFIXD_TEST_TENANTS_H

#include "core/engine.h"

struct tenant {
    uint32_t weight;
    int backlog;
    int n_prompt, max_tokens;
    int64_t pause_us;
    /* ------------------------------------------------ what it got */
    long n_tokens, n_done, n_refused;
    int64_t *ttft_us; /* [n_ttft] */
    int n_ttft, n_allocated;
    /* ------------------------------------------------ the load's own */
    int n_under_way;
    int64_t next_us; /* when the next may be posted */
};

struct tenants;

/* Opens an engine; tenant i of t has the number i + 1. t is the caller's and outlives it. */
struct tenants *tenants_open(const struct base_model *b, struct engine_opts opts, struct tenant *t,
                             int n);

/* Goes on until the tenants together have n_tokens more, or for us microseconds (0: no limit). */
void tenants_run(struct tenants *l, long n_tokens, int64_t us);

/* Forgets the figures, not the load. */
void tenants_reset(struct tenants *l);

void tenants_close(struct tenants *l);

/* Of the first tokens that came: the p-th percentile, in microseconds. Sorts them. */
int64_t tenant_ttft(struct tenant *t, int p);

#endif
