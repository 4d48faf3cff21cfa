/* Counters and histograms of each worker, in memory that all workers share and that
 * outlives them, so that any of them can tell the sum.
 *
 * Thread: loop of the worker whose slot it is, which alone writes; any process reads. All
 * that is counted are words that only grow, through every restart of the worker: a reader
 * who adds the slots up never sees a sum go back, but for the rows of a tenant that was
 * removed: they end, and may be another's later, from zero. What a process counts by itself
 * from zero (its engine, its adapters) is put on top of what the slot had when the process
 * began.
 * Gauges are of the living process: zero when it begins, and again when it is gone.
 *
 *     struct metrics_slots *all = metrics_slots_new(n_workers);      supervisor
 *     metrics_enter(all, place);                                     worker, when it starts
 *     struct metrics m = {all, place};
 *     metrics_add_exchange(&m, x); ...; metrics_refresh(x->server);
 */
#ifndef PREFIXD_METRICS_H
#define PREFIXD_METRICS_H

#include "core/engine.h"
#include "server/metrics_rows.h"

#include <stdbool.h>
#include <stdint.h>

enum {
    METRICS_BUCKETS = 12,
    METRICS_MIN_STATUS = 100,
    METRICS_STATUS = 500,
};

#define METRICS_FINISHED(XX) XX(stop) XX(length) XX(cancelled) XX(error)
#define METRICS_OUTCOMES(XX) XX(ok) XX(refused) XX(cancelled) XX(error)

/* Why something was put off or refused that could have been done at another time; those of
 * a tenant have the names of its limits. */
#define METRICS_THROTTLES(XX)                                                              \
    XX(requests_per_minute)                                                                \
    XX(tokens_per_minute)                                                                  \
    XX(max_running)                                                                        \
    XX(max_queued)                                                                         \
    XX(tenants)                                                                            \
    XX(queue_full)                                                                         \
    XX(memory)                                                                             \
    XX(loading)                                                                            \
    XX(other)

/* What is counted elsewhere in the process, from zero. */
#define METRICS_ENGINE(XX)                                                                 \
    XX(steps)                                                                              \
    XX(step_us)                                                                            \
    XX(prefill_rows)                                                                       \
    XX(decode_rows)                                                                        \
    XX(compile_rows)                                                                       \
    XX(prefix_reads)                                                                       \
    XX(prefix_rows)                                                                        \
    XX(generated_tokens)                                                                   \
    XX(text_asked)                                                                         \
    XX(text_found)                                                                         \
    XX(text_evicted)

#define METRICS_ADAPTER_WORK(XX)                                                           \
    XX(hits)                                                                               \
    XX(misses)                                                                             \
    XX(evictions)                                                                          \
    XX(loads)                                                                              \
    XX(load_failures)                                                                      \
    XX(compiles)                                                                           \
    XX(load_us)                                                                            \
    XX(compile_us)

#define METRICS_GAUGES(XX)                                                                 \
    XX(workers)                                                                            \
    XX(running)                                                                            \
    XX(waiting)                                                                            \
    XX(kv_blocks_used)                                                                     \
    XX(kv_blocks_cached)                                                                   \
    XX(kv_blocks_total)                                                                    \
    XX(kv_block_bytes)                                                                     \
    XX(upload_bytes)                                                                       \
    XX(answer_bytes)                                                                       \
    XX(body_bytes)                                                                         \
    XX(resident_adapters)                                                                  \
    XX(refused_adapters)                                                                   \
    XX(resident_bytes)                                                                     \
    XX(loading_adapters)

#define XX(name) METRICS_FINISHED_##name,
enum metrics_finished { METRICS_FINISHED(XX) METRICS_N_FINISHED };
#undef XX
#define XX(name) METRICS_OUTCOME_##name,
enum metrics_outcome { METRICS_OUTCOMES(XX) METRICS_N_OUTCOMES };
#undef XX
#define XX(name) METRICS_THROTTLE_##name,
enum metrics_throttle { METRICS_THROTTLES(XX) METRICS_N_THROTTLES };
#undef XX

