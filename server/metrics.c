/* What the daemon counts, and how Prometheus reads it. */
#include "server/metrics.h"

#include "core/base/mem.h"
#include "server/exchange.h"
#include "server/generation.h"
#include "server/loop.h"
#include "server/server.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    N_BUCKETS = 12,
    MIN_STATUS = 100,
    N_STATUS = 500,
    MAX_ADAPTERS = 100, /* names with a row of their own; the others share one */
};

/* Seconds; a last bucket of everything comes on top. */
static const double request_bounds[N_BUCKETS] = {0.005, 0.01, 0.025, 0.05, 0.1, 0.25,
                                                 0.5,   1,    2.5,   5,    10,  60};
static const double gap_bounds[N_BUCKETS] = {0.001, 0.0025, 0.005, 0.01, 0.02, 0.04,
                                             0.08,  0.15,   0.3,   0.75, 2,    10};

static const double token_bounds[N_BUCKETS] = {1,   5,   10,  20,   50,   100,
                                               200, 500, 1000, 2000, 5000, 10000};

struct histogram {
    const double *bounds;
    uint64_t counts[N_BUCKETS + 1];
    double sum;
};

struct adapter_row {
    char name[ADAPTER_NAME_MAX + 1];
    uint64_t requests;
};

enum finished {
    FINISHED_STOP,
    FINISHED_LENGTH,
    FINISHED_CANCELLED,
    FINISHED_ERROR,
    N_FINISHED
};
static const char *const finished_names[] = {"stop", "length", "cancelled", "error"};

struct metrics {
    uint64_t by_status[N_STATUS];
    uint64_t by_finish[N_FINISHED];
    uint64_t prompt_tokens, virtual_tokens;
    struct histogram ttft, gap, e2e, queue, prefill, decode;
    struct histogram prompt_sizes, generation_sizes; /* tokens */
    struct adapter_row adapters[MAX_ADAPTERS];
    int n_adapters;
    uint64_t base_requests, other_requests;
};

struct metrics *metrics_new(void)
{
    struct metrics *m = xcalloc(1, sizeof *m);
    struct histogram *const times[] = {&m->ttft, &m->e2e, &m->queue, &m->prefill, &m->decode};
    for (size_t i = 0; i < sizeof times / sizeof *times; i++)
        times[i]->bounds = request_bounds;
    m->prompt_sizes.bounds = m->generation_sizes.bounds = token_bounds;
    m->gap.bounds = gap_bounds;
    return m;
}

void metrics_free(struct metrics *m)
{
    free(m);
}

/* ---- counting ------------------------------------------------------------------------ */

static void observe_value(struct histogram *h, double value)
{
    int i = 0;
    while (i < N_BUCKETS && value > h->bounds[i])
        i++;
    h->counts[i]++;
    h->sum += value;
}

static void observe(struct histogram *h, int64_t us)
{
    observe_value(h, us > 0 ? (double)us / 1e6 : 0);
}

void metrics_add_ttft(struct metrics *m, int64_t us)
{
    observe(&m->ttft, us);
}

void metrics_add_gap(struct metrics *m, int64_t us)
{
    observe(&m->gap, us);
}

static uint64_t *requests_of(struct metrics *m, const char *adapter)
{
    if (!adapter)
        return &m->base_requests;
    for (int i = 0; i < m->n_adapters; i++)
        if (strcmp(m->adapters[i].name, adapter) == 0)
            return &m->adapters[i].requests;
    if (m->n_adapters == MAX_ADAPTERS)
        return &m->other_requests;
    struct adapter_row *row = &m->adapters[m->n_adapters++];
    snprintf(row->name, sizeof row->name, "%s", adapter);
    return &row->requests;
}

/* Every choice that the engine took counts once. */
static enum finished how_finished(const struct exchange *x, const struct choice_out *o)
{
    if (o->finish_reason)
        return strcmp(o->finish_reason, "stop") == 0 ? FINISHED_STOP : FINISHED_LENGTH;
    return x->is_whole && x->err.code && x->err.code != ERR_CANCELLED ? FINISHED_ERROR
                                                                      : FINISHED_CANCELLED;
}

/* The stations of a job, as far as it came. */
static void add_times(struct metrics *m, const struct exchange *x)
{
    const struct generation *g = x->gen;
    int64_t admitted = g->job.admitted_us;
    if (admitted)
        observe(&m->queue, admitted - g->posted_us);
    if (admitted && g->first_us)
        observe(&m->prefill, g->first_us - admitted);
    if (g->first_us)
        observe(&m->decode, g->last_us - g->first_us);
    if (x->is_whole && !x->err.code)
        observe(&m->e2e, loop_now_us() - x->start_us);
}

