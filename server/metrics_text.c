/* How Prometheus reads what the daemon counts. */
#include "server/metrics_text.h"

#include "core/base/mem.h"

#include <inttypes.h>
#include <stdlib.h>

/* What vLLM exports under the same name has the label that its dashboards ask for. */
struct page {
    struct buf *out;
    const struct metrics_totals *totals;
    const struct metrics_counts *counts; /* of them */
    const struct metrics_gauges *gauges;
    const char *model; /* model_name="..." */
};

static const struct metrics_row others = {1, "_other", "_other"};
static const struct metrics_row nobody;

/* ---- pieces -------------------------------------------------------------------------- */

static void add_head(struct buf *out, const char *name, const char *type, const char *help)
{
    buf_printf(out, "# HELP prefixd_%s %s\n# TYPE prefixd_%s %s\n", name, help, name, type);
}

static void add_counter(struct buf *out, const char *name, const char *help, uint64_t value)
{
    add_head(out, name, "counter", help);
    buf_printf(out, "prefixd_%s %" PRIu64 "\n", name, value);
}

static void add_seconds(struct buf *out, const char *name, const char *help, uint64_t us)
{
    add_head(out, name, "counter", help);
    buf_printf(out, "prefixd_%s %" PRIu64 ".%06" PRIu64 "\n", name, us / 1000000,
               us % 1000000);
}

static void add_gauge(struct buf *out, const char *name, const char *help, double value)
{
    add_head(out, name, "gauge", help);
    buf_printf(out, "prefixd_%s %.15g\n", name, value);
}

static void add_model_counter(const struct page *p, const char *name, const char *help,
                              uint64_t value)
{
    add_head(p->out, name, "counter", help);
    buf_printf(p->out, "prefixd_%s{%s} %" PRIu64 "\n", name, p->model, value);
}

static void add_model_gauge(const struct page *p, const char *name, const char *help,
                            double value)
{
    add_head(p->out, name, "gauge", help);
    buf_printf(p->out, "prefixd_%s{%s} %.15g\n", name, p->model, value);
}

static void add_buckets(struct buf *out, const char *name, const char *label,
                        const struct metrics_histogram *h, enum metrics_bounds kind)
{
    const double *bounds = metrics_bounds(kind);
    double scale = kind == METRICS_TOKEN_SIZES ? 1 : 1e6;
    uint64_t n = 0;
    for (int i = 0; i < METRICS_BUCKETS; i++) {
        n += h->counts[i];
        buf_printf(out, "prefixd_%s_bucket{%s,le=\"%g\"} %" PRIu64 "\n", name, label,
                   bounds[i], n);
    }
    n += h->counts[METRICS_BUCKETS];
    buf_printf(out, "prefixd_%s_bucket{%s,le=\"+Inf\"} %" PRIu64 "\n", name, label, n);
    buf_printf(out, "prefixd_%s_sum{%s} %.15g\nprefixd_%s_count{%s} %" PRIu64 "\n", name,
               label, (double)h->sum / scale, name, label, n);
}

/* A base's name may be anything. */
static void add_label(struct buf *out, const char *name, const char *value)
{
    buf_printf(out, "%s=\"", name);
    for (const char *c = value; *c; c++) {
        if (*c == '"' || *c == '\\')
            buf_add_char(out, '\\');
        if (*c == '\n')
            buf_add_str(out, "\\n");
        else
            buf_add_char(out, *c);
    }
    buf_add_char(out, '"');
}

/* ---- of the whole -------------------------------------------------------------------- */

static void add_requests(const struct page *p)
{
    static const char *const names[] = {
#define XX(name) #name,
        METRICS_FINISHED(XX)
#undef XX
    };
    add_head(p->out, "http_requests_total", "counter", "Requests answered, by status");
    for (int i = 0; i < METRICS_STATUS; i++)
        if (p->counts->by_status[i])
            buf_printf(p->out,
                       "prefixd_http_requests_total{status=\"%d\"} %" PRIu64 "\n",
                       i + METRICS_MIN_STATUS, p->counts->by_status[i]);
    add_head(p->out, "request_success_total", "counter",
             "Choices of completions, by how they ended");
    for (int i = 0; i < METRICS_N_FINISHED; i++)
        buf_printf(p->out,
                   "prefixd_request_success_total{%s,finished_reason=\"%s\"} %" PRIu64 "\n",
                   p->model, names[i], p->counts->by_finish[i]);
}

