/* For tests: posts jobs to a real engine and collects whole answers. */
#include "tests/support/run.h"

#include "core/base/check.h"
#include "core/base/mem.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct runner {
    struct engine *engine;
    pthread_mutex_t lock;
    pthread_cond_t woken;
    int n_wakes;
    bool is_held;
    int n_steps; /* wake calls that may still return while held */
};

static void wake(void *ud)
{
    struct runner *r = ud;
    pthread_mutex_lock(&r->lock);
    r->n_wakes++;
    pthread_cond_broadcast(&r->woken);
    while (r->is_held && !r->n_steps)
        pthread_cond_wait(&r->woken, &r->lock);
    if (r->is_held)
        r->n_steps--;
    pthread_mutex_unlock(&r->lock);
}

static void set_gate(struct runner *r, bool is_held, int n_steps)
{
    pthread_mutex_lock(&r->lock);
    r->is_held = is_held;
    r->n_steps = n_steps;
    pthread_cond_broadcast(&r->woken);
    pthread_mutex_unlock(&r->lock);
}

void runner_hold(struct runner *r)
{
    set_gate(r, true, 0);
}

void runner_release(struct runner *r)
{
    set_gate(r, false, 0);
}

void runner_step(struct runner *r)
{
    set_gate(r, true, 1);
    runner_wait_event(r);
}

struct runner *runner_new(const struct base_model *b, struct engine_opts opts)
{
    struct runner *r = xcalloc(1, sizeof *r);
    struct err err = {0};
    pthread_mutex_init(&r->lock, NULL);
    pthread_cond_init(&r->woken, NULL);
    opts.wake = wake;
    opts.wake_ud = r;
    r->engine = engine_open(b, &opts, &err);
    if (!r->engine)
        fprintf(stderr, "engine_open: %s\n", err.msg);
    CHECK(r->engine != NULL);
    return r;
}

struct engine *runner_engine(struct runner *r)
{
    return r->engine;
}

void runner_free(struct runner *r)
{
    engine_free(r->engine);
    pthread_mutex_destroy(&r->lock);
    pthread_cond_destroy(&r->woken);
    free(r);
}

struct run *run_new(const int32_t *ids, int n_ids, int max_tokens, const struct kv_prefix *prefix)
{
    struct run *run = xcalloc(1, sizeof *run);
    run->prompt = (struct job_prompt){ids, n_ids};
    run->job.prompts = &run->prompt;
    run->job.n_prompts = 1;
    run->job.n = 1;
    run->job.prefix = prefix;
    run->job.sampling = (struct sampling){.top_p = 1};
    run->job.max_tokens = max_tokens;
    run->job.ignore_eos = true;
    run->job.n_logprobs = RUN_MAX_TOP;
    run->job.ud = run;
    return run;
}

void run_free(struct run *run)
{
    if (run)
        free(run->answers);
    free(run);
}

int runner_post(struct runner *r, struct run *run, struct err *err)
{
    run->answers = xcalloc((size_t)(run->job.n * run->job.n_prompts), sizeof *run->answers);
    return engine_post(r->engine, &run->job, err);
}

static void add_token(struct answer *a, const struct token_out *t)
{
    CHECK(a->n_ids < RUN_MAX_TOKENS);
    int i = a->n_ids++;
    a->ids[i] = t->token.id;
    a->logprobs[i] = t->token.logprob;
    a->n_top[i] = t->n_top < RUN_MAX_TOP ? t->n_top : RUN_MAX_TOP;
    memcpy(a->top[i], t->top, (size_t)a->n_top[i] * sizeof *t->top);
}

static void take(struct event *ev)
{
    struct run *run = ev->job->ud;
    struct answer *a = &run->answers[ev->choice];
    if (ev->kind == EVENT_DONE || ev->kind == EVENT_FAILED) {
        run->is_done = true;
        run->has_failed = ev->kind == EVENT_FAILED;
        run->err = ev->err;
        return;
    }
    CHECK(!a->has_ended && a->text_len + ev->text_len < sizeof a->text);
    memcpy(a->text + a->text_len, ev->text, ev->text_len);
    a->text_len += ev->text_len;
    for (int i = 0; i < ev->n_tokens; i++)
        if (ev->kind == EVENT_TOKEN)
            add_token(a, &ev->tokens[i]);
        else
            a->prompt_logprobs[a->n_prompt_scores++] = ev->tokens[i].token.logprob;
    if (ev->kind == EVENT_TOKEN || ev->kind == EVENT_END)
        a->n_cached = ev->n_cached;
    if (ev->kind == EVENT_END) {
        a->has_ended = true;
        a->finish = ev->finish;
        a->stop_index = ev->stop_index;
        a->n_generated = ev->n_generated;
    }
}

void runner_wait_event(struct runner *r)
{
    pthread_mutex_lock(&r->lock);
    while (!r->n_wakes)
        pthread_cond_wait(&r->woken, &r->lock);
    r->n_wakes = 0;
    pthread_mutex_unlock(&r->lock);
    for (struct event *ev = engine_drain(r->engine), *next; ev; ev = next) {
        next = ev->next;
        take(ev);
        event_free(ev);
    }
}

void runner_wait(struct runner *r, struct run **runs, int n_runs)
{
    for (int i = 0; i < n_runs; i++)
        while (!runs[i]->is_done)
            runner_wait_event(r);
}

static bool same_bits(const float *a, const float *b, int n)
{
    return memcmp(a, b, (size_t)n * sizeof *a) == 0;
}

bool answer_equals(const struct answer *a, const struct answer *b)
{
    if (a->n_ids != b->n_ids || a->n_prompt_scores != b->n_prompt_scores || a->finish != b->finish ||
        a->stop_index != b->stop_index || a->text_len != b->text_len)
        return false;
    for (int i = 0; i < a->n_ids; i++)
        if (a->ids[i] != b->ids[i] || a->n_top[i] != b->n_top[i] ||
            memcmp(a->top[i], b->top[i], (size_t)a->n_top[i] * sizeof a->top[i][0]) != 0)
            return false;
    return same_bits(a->logprobs, b->logprobs, a->n_ids) &&
           same_bits(a->prompt_logprobs, b->prompt_logprobs, a->n_prompt_scores) &&
           memcmp(a->text, b->text, a->text_len) == 0;
}