static void add_generation(struct metrics *m, const struct exchange *x)
{
    const struct generation *g = x->gen;
    if (g->n_choices == 0)
        return; /* refused before the engine had it */
    for (int i = 0; i < g->n_choices; i++) {
        m->by_finish[how_finished(x, &g->choices[i])]++;
        observe_value(&m->generation_sizes, g->n_tokens[i]);
    }
    for (int i = 0; i < g->req.n_prompts; i++)
        observe_value(&m->prompt_sizes, g->prompts[i].n_ids);
    m->prompt_tokens += (uint64_t)g->usage.prompt_tokens;
    m->virtual_tokens += (uint64_t)g->usage.virtual_tokens;
    (*requests_of(m, g->adapter))++;
    add_times(m, x);
}

void metrics_add_exchange(struct metrics *m, const struct exchange *x)
{
    int status = x->is_whole ? x->status : err_http_status(ERR_CANCELLED);
    if (status >= MIN_STATUS && status < MIN_STATUS + N_STATUS)
        m->by_status[status - MIN_STATUS]++;
    if (x->gen)
        add_generation(m, x);
}

/* ---- rendering ----------------------------------------------------------------------- */

static void add_head(struct buf *out, const char *name, const char *type, const char *help)
{
    buf_printf(out, "# HELP prefixd_%s %s\n# TYPE prefixd_%s %s\n", name, help, name, type);
}

static void add_counter(struct buf *out, const char *name, const char *help, uint64_t value)
{
    add_head(out, name, "counter", help);
    buf_printf(out, "prefixd_%s %" PRIu64 "\n", name, value);
}

static void add_gauge(struct buf *out, const char *name, const char *help, double value)
{
    add_head(out, name, "gauge", help);
    buf_printf(out, "prefixd_%s %.9g\n", name, value);
}

/* What vLLM exports under the same name has the label that its dashboards ask for. */
struct page {
    struct buf *out;
    const char *label; /* model_name="..." */
};

static void add_model_counter(const struct page *p, const char *name, const char *help,
                              uint64_t value)
{
    add_head(p->out, name, "counter", help);
    buf_printf(p->out, "prefixd_%s{%s} %" PRIu64 "\n", name, p->label, value);
}

static void add_model_gauge(const struct page *p, const char *name, const char *help,
                            double value)
{
    add_head(p->out, name, "gauge", help);
    buf_printf(p->out, "prefixd_%s{%s} %.9g\n", name, p->label, value);
}

static void add_histogram(const struct page *p, const char *name, const char *help,
                          const struct histogram *h)
{
    struct buf *out = p->out;
    uint64_t sum = 0;
    add_head(out, name, "histogram", help);
    for (int i = 0; i < N_BUCKETS; i++) {
        sum += h->counts[i];
        buf_printf(out, "prefixd_%s_bucket{%s,le=\"%g\"} %" PRIu64 "\n", name, p->label,
                   h->bounds[i], sum);
    }
    sum += h->counts[N_BUCKETS];
    buf_printf(out, "prefixd_%s_bucket{%s,le=\"+Inf\"} %" PRIu64 "\n", name, p->label, sum);
    buf_printf(out, "prefixd_%s_sum{%s} %.9g\nprefixd_%s_count{%s} %" PRIu64 "\n", name,
               p->label, h->sum, name, p->label, sum);
}

static void add_requests(const struct metrics *m, const struct page *p)
{
    struct buf *out = p->out;
    add_head(out, "http_requests_total", "counter", "Requests answered, by status");
    for (int i = 0; i < N_STATUS; i++)
        if (m->by_status[i])
            buf_printf(out, "prefixd_http_requests_total{status=\"%d\"} %" PRIu64 "\n",
                       i + MIN_STATUS, m->by_status[i]);
    add_head(out, "request_success_total", "counter",
             "Choices of completions, by how they ended");
    for (int i = 0; i < N_FINISHED; i++)
        buf_printf(
            out, "prefixd_request_success_total{%s,finished_reason=\"%s\"} %" PRIu64 "\n",
            p->label, finished_names[i], m->by_finish[i]);
}

static void add_adapters(const struct metrics *m, struct buf *out)
{
    add_head(out, "adapter_requests_total", "counter",
             "Completions by adapter; \"\" is the base, \"_other\" all names beyond the "
             "first 100");
    buf_printf(out, "prefixd_adapter_requests_total{adapter=\"\"} %" PRIu64 "\n",
               m->base_requests);
    for (int i = 0; i < m->n_adapters; i++)
        buf_printf(out, "prefixd_adapter_requests_total{adapter=\"%s\"} %" PRIu64 "\n",
                   m->adapters[i].name, m->adapters[i].requests);
    if (m->other_requests)
        buf_printf(out, "prefixd_adapter_requests_total{adapter=\"_other\"} %" PRIu64 "\n",
                   m->other_requests);
}