static void add_throttles(const struct page *p)
{
    static const char *const names[] = {
#define XX(name) #name,
        METRICS_THROTTLES(XX)
#undef XX
    };
    add_head(p->out, "throttles_total", "counter",
             "Requests refused or put off because there was too much, by what it was");
    for (int i = 0; i < METRICS_N_THROTTLES; i++)
        buf_printf(p->out, "prefixd_throttles_total{reason=\"%s\"} %" PRIu64 "\n", names[i],
                   p->counts->throttles[i]);
}

static void add_workers(const struct page *p)
{
    add_gauge(p->out, "workers", "Workers that serve", (double)p->gauges->workers);
    add_counter(p->out, "worker_deaths_total", "Workers that ended unasked",
                p->totals->n_deaths);
}

/* Averages since the start, for the eye; what changes is seen in the counters. */
static double average(uint64_t sum, uint64_t n)
{
    return n ? (double)sum / (double)n : 0;
}

static void add_gauges(const struct page *p)
{
    const struct metrics_gauges *g = p->gauges;
    double used = average(g->kv_blocks_used, g->kv_blocks_total);
    add_model_gauge(p, "num_requests_running", "Sequences running", (double)g->running);
    add_model_gauge(p, "num_requests_waiting", "Sequences waiting", (double)g->waiting);
    add_model_gauge(p, "kv_cache_usage_perc", "Share of the KV pools in use, 0 to 1", used);
    add_gauge(p->out, "kv_blocks_used", "Blocks of the KV pools in use",
              (double)g->kv_blocks_used);
    add_gauge(p->out, "kv_blocks_cached",
              "Blocks kept for the text that they hold, and free if needed",
              (double)g->kv_blocks_cached);
    add_gauge(p->out, "kv_blocks_total", "Blocks of the KV pools",
              (double)g->kv_blocks_total);
    add_gauge(p->out, "kv_block_bytes", "Bytes of one block", (double)g->kv_block_bytes);
    add_gauge(p->out, "upload_bytes", "Bytes taken by bodies of adapters",
              (double)g->upload_bytes);
    add_gauge(p->out, "answer_bytes", "Bytes that answers being made may come to",
              (double)g->answer_bytes);
    add_gauge(p->out, "body_bytes", "Bytes taken by all other bodies",
              (double)g->body_bytes);
}

static void add_step_times(struct buf *out, const struct metrics_engine *e)
{
    static const char name[] = "prefixd_step_duration_seconds";
    uint64_t n = 0;
    add_head(out, "step_duration_seconds", "histogram", "How long forward passes took");
    for (int i = 0; i < ENGINE_STEP_TIMES; i++) {
        n += e->step_times[i];
        if (i < ENGINE_STEP_TIMES - 1)
            buf_printf(out, "%s_bucket{le=\"%g\"} %" PRIu64 "\n", name,
                       (double)engine_step_bound_us(i) / 1e6, n);
    }
    buf_printf(out, "%s_bucket{le=\"+Inf\"} %" PRIu64 "\n%s_sum %.6f\n%s_count %" PRIu64 "\n",
               name, n, name, (double)e->step_us / 1e6, name, n);
}

static void add_engine(const struct page *p)
{
    const struct metrics_engine *e = &p->counts->engine;
    struct buf *out = p->out;
    add_model_counter(p, "generation_tokens_total", "Tokens generated",
                      e->generated_tokens);
    add_counter(out, "prefill_rows_total", "Prompt rows computed for requests",
                e->prefill_rows);
    add_counter(out, "decode_rows_total", "Rows computed for new tokens", e->decode_rows);
    add_counter(out, "compile_rows_total", "Rows computed to compile adapters",
                e->compile_rows);
    add_counter(out, "prefix_reads_total", "Prefixes read, once per step each",
                e->prefix_reads);
    add_counter(out, "prefix_rows_total", "Rows that read a prefix", e->prefix_rows);
    add_counter(out, "steps_total", "Forward passes", e->steps);
    add_seconds(out, "step_seconds_total", "Time spent in forward passes", e->step_us);
    add_step_times(out, e);
    add_gauge(out, "rows_per_step", "Rows of a forward pass, on average since the start",
              average(e->prefill_rows + e->decode_rows + e->compile_rows, e->steps));
    add_gauge(out, "rows_per_prefix_read",
              "Rows that share a reading of their prefix, on average since the start",
              average(e->prefix_rows, e->prefix_reads));
}

