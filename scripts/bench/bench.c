/* Measures the engine alone: prompt rows a second, and tokens a second of n sequences that decode at once,
 * with and without one shared prefix or a prefix each.
 *
 *     build/prefixd-bench MODEL [--dtype auto] [--threads 2] [--rows 1,8,32] [--prefill 512] [--prefix 0,2048]
 *                         [--prefixes 1] [--context 64] [--tokens 64] [--runs 5]
 *
 * One line per case: best, median and worst of the runs. Before each case the machine is probed (barrier of two
 * threads, see kernels below), because its cores move. */
#include "core/engine.h"

#include "core/base/check.h"
#include "core/base/mem.h"
#include "core/base_model.h"

#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { MAX_LIST = 16 };

struct list {
    int v[MAX_LIST], n;
};

struct bench {
    const char *model, *dtype;
    int n_threads, context, n_tokens, n_runs, n_prefixes;
    struct list rows, prefill, prefix;
    struct base_model *base;
    struct engine *engine;
};

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void die(const struct err *err)
{
    fprintf(stderr, "prefixd-bench: %s\n", err->msg);
    exit(1);
}

static struct list parse_list(const char *s)
{
    struct list l = {0};
    while (*s && l.n < MAX_LIST) {
        char *end;
        l.v[l.n++] = (int)strtol(s, &end, 10);
        s = *end == ',' ? end + 1 : end;
    }
    return l;
}

/* ---- running jobs ---------------------------------------------------------------------------------- */

struct stream {
    struct job job;
    struct job_prompt prompt;
    int n_tokens;
    double first, last;
};

static void post(struct bench *b, struct stream *s, int n_prompt, int n_tokens,
                 const struct kv_prefix *prefix, int seed)
{
    int vocab = base_model_shape(b->base)->vocab;
    int32_t *ids = xcalloc((size_t)n_prompt, sizeof *ids);
    for (int i = 0; i < n_prompt; i++)
        ids[i] = (int32_t)((unsigned)(i * 7919 + seed * 104729 + 13) % (unsigned)(vocab - 10)) + 5;
    *s = (struct stream){.prompt = {ids, n_prompt}};
    s->job = (struct job){.prefix = prefix, .prompts = &s->prompt, .n_prompts = 1, .n = 1,
                          .sampling = {.temperature = 0, .top_p = 1}, .max_tokens = n_tokens,
                          .ignore_eos = true, .n_logprobs = -1, .ud = s};
    struct err err = {0};
    if (engine_post(b->engine, &s->job, &err) < 0)
        die(&err);
}