static void add_engine(const struct engine_stats *e, const struct page *p)
{
    struct buf *out = p->out;
    double used = e->kv_blocks_total ? (double)e->kv_blocks_used / e->kv_blocks_total : 0;
    add_model_gauge(p, "num_requests_running", "Sequences running", e->running);
    add_model_gauge(p, "num_requests_waiting", "Sequences waiting", e->waiting);
    add_model_gauge(p, "kv_cache_usage_perc", "Share of the KV pool in use, 0 to 1", used);
    add_model_counter(p, "generation_tokens_total", "Tokens generated",
                      e->generated_tokens);
    add_gauge(out, "kv_blocks_used", "Blocks of the KV pool in use", e->kv_blocks_used);
    add_gauge(out, "kv_blocks_total", "Blocks of the KV pool", e->kv_blocks_total);
    add_gauge(out, "kv_block_bytes", "Bytes of one block", (double)e->kv_block_bytes);
    add_counter(out, "prefill_rows_total", "Prompt rows computed for requests",
                e->prefill_rows);
    add_counter(out, "decode_rows_total", "Rows computed for new tokens", e->decode_rows);
    add_counter(out, "compile_rows_total", "Rows computed to compile adapters",
                e->compile_rows);
    add_counter(out, "prefix_reads_total", "Prefixes read, once per step each",
                e->prefix_reads);
    add_counter(out, "prefix_rows_total", "Rows that read a prefix", e->prefix_rows);
    add_counter(out, "steps_total", "Forward passes", e->steps);
    add_head(out, "step_seconds_total", "counter", "Time spent in forward passes");
    buf_printf(out, "prefixd_step_seconds_total %.6f\n", (double)e->step_us / 1e6);
}

static void add_histograms(const struct metrics *m, const struct page *p)
{
    add_histogram(p, "request_prompt_tokens", "Tokens of a prompt", &m->prompt_sizes);
    add_histogram(p, "request_generation_tokens", "Tokens generated for a choice",
                  &m->generation_sizes);
    add_histogram(p, "time_to_first_token_seconds", "From the request to its first token",
                  &m->ttft);
    add_histogram(p, "inter_token_latency_seconds", "Between two tokens of a choice",
                  &m->gap);
    add_histogram(p, "request_queue_time_seconds", "Until the first sequence ran",
                  &m->queue);
    add_histogram(p, "request_prefill_time_seconds", "From there to the first token",
                  &m->prefill);
    add_histogram(p, "request_decode_time_seconds", "From there to the last token",
                  &m->decode);
    add_histogram(p, "e2e_request_latency_seconds", "From the request to its answer's end",
                  &m->e2e);
}

/* A base's name may be anything. */
static void add_label(struct buf *label, const char *name)
{
    buf_add_str(label, "model_name=\"");
    for (const char *c = name; *c; c++) {
        if (*c == '"' || *c == '\\')
            buf_add_char(label, '\\');
        if (*c == '\n')
            buf_add_str(label, "\\n");
        else
            buf_add_char(label, *c);
    }
    buf_add_char(label, '"');
}

void metrics_render(const struct server *s, struct buf *out)
{
    const struct metrics *m = s->metrics;
    struct engine_stats stats = {0};
    struct buf label = {0};
    add_label(&label, s->base_name);
    const struct page p = {out, label.data};
    engine_stats(s->parts.engine, &stats);
    add_head(out, "build_info", "gauge", "The version that runs");
    buf_printf(out, "prefixd_build_info{version=\"%s\"} 1\n", PREFIXD_VERSION);
    add_requests(m, &p);
    add_adapters(m, out);
    add_engine(&stats, &p);
    add_gauge(out, "upload_bytes", "Bytes taken by bodies of adapters",
              (double)s->uploads.used);
    add_gauge(out, "answer_bytes", "Bytes that answers being made may come to",
              (double)s->answers.used);
    add_gauge(out, "body_bytes", "Bytes taken by all other bodies", (double)s->bodies.used);
    add_model_counter(&p, "prompt_tokens_total", "Prompt tokens of completions",
                      m->prompt_tokens);
    add_counter(out, "virtual_tokens_total", "Virtual tokens in front of them",
                m->virtual_tokens);
    add_model_counter(&p, "prefix_cache_queries", "Prompt tokens looked up: there is no cache",
                      0);
    add_model_counter(&p, "prefix_cache_hits", "Prompt tokens found there", 0);
    add_histograms(m, &p);
    buf_free(&label);
}
