/* Work for the engine, timed by the engine's own stamps. */
#include "scripts/bench/run.h"

#include "core/base/check.h"
#include "core/base/clock.h"
#include "core/base/mem.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

void run_die(const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    fputs("prefixd-bench: ", stderr);
    vfprintf(stderr, format, ap);
    fputc('\n', stderr);
    va_end(ap);
    exit(1);
}

void run_open(struct run *r, int max_rows, int kv_tokens)
{
    const struct model_shape *shape = base_model_shape(r->base);
    struct err err = {0};
    int blocks = (kv_tokens + KV_TILE - 1) / KV_TILE + max_rows; /* each may end in a part of one */
    struct engine_opts opts = {.n_threads = r->n_threads,
                               .max_ctx = shape->max_pos,
                               .max_batch = max_rows,
                               .prefill_chunk = r->chunk,
                               .step_target_ms = -1,
                               .no_text_cache = true,
                               .kv_bytes = kv_prefix_bytes(shape, KV_TILE) * (size_t)blocks};
    r->engine = engine_open(r->base, &opts, &err);
    if (!r->engine)
        run_die("%s", err.msg);
}

void run_close(struct run *r)
{
    engine_close(r->engine);
    engine_free(r->engine);
    r->engine = NULL;
}

/* ---- streams --------------------------------------------------------------------------------- */

struct stream {
    struct job job;
    struct job_prompt prompt;
    int32_t *ids;
    int64_t *made_us; /* [max_tokens] when each token was made */
    int n_made;
};

static int32_t *random_ids(const struct run *r, int n)
{
    enum { FIRST = 5 }; /* behind the special tokens of most vocabularies */
    unsigned vocab = (unsigned)base_model_shape(r->base)->vocab;
    int32_t *ids = xcalloc((size_t)n, sizeof *ids);
    uint64_t state = r->n_posted + 1;
    for (int i = 0; i < n; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        ids[i] = FIRST + (int32_t)((state >> 33) % (vocab - FIRST));
    }
    return ids;
}

static void post(struct run *r, struct stream *s, int n_prompt, int max_tokens,
                 const struct kv_prefix *prefix)
{
    struct err err = {0};
    *s = (struct stream){.ids = random_ids(r, n_prompt),
                         .made_us = xcalloc((size_t)max_tokens, sizeof *s->made_us)};
    r->n_posted++;
    s->prompt = (struct job_prompt){s->ids, n_prompt};
    s->job = (struct job){.prefix = prefix,
                          .prompts = &s->prompt,
                          .n_prompts = 1,
                          .n = 1,
                          .sampling = {.temperature = 0, .top_p = 1},
                          .max_tokens = max_tokens,
                          .ignore_eos = true,
                          .n_logprobs = -1,
                          .ud = s};
    if (engine_post(r->engine, &s->job, &err) < 0)
        run_die("%s", err.msg);
}

static void stream_free(struct stream *s)
{
    free(s->ids);
    free(s->made_us);
}

/* Notes what was made, and returns how many jobs are over. Sleeps before, so that this thread takes
 * no more than a thousandth of a core. */
static int take_events(struct run *r)
{
    struct timespec nap = {.tv_nsec = 5000000};
    int n_over = 0;
    nanosleep(&nap, NULL);
    for (struct event *ev = engine_drain(r->engine), *next; ev; ev = next) {
        struct stream *s = ev->job->ud;
        next = ev->next;
        if (ev->kind == EVENT_FAILED)
            run_die("%s", ev->err.msg);
        if (ev->kind == EVENT_TOKEN && s->n_made < s->job.max_tokens)
            s->made_us[s->n_made++] = ev->made_us;
        n_over += ev->kind == EVENT_DONE;
        event_free(ev);
    }
    return n_over;
}

/* ---- what is measured ------------------------------------------------------------------------ */

/* Rows begin one after the other, as they are posted and their prompts computed in chunks. So that
 * the first one still decodes when the last one ends its windows, all could make more tokens than
 * is timed. */
