/* The planned engine: a thread that makes one token per choice and step. */
#include "tests/support/fake_engine.h"

#include "core/base/check.h"
#include "core/base/mem.h"
#include "core/event.h"
#include "core/kv_prefix.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

struct engine {
    pthread_mutex_t lock;
    pthread_t thread;
    const struct base_model *base;
    struct engine_opts opts;
    struct job *jobs; /* newest first; n_live counts tokens per choice so far */
    struct event_list out;
    bool is_closing, is_closed;
    struct engine_stats stats;
};

static pthread_mutex_t plan_lock = PTHREAD_MUTEX_INITIALIZER;
static struct fake_plan plan;
static struct fake_seen seen;

void fake_engine_plan(const struct fake_plan *p)
{
    pthread_mutex_lock(&plan_lock);
    plan = *p;
    memset(&seen, 0, sizeof seen);
    pthread_mutex_unlock(&plan_lock);
}

void fake_engine_seen(struct fake_seen *out)
{
    pthread_mutex_lock(&plan_lock);
    *out = seen;
    pthread_mutex_unlock(&plan_lock);
}

static struct fake_plan plan_now(void)
{
    pthread_mutex_lock(&plan_lock);
    struct fake_plan p = plan;
    pthread_mutex_unlock(&plan_lock);
    return p;
}

static void note_posted(const struct job *j)
{
    int n = j->prompts[0].n_ids < FAKE_MAX_SEEN ? j->prompts[0].n_ids : FAKE_MAX_SEEN;
    pthread_mutex_lock(&plan_lock);
    seen.n_posted++;
    seen.sampling = j->sampling;
    seen.n_prompts = j->n_prompts;
    seen.n = j->n;
    seen.n_ids = j->prompts[0].n_ids;
    seen.max_tokens = j->max_tokens;
    seen.min_tokens = j->min_tokens;
    seen.n_stops = j->n_stops;
    seen.n_logprobs = j->n_logprobs;
    seen.ignore_eos = j->ignore_eos;
    seen.is_echo = j->is_echo;
    seen.has_prefix = j->prefix != NULL;
    memcpy(seen.ids, j->prompts[0].ids, (size_t)n * sizeof *seen.ids);
    pthread_mutex_unlock(&plan_lock);
}

static void note_final(bool was_cancelled)
{
    pthread_mutex_lock(&plan_lock);
    seen.n_final++;
    seen.n_cancelled += was_cancelled;
    pthread_mutex_unlock(&plan_lock);
}

/* ---- making events ------------------------------------------------------------------- */

static struct row_score score_of(const struct job *j, int32_t id)
{
    struct row_score s = {.token = {id, -0.5f}};
    s.n_top = j->n_logprobs > 0 ? j->n_logprobs : 0;
    for (int i = 0; i < s.n_top; i++)
        s.top[i] = (struct token_score){id + i, -0.5f - (float)i};
    return s;
}

static void make_prompt(struct engine *e, struct job *j, int choice)
{
    const struct job_prompt *p = &j->prompts[choice / j->n];
    struct row_score *rows = xcalloc((size_t)p->n_ids, sizeof *rows);
    for (int i = 0; i < p->n_ids; i++)
        rows[i] = score_of(j, p->ids[i]);
    rows[0] = (struct row_score){.token = {p->ids[0], NAN}};
    event_list_add(&e->out,
                   event_new_scored(EVENT_PROMPT, j, choice, rows, p->n_ids, "", 0));
    free(rows);
}

static void make_token(struct engine *e, struct job *j, int choice,
                       const struct fake_plan *p)
{
    struct row_score s = score_of(j, FAKE_FIRST_ID + j->n_live);
    bool is_eos = p->eos_after && j->n_live == p->eos_after;
    size_t len = p->text_bytes ? p->text_bytes : 32;
    char *text = xcalloc(1, len + 1);
    if (is_eos)
        s.token.id = 0;
    else if (p->text_bytes)
        memset(text, 'x', len);
    else
        snprintf(text, len, " w%d", j->n_live);
    event_list_add(&e->out,
                   event_new_scored(EVENT_TOKEN, j, choice, &s, 1, text, strlen(text)));
    e->stats.generated_tokens++;
    free(text);
}

static void make_end(struct engine *e, struct job *j, int choice, enum finish why)
{
    struct event *ev = event_new(EVENT_END, j, choice);
    ev->finish = why;
    ev->n_generated = j->n_live;
    event_list_add(&e->out, ev);
}

static void make_final(struct engine *e, struct job *j, enum err_code code)
{
    struct event *ev = event_new(code ? EVENT_FAILED : EVENT_DONE, j, 0);
    if (code)
        err_set(&ev->err, code, "planned failure");
    event_list_add(&e->out, ev);
}

/* True when the job is over. */
static bool step_job(struct engine *e, struct job *j, const struct fake_plan *p)
{
    int n = j->n_prompts * j->n;
    bool is_eos = p->eos_after && j->n_live == p->eos_after;
    if (p->fail_code && j->n_live >= p->fail_after) {
        make_final(e, j, p->fail_code);
        return true;
    }
    for (int i = 0; i < n && j->n_live == 0 && j->is_echo && j->n_logprobs >= 0; i++)
        make_prompt(e, j, i);
    for (int i = 0; i < n && j->max_tokens > 0; i++)
        make_token(e, j, i, p);
    j->n_live += j->max_tokens > 0;
    if (j->n_live < j->max_tokens && !is_eos)
        return false;
    for (int i = 0; i < n; i++)
        make_end(e, j, i, is_eos ? FINISH_STOP : FINISH_LENGTH);
    make_final(e, j, ERR_NONE);
    return true;
}