struct metrics_histogram {
    uint64_t counts[METRICS_BUCKETS + 1]; /* the last: everything above */
    uint64_t sum;                         /* microseconds or tokens */
};

struct metrics_tenant {
    uint64_t outcomes[METRICS_N_OUTCOMES];
    uint64_t prompt_tokens, cached_tokens, generated_tokens, virtual_tokens;
    struct metrics_histogram queue, ttft, gap;
};

#define XX(name) uint64_t name;
struct metrics_engine {
    METRICS_ENGINE(XX)
    uint64_t step_times[ENGINE_STEP_TIMES];
};

struct metrics_adapters {
    METRICS_ADAPTER_WORK(XX)
};

struct metrics_gauges {
    METRICS_GAUGES(XX)
};
#undef XX

struct metrics_counts { /* words only, so that slots can be added up word by word */
    uint64_t by_status[METRICS_STATUS];
    uint64_t by_finish[METRICS_N_FINISHED];
    uint64_t throttles[METRICS_N_THROTTLES];
    uint64_t prompt_tokens, virtual_tokens;
    struct metrics_histogram ttft, gap, e2e, queue, prefill, decode;
    struct metrics_histogram prompt_sizes, generation_sizes;
    struct metrics_engine engine;
    struct metrics_adapters adapters;
};

struct metrics_totals { /* of all slots */
    struct metrics_counts counts;
    struct metrics_gauges gauges; /* kv_block_bytes is the largest */
    uint64_t n_deaths;
    /* By row, whose key is 0 where there is nobody's; the last: all others. */
    struct metrics_row tenant_rows[METRICS_TENANTS];
    struct metrics_tenant tenants[METRICS_TENANTS + 1];
    struct metrics_row adapter_rows[METRICS_ADAPTERS];
    uint64_t adapter_requests[METRICS_ADAPTERS + 1];
};

struct metrics_slots;

struct metrics { /* a worker's access to its slot */
    struct metrics_slots *all;
    int place;
};

struct metrics_slots *metrics_slots_new(int n_workers);
void metrics_slots_free(struct metrics_slots *all); /* accepts NULL */

void metrics_enter(struct metrics_slots *all, int place); /* worker */
void metrics_leave(struct metrics_slots *all, int place); /* supervisor: it is gone */
void metrics_add_death(struct metrics_slots *all);        /* supervisor */

/* ---- counting ------------------------------------------------------------------------ */

struct adapters_stats;
struct engine_stats;
struct exchange;
struct server;

/* At its end. */
void metrics_add_exchange(const struct metrics *m, const struct exchange *x);
void metrics_add_ttft(const struct metrics *m, const struct exchange *x, int64_t us);
/* Between two tokens of a choice. */
void metrics_add_gap(const struct metrics *m, const struct exchange *x, int64_t us);
/* One of METRICS_THROTTLES; any other is "other". */
void metrics_add_throttle(const struct metrics *m, const char *reason);

/* The rows of a tenant, in this worker's slot; to be counted in at once, not to be kept. */
struct metrics_tenant *metrics_tenant(const struct metrics *m, int64_t id,
                                      const char *name);
uint64_t *metrics_adapter_requests(const struct metrics *m, int64_t id, const char *name,
                                   const char *adapter);

/* What the process counts by itself, as it is now. */
void metrics_set_engine(const struct metrics *m, const struct engine_stats *now);
void metrics_set_adapters(const struct metrics *m, const struct adapters_stats *now);
void metrics_refresh(const struct server *s); /* both, and the server's own gauges */

/* ---- reading ------------------------------------------------------------------------- */

/* The rows of tenants that are gone end; before a sum. */
void metrics_forget(struct metrics_slots *all, bool (*is_gone)(int64_t id, void *ud),
                    void *ud);
void metrics_forget_removed(const struct server *s); /* as its registry says */

void metrics_sum(const struct metrics_slots *all, struct metrics_totals *out);

enum metrics_bounds { METRICS_REQUEST_TIMES, METRICS_GAP_TIMES, METRICS_TOKEN_SIZES };
/* [METRICS_BUCKETS], in seconds or tokens. */
const double *metrics_bounds(enum metrics_bounds kind);

#endif