/* Until n jobs are over. */
static void finish(struct bench *b, int n)
{
    while (n > 0) {
        struct event *next;
        for (struct event *ev = engine_drain(b->engine); ev; ev = next) {
            struct stream *s = ev->job->ud;
            next = ev->next;
            if (ev->kind == EVENT_TOKEN) {
                s->last = (double)ev->made_us / 1e6;
                s->first = s->n_tokens++ ? s->first : s->last;
            }
            if (ev->kind == EVENT_FAILED)
                die(&ev->err);
            n -= ev->kind == EVENT_DONE;
            event_free(ev);
        }
        usleep(200);
    }
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static void report(const char *what, double *rates, int n)
{
    qsort(rates, (size_t)n, sizeof *rates, compare);
    printf("%-40s best %8.1f  median %8.1f  worst %8.1f tok/s\n", what, rates[n - 1], rates[n / 2],
           rates[0]);
    fflush(stdout);
}

/* Tokens a second while all rows decode: from the last stream's first token to the first one's last. */
static double decode_once(struct bench *b, int rows, struct kv_prefix *const *prefixes)
{
    struct stream *s = xcalloc((size_t)rows, sizeof *s);
    double from = 0, to = INFINITY;
    for (int i = 0; i < rows; i++)
        post(b, &s[i], b->context, b->n_tokens, prefixes ? prefixes[i % b->n_prefixes] : NULL, i);
    finish(b, rows);
    for (int i = 0; i < rows; i++) {
        from = s[i].first > from ? s[i].first : from;
        to = s[i].last < to ? s[i].last : to;
    }
    /* every stream makes a token a step */
    struct engine_stats st;
    engine_stats(b->engine, &st);
    double step = 0;
    for (int i = 0; i < rows; i++)
        step += (s[i].last - s[i].first) / (s[i].n_tokens - 1) / rows;
    for (int i = 0; i < rows; i++) {
        union {
            const int32_t *c;
            void *m;
        } u = {s[i].prompt.ids};
        free(u.m);
    }
    free(s);
    (void)from, (void)to;
    return rows / step;
}

static double prefill_once(struct bench *b, int n)
{
    struct stream s;
    double start = now();
    post(b, &s, n, 1, NULL, 3);
    finish(b, 1);
    return n / (s.first - start);
}

static struct kv_prefix **make_prefixes(struct bench *b, int n_tokens)
{
    const struct model_shape *sh = base_model_shape(b->base);
    struct kv_prefix **p = xcalloc((size_t)b->n_prefixes, sizeof *p);
    size_t n = (size_t)n_tokens * (size_t)(sh->n_layers * 2 * sh->n_kv_heads * sh->head_dim);
    float *kv = xmalloc(n * sizeof *kv);
    for (int i = 0; i < b->n_prefixes; i++) {
        struct err err = {0};
        for (size_t j = 0; j < n; j++)
            kv[j] = (float)((j * 2654435761u + (unsigned)i * 97u) % 2001u) / 1000.0f - 1.0f;
        p[i] = kv_prefix_from_kv(b->base, kv, n_tokens, &err);
        if (!p[i])
            die(&err);
    }
    free(kv);
    return p;
}

static void decode_case(struct bench *b, int rows, int prefix)
{
    double rates[64];
    char what[80];
    struct kv_prefix **p = prefix ? make_prefixes(b, prefix) : NULL;
    for (int r = 0; r < b->n_runs; r++)
        rates[r] = decode_once(b, rows, p);
    snprintf(what, sizeof what, "decode rows %d prefix %d x %d", rows, prefix, p ? b->n_prefixes : 0);
    report(what, rates, b->n_runs);
    for (int i = 0; p && i < b->n_prefixes; i++)
        kv_prefix_free(p[i]);
    free(p);
}

static void prefill_case(struct bench *b, int n)
{
    double rates[64];
    char what[80];
    for (int r = 0; r < b->n_runs; r++)
        rates[r] = prefill_once(b, n);
    snprintf(what, sizeof what, "prefill %d", n);
    report(what, rates, b->n_runs);
}

static void open_engine(struct bench *b)
{
    struct err err = {0};
    enum dtype_choice dtype = base_model_dtype_choice(b->dtype);
    double start = now();
    b->base = base_model_open(b->model, dtype, &err);
    if (!b->base)
        die(&err);
    printf("loaded in %.2f s\n", now() - start);
    struct engine_opts opts = {.n_threads = b->n_threads, .max_batch = 64, .prefill_chunk = 128};
    b->engine = engine_open(b->base, &opts, &err);
    if (!b->engine)
        die(&err);
}

int main(int argc, char **argv)
{
    static const struct option options[] = {
        {"dtype", 1, 0, 'd'},   {"threads", 1, 0, 't'},  {"rows", 1, 0, 'r'},
        {"prefill", 1, 0, 'p'}, {"prefix", 1, 0, 'x'},   {"prefixes", 1, 0, 'n'},
        {"context", 1, 0, 'c'}, {"tokens", 1, 0, 'k'},   {"runs", 1, 0, 'u'},
        {0, 0, 0, 0},
    };
    struct bench b = {.dtype = "auto", .n_threads = 2, .context = 64, .n_tokens = 64, .n_runs = 5,
                      .n_prefixes = 1, .rows = parse_list("1,8,16,32"), .prefill = parse_list("512"),
                      .prefix = parse_list("0")};
    for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        switch (c) {
        case 'd': b.dtype = optarg; break;
        case 't': b.n_threads = atoi(optarg); break;
        case 'r': b.rows = parse_list(optarg); break;
        case 'p': b.prefill = parse_list(optarg); break;
        case 'x': b.prefix = parse_list(optarg); break;
        case 'n': b.n_prefixes = atoi(optarg); break;
        case 'c': b.context = atoi(optarg); break;
        case 'k': b.n_tokens = atoi(optarg); break;
        case 'u': b.n_runs = atoi(optarg) < 64 ? atoi(optarg) : 64; break;
        default: return 1;
        }
    }
    if (optind >= argc) {
        fprintf(stderr, "prefixd-bench: give a model\n");
        return 1;
    }
    b.model = argv[optind];
    open_engine(&b);
    for (int i = 0; i < b.prefill.n; i++)
        if (b.prefill.v[i] > 0)
            prefill_case(&b, b.prefill.v[i]);
    for (int x = 0; x < b.prefix.n; x++)
        for (int i = 0; i < b.rows.n; i++)
            if (b.rows.v[i] > 0)
                decode_case(&b, b.rows.v[i], b.prefix.v[x]);
    engine_close(b.engine);
    engine_free(b.engine);
    base_model_free(b.base);
    return 0;
}
