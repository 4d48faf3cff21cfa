/* Counting into slots, and adding them up. */
#include "server/metrics.h"

#include "adapters/store_tenants.h"
#include "core/base/clock.h"
#include "server/exchange.h"
#include "server/generation.h"
#include "server/routes.h"
#include "server/server.h"
#include "server/shared.h"
#include "server/watch.h"

#include <string.h>

_Static_assert(sizeof(struct metrics_counts) % sizeof(uint64_t) == 0, "words only");
_Static_assert(sizeof(struct metrics_tenant) % sizeof(uint64_t) == 0, "words only");

struct slot {
    struct metrics_counts counts;
    /* By row, and for which key it was counted; the last: all others, without a key. */
    struct metrics_tenant tenants[METRICS_TENANTS + 1];
    uint64_t adapter_requests[METRICS_ADAPTERS + 1];
    uint64_t tenant_keys[METRICS_TENANTS], adapter_keys[METRICS_ADAPTERS];
    /* What counts.engine and counts.adapters were when the present process began. */
    struct metrics_engine engine_before;
    struct metrics_adapters adapters_before;
    struct metrics_gauges gauges;
};

struct metrics_slots {
    int32_t n;
    uint64_t n_deaths;
    struct metrics_rows rows;
    struct slot slots[];
};

static size_t size_of(int n)
{
    return sizeof(struct metrics_slots) + (size_t)n * sizeof(struct slot);
}

struct metrics_slots *metrics_slots_new(int n_workers)
{
    struct metrics_slots *all = shared_map(size_of(n_workers));
    all->n = n_workers;
    metrics_rows_init(&all->rows);
    return all;
}

void metrics_slots_free(struct metrics_slots *all)
{
    if (all)
        shared_unmap(all, size_of(all->n));
}

/* The two copies are made anew by every process, so one that dies between them does no
 * harm: the counts themselves stay as they are. */
void metrics_enter(struct metrics_slots *all, int place)
{
    struct slot *s = &all->slots[place];
    s->engine_before = s->counts.engine;
    s->adapters_before = s->counts.adapters;
    s->gauges = (struct metrics_gauges){.workers = 1};
}

void metrics_leave(struct metrics_slots *all, int place)
{
    all->slots[place].gauges = (struct metrics_gauges){0};
}

void metrics_add_death(struct metrics_slots *all)
{
    all->n_deaths++;
}

/* ---- rows ---------------------------------------------------------------------------- */

static struct slot *slot_of(const struct metrics *m)
{
    return &m->all->slots[m->place];
}

/* What this worker counts in a row begins at zero if it last counted for another there. */
static void begin_row(uint64_t *counted_for, uint64_t key, void *counts, size_t size)
{
    if (*counted_for == key)
        return;
    __atomic_store_n(counted_for, 0, __ATOMIC_RELAXED);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    memset(counts, 0, size);
    __atomic_store_n(counted_for, key, __ATOMIC_RELEASE);
}

struct metrics_tenant *metrics_tenant(const struct metrics *m, int64_t id,
                                      const char *name)
{
    struct slot *s = slot_of(m);
    uint64_t key;
    int i = metrics_rows_tenant(&m->all->rows, id, name, &key);
    if (i < METRICS_TENANTS)
        begin_row(&s->tenant_keys[i], key, &s->tenants[i], sizeof s->tenants[i]);
    return &s->tenants[i];
}

static struct metrics_tenant *tenant_of(const struct metrics *m, const struct exchange *x)
{
    return metrics_tenant(m, exchange_tenant(x), exchange_tenant_name(x));
}

uint64_t *metrics_adapter_requests(const struct metrics *m, int64_t id, const char *name,
                                   const char *adapter)
{
    struct slot *s = slot_of(m);
    uint64_t key;
    int i = metrics_rows_adapter(&m->all->rows, id, name, adapter, &key);
    if (i < METRICS_ADAPTERS)
        begin_row(&s->adapter_keys[i], key, &s->adapter_requests[i],
                  sizeof s->adapter_requests[i]);
    return &s->adapter_requests[i];
}

/* ---- counting ------------------------------------------------------------------------ */

const double *metrics_bounds(enum metrics_bounds kind)
{
    static const double bounds[][METRICS_BUCKETS] = {
        [METRICS_REQUEST_TIMES] = {0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10,
                                   60},
        [METRICS_GAP_TIMES] = {0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.15, 0.3,
                               0.75, 2, 10},
        [METRICS_TOKEN_SIZES] = {1, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000},
    };
    return bounds[kind];
}

static void observe(struct metrics_histogram *h, enum metrics_bounds kind, int64_t value)
{
    const double *bounds = metrics_bounds(kind);
    double scale = kind == METRICS_TOKEN_SIZES ? 1 : 1e6;
    int i = 0;
    value = value > 0 ? value : 0;
    while (i < METRICS_BUCKETS && (double)value > bounds[i] * scale)
        i++;
    h->counts[i]++;
    h->sum += (uint64_t)value;
}