static int max_tokens(const struct run *r, const struct decoding *d)
{
    enum { STEPS_OF_POSTING = 64 };
    int steps_of_prompts = (d->rows * d->context + r->chunk - 1) / r->chunk;
    return STEPS_OF_POSTING + steps_of_prompts + d->windows * d->tokens;
}

int run_decode_tokens(const struct run *r, const struct decoding *d)
{
    return d->context + max_tokens(r, d);
}

static const struct stream *last_to_begin(const struct stream *s, int rows)
{
    const struct stream *last = &s[0];
    for (int i = 1; i < rows; i++)
        last = s[i].n_made < last->n_made ? &s[i] : last;
    return last;
}

/* Until all rows have decoded together through every window; then they are told to end. */
static void decode(struct run *r, const struct decoding *d, struct stream *s)
{
    int n_over = 0;
    while (last_to_begin(s, d->rows)->n_made < 1 + d->windows * d->tokens)
        n_over += take_events(r);
    for (int i = 0; i < d->rows; i++)
        atomic_store(&s[i].job.cancelled, true);
    while (n_over < d->rows)
        n_over += take_events(r);
}

static bool all_ran(const struct stream *s, int rows, int64_t until)
{
    for (int i = 0; i < rows; i++)
        if (s[i].made_us[s[i].n_made - 1] < until)
            return false;
    return true;
}

/* false: a row was over before the last window was, because posting was held up. */
static bool try_decode(struct run *r, const struct decoding *d, double *rates)
{
    struct stream *s = xcalloc((size_t)d->rows, sizeof *s);
    for (int i = 0; i < d->rows; i++)
        post(r, &s[i], d->context, max_tokens(r, d), d->prefix_of ? d->prefix_of[i] : NULL);
    decode(r, d, s);
    const int64_t *at = last_to_begin(s, d->rows)->made_us;
    bool ok = all_ran(s, d->rows, at[d->windows * d->tokens]);
    for (int w = 0; w < d->windows; w++, at += d->tokens)
        rates[w] = 1e6 * d->rows * d->tokens / (double)(at[d->tokens] - at[0]);
    for (int i = 0; i < d->rows; i++)
        stream_free(&s[i]);
    free(s);
    return ok;
}

void run_decode(struct run *r, const struct decoding *d, double *rates)
{
    for (int tries = 0; tries < 10; tries++)
        if (try_decode(r, d, rates))
            return;
    run_die("the machine is too busy: rows were over before all of them ran");
}

double run_prefill(struct run *r, int n_tokens, const struct kv_prefix *prefix)
{
    struct stream s;
    int64_t start = clock_us();
    post(r, &s, n_tokens, 1, prefix);
    for (int n_over = 0; n_over < 1;)
        n_over += take_events(r);
    double rate = 1e6 * n_tokens / (double)(s.made_us[0] - start);
    stream_free(&s);
    return rate;
}

/* ---- prefixes -------------------------------------------------------------------------------- */

struct kv_prefix **run_prefixes(const struct run *r, int n, int n_tokens)
{
    const struct model_shape *shape = base_model_shape(r->base);
    int per_token = shape->n_layers * 2 * shape->n_kv_heads * shape->head_dim;
    size_t len = (size_t)n_tokens * (size_t)per_token;
    float *kv = xcalloc(len, sizeof *kv);
    struct kv_prefix **p = xcalloc((size_t)n, sizeof *p);
    for (size_t i = 0; i < len; i++)
        kv[i] = (float)(i * 2654435761u % 2001u) / 1000.0f - 1.0f;
    for (int i = 0; i < n; i++) {
        struct err err = {0};
        p[i] = kv_prefix_from_kv(r->base, kv, n_tokens, &err);
        if (!p[i])
            run_die("%s", err.msg);
    }
    free(kv);
    return p;
}

void run_free_prefixes(struct kv_prefix **p, int n)
{
    for (int i = 0; p && i < n; i++)
        kv_prefix_free(p[i]);
    free(p);
}