static bool end_cancelled(struct engine *e, struct job *j)
{
    bool is_over = e->is_closing || atomic_load(&j->cancelled);
    if (!is_over)
        return false;
    for (int i = 0; i < j->n_prompts * j->n; i++)
        make_end(e, j, i, FINISH_CANCELLED);
    make_final(e, j, ERR_NONE);
    return true;
}

static void step_all(struct engine *e, const struct fake_plan *p)
{
    for (struct job **at = &e->jobs; *at;) {
        struct job *j = *at;
        bool is_held = p->is_held || (p->hold_after && j->n_live >= p->hold_after);
        bool was_cancelled = end_cancelled(e, j);
        if (!was_cancelled && (is_held || !step_job(e, j, p))) {
            at = &j->next;
            continue;
        }
        *at = j->next;
        note_final(was_cancelled);
    }
}

static void stamp(struct event_list *l)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    for (struct event *ev = l->first; ev; ev = ev->next)
        if (!ev->made_us)
            ev->made_us = (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

static void *run(void *arg)
{
    struct engine *e = arg;
    bool is_closing = false;
    while (!is_closing) {
        struct fake_plan p = plan_now();
        pthread_mutex_lock(&e->lock);
        bool was_empty = !e->out.first;
        is_closing = e->is_closing;
        step_all(e, &p);
        stamp(&e->out);
        bool must_wake = was_empty && e->out.first;
        pthread_mutex_unlock(&e->lock);
        if (must_wake)
            e->opts.wake(e->opts.wake_ud);
        usleep((useconds_t)(p.step_us ? p.step_us : 500));
    }
    return NULL;
}

/* ---- core/engine.h ------------------------------------------------------------------- */

struct engine *engine_open(const struct base_model *b, const struct engine_opts *opts,
                           struct err *err)
{
    struct engine *e = xcalloc(1, sizeof *e);
    (void)err;
    e->base = b;
    e->opts = *opts;
    e->stats.kv_blocks_total = 100;
    pthread_mutex_init(&e->lock, NULL);
    CHECK(pthread_create(&e->thread, NULL, run, e) == 0);
    return e;
}

int engine_max_ctx(const struct engine *e)
{
    (void)e;
    return FAKE_CTX;
}

static int64_t now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

int engine_post(struct engine *e, struct job *j, struct err *err)
{
    struct fake_plan p = plan_now();
    int prefix = j->prefix ? j->prefix->n_tokens : 0;
    if (p.post_code)
        return err_set(err, p.post_code, "planned refusal");
    for (int i = 0; i < j->n_prompts; i++)
        if (j->prompts[i].n_ids + prefix + j->max_tokens > FAKE_CTX)
            return err_set(err, ERR_CONTEXT, "%d prompt tokens and %d more than %d",
                           j->prompts[i].n_ids, j->max_tokens, FAKE_CTX);
    note_posted(j);
    j->n_live = 0;
    j->admitted_us = now_us();
    pthread_mutex_lock(&e->lock);
    j->next = e->jobs;
    e->jobs = j;
    pthread_mutex_unlock(&e->lock);
    return 0;
}

struct event *engine_drain(struct engine *e)
{
    pthread_mutex_lock(&e->lock);
    struct event *all = e->out.first;
    for (struct event *ev = all; ev; ev = ev->next)
        ev->made_us = now_us();
    e->out = (struct event_list){0};
    pthread_mutex_unlock(&e->lock);
    return all;
}

void engine_stats(struct engine *e, struct engine_stats *out)
{
    pthread_mutex_lock(&e->lock);
    *out = e->stats;
    for (const struct job *j = e->jobs; j; j = j->next)
        out->running += j->n_prompts * j->n;
    pthread_mutex_unlock(&e->lock);
}

struct kv_prefix *engine_prefix_from_tokens(struct engine *e, uint32_t domain,
                                            const int32_t *ids, int n_tokens,
                                            struct err *err)
{
    const struct model_shape *s = base_model_shape(e->base);
    size_t n = (size_t)n_tokens * (size_t)s->n_layers * 2 * (size_t)s->n_kv_heads *
               (size_t)s->head_dim;
    float *kv = xcalloc(n, sizeof *kv);
    (void)ids, (void)domain;
    const struct fake_plan now = plan_now();
    usleep((useconds_t)(now.compile_us + n_tokens * now.compile_token_us));
    struct kv_prefix *p = kv_prefix_from_kv(e->base, kv, n_tokens, err);
    free(kv);
    return p;
}

struct kv_prefix *engine_prefix_from_rows(struct engine *e, uint32_t domain, const float *rows,
                                          int n_tokens, struct err *err)
{
    (void)rows;
    return engine_prefix_from_tokens(e, domain, NULL, n_tokens, err);
}

void engine_close(struct engine *e)
{
    if (e->is_closed)
        return;
    e->is_closed = true;
    pthread_mutex_lock(&e->lock);
    e->is_closing = true;
    pthread_mutex_unlock(&e->lock);
    pthread_join(e->thread, NULL);
}

void engine_free(struct engine *e)
{
    if (!e)
        return;
    engine_close(e);
    pthread_mutex_destroy(&e->lock);
    free(e);
}