void metrics_add_ttft(const struct metrics *m, const struct exchange *x, int64_t us)
{
    observe(&slot_of(m)->counts.ttft, METRICS_REQUEST_TIMES, us);
    observe(&tenant_of(m, x)->ttft, METRICS_REQUEST_TIMES, us);
}

void metrics_add_gap(const struct metrics *m, const struct exchange *x, int64_t us)
{
    observe(&slot_of(m)->counts.gap, METRICS_GAP_TIMES, us);
    observe(&tenant_of(m, x)->gap, METRICS_GAP_TIMES, us);
}

void metrics_add_throttle(const struct metrics *m, const char *reason)
{
    static const char *const names[] = {
#define XX(name) #name,
        METRICS_THROTTLES(XX)
#undef XX
    };
    int i = 0;
    if (!m->all)
        return; /* limits can be had without a worker */
    while (i < METRICS_THROTTLE_other && strcmp(names[i], reason) != 0)
        i++;
    slot_of(m)->counts.throttles[i]++;
}

/* Every choice that the engine took counts once. */
static enum metrics_finished how_finished(const struct exchange *x,
                                          const struct choice_out *o)
{
    if (o->finish_reason)
        return strcmp(o->finish_reason, "stop") == 0 ? METRICS_FINISHED_stop
                                                     : METRICS_FINISHED_length;
    return x->is_whole && x->err.code && x->err.code != ERR_CANCELLED
               ? METRICS_FINISHED_error
               : METRICS_FINISHED_cancelled;
}

/* The stations of a job, as far as it came. */
static void add_times(const struct metrics *m, struct metrics_tenant *t,
                      const struct exchange *x)
{
    struct metrics_counts *c = &slot_of(m)->counts;
    const struct generation *g = x->gen;
    int64_t admitted = g->job.admitted_us;
    if (admitted) {
        observe(&c->queue, METRICS_REQUEST_TIMES, admitted - g->posted_us);
        observe(&t->queue, METRICS_REQUEST_TIMES, admitted - g->posted_us);
    }
    if (admitted && g->first_us)
        observe(&c->prefill, METRICS_REQUEST_TIMES, g->first_us - admitted);
    if (g->first_us)
        observe(&c->decode, METRICS_REQUEST_TIMES, g->last_us - g->first_us);
    if (x->is_whole && !x->err.code)
        observe(&c->e2e, METRICS_REQUEST_TIMES, clock_us() - x->start_us);
}

/* What the engine had of it. */
static void add_generation(const struct metrics *m, struct metrics_tenant *t,
                           const struct exchange *x)
{
    struct metrics_counts *c = &slot_of(m)->counts;
    const struct generation *g = x->gen;
    for (int i = 0; i < g->n_choices; i++) {
        c->by_finish[how_finished(x, &g->choices[i])]++;
        observe(&c->generation_sizes, METRICS_TOKEN_SIZES, g->n_tokens[i]);
    }
    for (int i = 0; i < g->req.n_prompts; i++)
        observe(&c->prompt_sizes, METRICS_TOKEN_SIZES, g->prompts[i].n_ids);
    c->prompt_tokens += (uint64_t)g->usage.prompt_tokens;
    c->virtual_tokens += (uint64_t)g->usage.virtual_tokens;
    t->prompt_tokens += (uint64_t)g->usage.prompt_tokens;
    t->virtual_tokens += (uint64_t)g->usage.virtual_tokens;
    t->cached_tokens += (uint64_t)g->usage.cached_tokens;
    t->generated_tokens += (uint64_t)g->usage.completion_tokens;
    (*metrics_adapter_requests(m, exchange_tenant(x), exchange_tenant_name(x),
                               g->adapter ? g->adapter : ""))++;
    add_times(m, t, x);
}

/* Of a stream the status is 200 whatever became of it. */
static enum metrics_outcome outcome_of(const struct exchange *x)
{
    if (!x->is_whole || x->err.code == ERR_CANCELLED)
        return METRICS_OUTCOME_cancelled;
    int status = x->err.code ? err_http_status(x->err.code) : x->status;
    return status < 400   ? METRICS_OUTCOME_ok
           : status < 500 ? METRICS_OUTCOME_refused
                          : METRICS_OUTCOME_error;
}

static bool is_completion(const struct exchange *x)
{
    return x->match && x->match->route && x->match->route->is_completion;
}

void metrics_add_exchange(const struct metrics *m, const struct exchange *x)
{
    int status = x->is_whole ? x->status : err_http_status(ERR_CANCELLED);
    int i = status - METRICS_MIN_STATUS;
    if (i >= 0 && i < METRICS_STATUS)
        slot_of(m)->counts.by_status[i]++;
    if (!is_completion(x) || !exchange_tenant_name(x)[0])
        return; /* or it came without a key */
    struct metrics_tenant *t = tenant_of(m, x);
    t->outcomes[outcome_of(x)]++;
    if (!x->gen || x->gen->n_choices == 0)
        return;
    add_generation(m, t, x);
    metrics_refresh(x->server); /* whoever has the answer finds all of its traces */
}

/* ---- what others count --------------------------------------------------------------- */