static void add_residency(const struct page *p)
{
    const struct metrics_adapters *a = &p->counts->adapters;
    struct buf *out = p->out;
    add_gauge(out, "adapters_resident", "Compiled versions in memory, of all workers",
              (double)p->gauges->resident_adapters);
    add_gauge(out, "adapters_resident_bytes", "Bytes of those",
              (double)p->gauges->resident_bytes);
    add_gauge(out, "adapters_loading", "Versions on their way into memory",
              (double)p->gauges->loading_adapters);
    add_gauge(out, "adapters_refused",
              "Names of the adapters folder whose newest files are not in use",
              (double)p->gauges->refused_adapters);
    add_counter(out, "adapter_hits_total", "Requests that found their version in memory",
                a->hits);
    add_counter(out, "adapter_misses_total", "Requests that did not", a->misses);
    add_counter(out, "adapter_evictions_total", "Versions that made place for others",
                a->evictions);
    add_counter(out, "adapter_loads_total", "Versions brought into memory", a->loads);
    add_counter(out, "adapter_load_failures_total", "Versions that did not load",
                a->load_failures);
    add_counter(out, "adapter_compiles_total", "Versions compiled", a->compiles);
    add_seconds(out, "adapter_load_seconds_total",
                "Time from asking for a version to its being in memory", a->load_us);
    add_seconds(out, "adapter_compile_seconds_total", "Time spent compiling",
                a->compile_us);
}

static void add_histograms(const struct page *p)
{
    const struct metrics_counts *c = p->counts;
    const struct {
        const char *name, *help;
        const struct metrics_histogram *histogram;
        enum metrics_bounds kind;
    } rows[] = {
        {"request_prompt_tokens", "Tokens of a prompt", &c->prompt_sizes, METRICS_TOKEN_SIZES},
        {"request_generation_tokens", "Tokens generated for a choice", &c->generation_sizes,
         METRICS_TOKEN_SIZES},
        {"time_to_first_token_seconds", "From the request to its first token", &c->ttft,
         METRICS_REQUEST_TIMES},
        {"inter_token_latency_seconds", "Between two tokens of a choice", &c->gap,
         METRICS_GAP_TIMES},
        {"request_queue_time_seconds", "Until the first sequence ran", &c->queue,
         METRICS_REQUEST_TIMES},
        {"request_prefill_time_seconds", "From there to the first token", &c->prefill,
         METRICS_REQUEST_TIMES},
        {"request_decode_time_seconds", "From there to the last token", &c->decode,
         METRICS_REQUEST_TIMES},
        {"e2e_request_latency_seconds", "From the request to its answer's end", &c->e2e,
         METRICS_REQUEST_TIMES},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        add_head(p->out, rows[i].name, "histogram", rows[i].help);
        add_buckets(p->out, rows[i].name, p->model, rows[i].histogram, rows[i].kind);
    }
}

static void add_tokens(const struct page *p)
{
    add_model_counter(p, "prompt_tokens_total", "Prompt tokens of completions",
                      p->counts->prompt_tokens);
    add_counter(p->out, "virtual_tokens_total", "Virtual tokens in front of them",
                p->counts->virtual_tokens);
    const struct metrics_engine *e = &p->counts->engine;
    add_model_counter(p, "prefix_cache_queries",
                      "Prompt tokens looked for in the text cache, for each choice", e->text_asked);
    add_model_counter(p, "prefix_cache_hits", "Prompt tokens found there", e->text_found);
    add_counter(p->out, "text_cache_evictions_total",
                "Blocks that the text cache lost because room was needed", e->text_evicted);
}

/* ---- by tenant ----------------------------------------------------------------------- */

/* The rows in use, with their labels; those beyond the table are one, if there are any. */
struct tenant_line {
    const struct metrics_tenant *row;
    struct buf label; /* tenant="..." */
};

struct tenant_lines {
    struct tenant_line lines[METRICS_TENANTS + 1];
    int n;
};

static uint64_t requests_of(const struct metrics_tenant *t)
{
    uint64_t n = t->prompt_tokens + t->ttft.sum;
    for (int i = 0; i < METRICS_N_OUTCOMES; i++)
        n += t->outcomes[i];
    return n;
}

/* The last row is all others', if there are any. */
static const struct metrics_row *row_at(const struct metrics_row *rows, int i, int last,
                                        uint64_t n_requests)
{
    return i < last ? &rows[i] : n_requests ? &others : &nobody;
}

static void find_tenants(const struct page *p, struct tenant_lines *t)
{
    const struct metrics_totals *all = p->totals;
    for (int i = 0; i <= METRICS_TENANTS; i++) {
        const struct metrics_row *row = row_at(all->tenant_rows, i, METRICS_TENANTS,
                                               requests_of(&all->tenants[i]));
        if (!row->key)
            continue;
        t->lines[t->n].row = &all->tenants[i];
        add_label(&t->lines[t->n++].label, "tenant", row->tenant);
    }
}

