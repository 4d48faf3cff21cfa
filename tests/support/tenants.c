/* For tests: tenants that keep a real engine busy, and what each of them gets. */
#include "tests/support/tenants.h"

#include "core/base/check.h"
#include "core/base/mem.h"
#include "tests/support/rng.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { MAX_PROMPT = 4096 };

struct request {
    struct job job;
    struct job_prompt prompt;
    struct tenant *tenant;
    int64_t posted_us;
    bool has_first;
};

struct tenants {
    struct engine *engine;
    struct tenant *all;
    int n;
    int32_t ids[MAX_PROMPT];
    bool is_closing, has_started;
    struct job opener; /* of nobody: holds the engine while the first backlogs are posted */
    struct job_prompt opener_prompt;
    pthread_mutex_t lock;
    pthread_cond_t woken, released;
    bool has_events, is_held;
};

static int64_t now_us(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

static void wake(void *ud)
{
    struct tenants *l = ud;
    pthread_mutex_lock(&l->lock);
    l->has_events = true;
    pthread_cond_signal(&l->woken);
    while (l->is_held)
        pthread_cond_wait(&l->released, &l->lock);
    pthread_mutex_unlock(&l->lock);
}

/* The engine stands still in its call of wake after a step for nobody. */
static void hold(struct tenants *l)
{
    struct err err = {0};
    l->is_held = true;
    l->opener_prompt = (struct job_prompt){l->ids, 1};
    l->opener.prompts = &l->opener_prompt;
    l->opener.n_prompts = l->opener.n = l->opener.max_tokens = 1;
    l->opener.n_logprobs = -1;
    CHECK(engine_post(l->engine, &l->opener, &err) == 0);
    pthread_mutex_lock(&l->lock);
    while (!l->has_events)
        pthread_cond_wait(&l->woken, &l->lock);
    pthread_mutex_unlock(&l->lock);
}

static void release(struct tenants *l)
{
    pthread_mutex_lock(&l->lock);
    l->is_held = false;
    pthread_cond_signal(&l->released);
    pthread_mutex_unlock(&l->lock);
}

struct tenants *tenants_open(const struct base_model *b, struct engine_opts opts, struct tenant *t,
                             int n)
{
    struct tenants *l = xcalloc(1, sizeof *l);
    struct err err = {0};
    struct rng rng = {5};
    l->all = t;
    l->n = n;
    for (int i = 0; i < MAX_PROMPT; i++)
        l->ids[i] = rng_below(&rng, base_model_shape(b)->vocab);
    pthread_mutex_init(&l->lock, NULL);
    pthread_cond_init(&l->woken, NULL);
    pthread_cond_init(&l->released, NULL);
    opts.no_text_cache = true; /* all send the same, and all of it is to be work */
    opts.wake = wake;
    opts.wake_ud = l;
    l->engine = engine_open(b, &opts, &err);
    CHECK(l->engine != NULL);
    return l;
}

static void post(struct tenants *l, struct tenant *t)
{
    struct err err = {0};
    struct request *r = xcalloc(1, sizeof *r);
    CHECK(t->n_prompt <= MAX_PROMPT);
    r->prompt = (struct job_prompt){l->ids, t->n_prompt};
    r->job.domain = (uint32_t)(t - l->all) + 1;
    r->job.weight = t->weight;
    r->job.prompts = &r->prompt;
    r->job.n_prompts = r->job.n = 1;
    r->job.sampling.top_p = 1;
    r->job.max_tokens = t->max_tokens;
    r->job.ignore_eos = true;
    r->job.n_logprobs = -1;
    r->job.ud = r;
    r->tenant = t;
    r->posted_us = now_us(CLOCK_MONOTONIC);
    if (engine_post(l->engine, &r->job, &err) == 0) {
        t->n_under_way++;
    } else {
        t->n_refused++;
        free(r);
    }
}

static void note_first(struct request *r, int64_t us)
{
    struct tenant *t = r->tenant;
    r->has_first = true;
    if (t->n_ttft == t->n_allocated) {
        t->n_allocated = t->n_allocated ? 2 * t->n_allocated : 64;
        t->ttft_us = xrealloc(t->ttft_us, (size_t)t->n_allocated * sizeof *t->ttft_us);
    }
    t->ttft_us[t->n_ttft++] = us - r->posted_us;
}

static void take(struct tenants *l, const struct event *ev)
{
    struct request *r = ev->job->ud;
    if (!r)
        return; /* the opener's */
    struct tenant *t = r->tenant;
    CHECK(ev->kind != EVENT_FAILED);
    if (ev->kind == EVENT_TOKEN && !l->is_closing) {
        t->n_tokens++;
        if (!r->has_first)
            note_first(r, ev->made_us);
    }
    if (ev->kind != EVENT_DONE)
        return;
    t->n_done++;
    t->n_under_way--;
    t->next_us = ev->made_us + t->pause_us;
    free(r);
}

static void drain(struct tenants *l)
{
    for (struct event *ev = engine_drain(l->engine), *next; ev; ev = next) {
        next = ev->next;
        take(l, ev);
        event_free(ev);
    }
}

static void wait_a_little(struct tenants *l)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += 1000000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000;
    }
    pthread_mutex_lock(&l->lock);
    if (!l->has_events)
        pthread_cond_timedwait(&l->woken, &l->lock, &until);
    l->has_events = false;
    pthread_mutex_unlock(&l->lock);
}

static long tokens_of_all(const struct tenants *l)
{
    long n = 0;
    for (int i = 0; i < l->n; i++)
        n += l->all[i].n_tokens;
    return n;
}

static void post_backlogs(struct tenants *l, int64_t now)
{
    for (int i = 0; i < l->n; i++)
        for (struct tenant *t = &l->all[i];
             t->n_under_way < t->backlog && now >= t->next_us && !t->n_refused;)
            post(l, t);
}

void tenants_run(struct tenants *l, long n_tokens, int64_t us)
{
    if (!l->has_started) { /* all begin together, whoever is posted first */
        hold(l);
        post_backlogs(l, now_us(CLOCK_MONOTONIC));
        release(l);
        l->has_started = true;
    }
    int64_t end = us ? now_us(CLOCK_MONOTONIC) + us : INT64_MAX, now;
    long last = n_tokens ? tokens_of_all(l) + n_tokens : INT64_MAX;
    while (tokens_of_all(l) < last && (now = now_us(CLOCK_MONOTONIC)) < end) {
        post_backlogs(l, now);
        wait_a_little(l);
        drain(l);
    }
}

void tenants_reset(struct tenants *l)
{
    for (int i = 0; i < l->n; i++)
        l->all[i].n_tokens = l->all[i].n_done = l->all[i].n_ttft = 0;
}

void tenants_close(struct tenants *l)
{
    l->is_closing = true;
    engine_close(l->engine);
    drain(l);
    engine_free(l->engine);
    for (int i = 0; i < l->n; i++) {
        CHECK(!l->all[i].n_under_way);
        free(l->all[i].ttft_us);
    }
    pthread_mutex_destroy(&l->lock);
    pthread_cond_destroy(&l->woken);
    pthread_cond_destroy(&l->released);
    free(l);
}

static int by_value(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return x < y ? -1 : x > y;
}

int64_t tenant_ttft(struct tenant *t, int p)
{
    if (!t->n_ttft)
        return -1;
    qsort(t->ttft_us, (size_t)t->n_ttft, sizeof *t->ttft_us, by_value);
    return t->ttft_us[(int64_t)(t->n_ttft - 1) * p / 100];
}