void metrics_set_engine(const struct metrics *m, const struct engine_stats *now)
{
    struct slot *s = slot_of(m);
#define XX(name) s->counts.engine.name = s->engine_before.name + now->name;
    METRICS_ENGINE(XX)
#undef XX
    for (int i = 0; i < ENGINE_STEP_TIMES; i++)
        s->counts.engine.step_times[i] = s->engine_before.step_times[i] + now->step_times[i];
    s->gauges.running = (uint64_t)now->running;
    s->gauges.waiting = (uint64_t)now->waiting;
    s->gauges.kv_blocks_used = (uint64_t)now->kv_blocks_used;
    s->gauges.kv_blocks_cached = (uint64_t)now->kv_blocks_cached;
    s->gauges.kv_blocks_total = (uint64_t)now->kv_blocks_total;
    s->gauges.kv_block_bytes = now->kv_block_bytes;
}

void metrics_set_adapters(const struct metrics *m, const struct adapters_stats *now)
{
    struct slot *s = slot_of(m);
#define XX(name) s->counts.adapters.name = s->adapters_before.name + now->name;
    METRICS_ADAPTER_WORK(XX)
#undef XX
    s->gauges.resident_adapters = (uint64_t)now->n_resident;
    s->gauges.resident_bytes = now->bytes;
    s->gauges.loading_adapters = (uint64_t)now->n_loading;
}

void metrics_refresh(const struct server *s)
{
    struct engine_stats engine = {0};
    struct adapters_stats adapters = {0};
    struct metrics_gauges *g = &slot_of(&s->metrics)->gauges;
    engine_stats(s->parts.engine, &engine);
    adapters_stats(s->parts.adapters, &adapters);
    metrics_set_engine(&s->metrics, &engine);
    metrics_set_adapters(&s->metrics, &adapters);
    g->refused_adapters = s->watch ? (uint64_t)watch_n_refused(s->watch) : 0;
    g->upload_bytes = s->uploads.used;
    g->answer_bytes = s->answers.used;
    g->body_bytes = s->bodies.used;
}

/* ---- reading ------------------------------------------------------------------------- */

static void add_words(void *to, const void *from, size_t size)
{
    uint64_t *sum = to;
    const uint64_t *more = from;
    for (size_t i = 0; i < size / sizeof *sum; i++)
        sum[i] += __atomic_load_n(&more[i], __ATOMIC_RELAXED);
}

/* A row counts for the key that it has now. */
static void add_row(const uint64_t *counted_for, uint64_t key, void *to, const void *from,
                    size_t size)
{
    if (key && __atomic_load_n(counted_for, __ATOMIC_ACQUIRE) == key)
        add_words(to, from, size);
}

static void add_slot(struct metrics_totals *t, const struct slot *s)
{
    uint64_t block = t->gauges.kv_block_bytes;
    add_words(&t->counts, &s->counts, sizeof t->counts);
    add_words(&t->gauges, &s->gauges, sizeof t->gauges);
    t->gauges.kv_block_bytes =
        s->gauges.kv_block_bytes > block ? s->gauges.kv_block_bytes : block;
    for (int i = 0; i < METRICS_TENANTS; i++)
        add_row(&s->tenant_keys[i], t->tenant_rows[i].key, &t->tenants[i], &s->tenants[i],
                sizeof t->tenants[i]);
    for (int i = 0; i < METRICS_ADAPTERS; i++)
        add_row(&s->adapter_keys[i], t->adapter_rows[i].key, &t->adapter_requests[i],
                &s->adapter_requests[i], sizeof t->adapter_requests[i]);
    add_words(&t->tenants[METRICS_TENANTS], &s->tenants[METRICS_TENANTS],
              sizeof t->tenants[0]);
    add_words(&t->adapter_requests[METRICS_ADAPTERS],
              &s->adapter_requests[METRICS_ADAPTERS], sizeof t->adapter_requests[0]);
}

void metrics_sum(const struct metrics_slots *all, struct metrics_totals *out)
{
    memset(out, 0, sizeof *out);
    for (int i = 0; i < METRICS_TENANTS; i++)
        metrics_rows_read_tenant(&all->rows, i, &out->tenant_rows[i]);
    for (int i = 0; i < METRICS_ADAPTERS; i++)
        metrics_rows_read_adapter(&all->rows, i, &out->adapter_rows[i]);
    for (int i = 0; i < all->n; i++)
        add_slot(out, &all->slots[i]);
    out->n_deaths = __atomic_load_n(&all->n_deaths, __ATOMIC_RELAXED);
}

/* ---- tenants that are gone ----------------------------------------------------------- */

void metrics_forget(struct metrics_slots *all, bool (*is_gone)(int64_t id, void *ud),
                    void *ud)
{
    metrics_rows_forget(&all->rows, is_gone, ud);
}

static bool is_removed(int64_t id, void *store)
{
    struct tenant t;
    struct err err = {0};
    return store_find_tenant_by_id(store, id, &t, &err) < 0 && err.code == ERR_NOT_FOUND;
}

void metrics_forget_removed(const struct server *s)
{
    metrics_forget(s->metrics.all, is_removed, s->parts.store);
}