static void add_tenant_counter(struct buf *out, const struct tenant_lines *t,
                               const char *name, const char *help, size_t offset)
{
    add_head(out, name, "counter", help);
    for (int i = 0; i < t->n; i++) {
        const char *row = (const char *)t->lines[i].row;
        buf_printf(out, "prefixd_%s{%s} %" PRIu64 "\n", name, t->lines[i].label.data,
                   *(const uint64_t *)(const void *)(row + offset));
    }
}

static void add_tenant_histogram(struct buf *out, const struct tenant_lines *t,
                                 const char *name, const char *help, size_t offset,
                                 enum metrics_bounds kind)
{
    add_head(out, name, "histogram", help);
    for (int i = 0; i < t->n; i++) {
        const char *row = (const char *)t->lines[i].row;
        add_buckets(out, name, t->lines[i].label.data,
                    (const struct metrics_histogram *)(const void *)(row + offset), kind);
    }
}

static void add_outcomes(struct buf *out, const struct tenant_lines *t)
{
    static const char *const names[] = {
#define XX(name) #name,
        METRICS_OUTCOMES(XX)
#undef XX
    };
    add_head(out, "tenant_requests_total", "counter",
             "Completions asked for by tenant and what became of them; \"_other\" is all "
             "that have no row of the 200");
    for (int i = 0; i < t->n; i++)
        for (int k = 0; k < METRICS_N_OUTCOMES; k++)
            buf_printf(out,
                       "prefixd_tenant_requests_total{%s,outcome=\"%s\"} %" PRIu64 "\n",
                       t->lines[i].label.data, names[k], t->lines[i].row->outcomes[k]);
}

static void add_tenants(const struct page *p)
{
    struct tenant_lines *t = xcalloc(1, sizeof *t);
    find_tenants(p, t);
    add_outcomes(p->out, t);
#define ADD(field, name, help)                                                             \
    add_tenant_counter(p->out, t, name, help, offsetof(struct metrics_tenant, field))
    ADD(prompt_tokens, "tenant_prompt_tokens_total", "Prompt tokens of completions");
    ADD(generated_tokens, "tenant_generation_tokens_total", "Tokens generated");
    ADD(cached_tokens, "tenant_cached_tokens_total",
        "Of those, the ones that the text cache had");
    ADD(virtual_tokens, "tenant_virtual_tokens_total", "Virtual tokens before prompts");
#undef ADD
#define ADD(field, name, help, kind)                                                       \
    add_tenant_histogram(p->out, t, name, help, offsetof(struct metrics_tenant, field),    \
                         kind)
    ADD(queue, "tenant_queue_time_seconds", "Until the first sequence ran",
        METRICS_REQUEST_TIMES);
    ADD(ttft, "tenant_time_to_first_token_seconds", "From the request to its first token",
        METRICS_REQUEST_TIMES);
    ADD(gap, "tenant_inter_token_latency_seconds", "Between two tokens of a choice",
        METRICS_GAP_TIMES);
#undef ADD
    for (int i = 0; i < t->n; i++)
        buf_free(&t->lines[i].label);
    free(t);
}

static void add_adapters(const struct page *p)
{
    add_head(p->out, "adapter_requests_total", "counter",
             "Completions by tenant and adapter; \"\" is the base, \"_other\" all that "
             "have no row of the 2000");
    for (int i = 0; i <= METRICS_ADAPTERS; i++) {
        uint64_t n = p->totals->adapter_requests[i];
        const struct metrics_row *row =
            row_at(p->totals->adapter_rows, i, METRICS_ADAPTERS, n);
        if (!row->key)
            continue;
        buf_add_str(p->out, "prefixd_adapter_requests_total{");
        add_label(p->out, "tenant", row->tenant);
        buf_add_char(p->out, ',');
        add_label(p->out, "adapter", row->adapter);
        buf_printf(p->out, "} %" PRIu64 "\n", n);
    }
}

void metrics_text_render(const struct metrics_slots *all, const char *base_name,
                         struct buf *out)
{
    struct buf label = {0};
    struct metrics_totals *t = xcalloc(1, sizeof *t);
    struct page p = {.out = out, .totals = t, .counts = &t->counts, .gauges = &t->gauges};
    metrics_sum(all, t);
    add_label(&label, "model_name", base_name);
    p.model = label.data;
    add_head(out, "build_info", "gauge", "The version that runs");
    buf_printf(out, "prefixd_build_info{version=\"%s\"} 1\n", PREFIXD_VERSION);
    add_workers(&p);
    add_requests(&p);
    add_throttles(&p);
    add_adapters(&p);
    add_gauges(&p);
    add_engine(&p);
    add_residency(&p);
    add_tokens(&p);
    add_histograms(&p);
    add_tenants(&p);
    buf_free(&label);
    free(t);
}
