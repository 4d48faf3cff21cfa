/* The engine from outside: admission, cancelling, ends of answers, broken prefixes,
 * closing. */
#define _GNU_SOURCE /* memmem */
#include "core/engine.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#include "core/base/check.h"
#include "core/base/mem.h"
#include "core/kv_pool.h"
#include "tests/support/adapter_files.h"
#include "tests/support/run.h"
#include "tests/support/tiny.h"
#include "tests/test.h"

struct bench { /* a model, an engine and prompts */
    struct base_model *base;
    struct runner *runner;
    struct rng rng;
    int32_t *ids; /* 600 random tokens */
};

static void bench_open(struct bench *b, const char *model, struct engine_opts opts)
{
    *b = (struct bench){.base = tiny_open(model), .rng = {99}};
    b->runner = runner_new(b->base, opts);
    b->ids = tiny_ids(b->base, &b->rng, 600);
}

static void bench_close(struct bench *b)
{
    runner_free(b->runner);
    base_model_free(b->base);
    free(b->ids);
}

static struct engine_stats stats_of(const struct bench *b)
{
    struct engine_stats s;
    engine_stats(runner_engine(b->runner), &s);
    return s;
}

static struct run *post(struct bench *b, struct run *run)
{
    struct err err = {0};
    if (runner_post(b->runner, run, &err) < 0)
        test_fail(__FILE__, __LINE__, "%s", err.msg);
    return run;
}

static struct run *post_greedy(struct bench *b, int n_prompt, int max_tokens,
                               const struct kv_prefix *p)
{
    return post(b, run_new(b->ids, n_prompt, max_tokens, p));
}

static struct run *answer(struct bench *b, struct run *run)
{
    post(b, run);
    runner_wait(b->runner, &run, 1);
    return run;
}

static struct run *answer_greedy(struct bench *b, int n_prompt, int max_tokens,
                                 const struct kv_prefix *p)
{
    return answer(b, run_new(b->ids, n_prompt, max_tokens, p));
}

/* A compile call returns before its step has ended, and gauges are those of the last whole
 * step: one job later they are certain. */
static void expect_no_blocks(struct bench *b)
{
    run_free(answer_greedy(b, 1, 1, NULL));
    EXPECT_EQ(stats_of(b).kv_blocks_used, 0);
}

/* A refusal: the code, and words that its message must have. */
static void expect_refused(struct bench *b, struct run *run, enum err_code code,
                           const char *const *words)
{
    struct err err = {0};
    EXPECT_EQ(runner_post(b->runner, run, &err), -1);
    EXPECT_EQ(err.code, code);
    for (; *words; words++)
        if (!strstr(err.msg, *words))
            test_fail(__FILE__, __LINE__, "\"%s\" does not say \"%s\"", err.msg, *words);
    run_free(run);
}

#define WORDS(...)                                                                         \
    (const char *const[])                                                                  \
    {                                                                                      \
        __VA_ARGS__, NULL                                                                  \
    }

static void free_runs(struct run **runs, int n)
{
    for (int i = 0; i < n; i++)
        run_free(runs[i]);
}

/* ---- cancelling
 * ---------------------------------------------------------------------------------- */

TEST(engine_cancel_frees_a_running_job_within_a_step)
{
    struct bench b;
    bench_open(&b, TINY_GQA, (struct engine_opts){.n_threads = 2});
    runner_hold(b.runner);
    struct run *run = post_greedy(&b, 20, 200, NULL);
    runner_wait_event(b.runner);
    EXPECT_EQ(stats_of(&b).kv_blocks_used, 14);
    atomic_store(&run->job.cancelled, true);
    uint64_t before = stats_of(&b).steps;
    runner_release(b.runner);
    runner_wait(b.runner, &run, 1);
    EXPECT(!run->has_failed && !run->answers[0].has_ended);
    EXPECT_EQ(stats_of(&b).steps, before);
    EXPECT_EQ(stats_of(&b).kv_blocks_used, 0);
    EXPECT_EQ(stats_of(&b).running, 0);
    run_free(run);
    bench_close(&b);
}

TEST(engine_cancel_of_a_waiting_job_leaves_the_running_one_alone)
{
    struct bench b;
    bench_open(&b, TINY_GQA, (struct engine_opts){.n_threads = 1, .max_batch = 1});
    struct run *alone = answer_greedy(&b, 20, 40, NULL);
    runner_hold(b.runner);
    struct run *runs[2] = {post_greedy(&b, 20, 40, NULL)};
    runner_wait_event(b.runner);
    runs[1] = run_new(b.ids + 50, 8, 10, NULL);
    runs[1]->job.n = 3;
    post(&b, runs[1]);
    runner_step(b.runner);
    EXPECT_EQ(stats_of(&b).waiting, 3);
    atomic_store(&runs[1]->job.cancelled, true);
    runner_step(b.runner);
    EXPECT(runs[1]->is_done && !runs[1]->has_failed && !runs[0]->is_done);
    EXPECT_EQ(runs[1]->answers[0].n_ids, 0);
    EXPECT_EQ(stats_of(&b).waiting, 0);
    runner_release(b.runner);
    runner_wait(b.runner, runs, 2);
    EXPECT(answer_equals(&runs[0]->answers[0], &alone->answers[0]));
    free_runs(runs, 2);
    run_free(alone);
    bench_close(&b);
}

TEST(engine_cancel_takes_all_choices_of_a_job)
{
    struct bench b;
    bench_open(&b, TINY_GQA, (struct engine_opts){.n_threads = 1, .max_batch = 2});
    runner_hold(b.runner);
    struct run *run = run_new(b.ids, 8, 50, NULL); /* two run, three wait */
    run->job.n = 5;
    post(&b, run);
    runner_wait_event(b.runner);
    atomic_store(&run->job.cancelled, true);
    runner_release(b.runner);
    runner_wait(b.runner, &run, 1);
    EXPECT_EQ(stats_of(&b).kv_blocks_used, 0);
    EXPECT_EQ(stats_of(&b).running + stats_of(&b).waiting, 0);
    run_free(run);
    bench_close(&b);
}

/* ---- admission
 * ----------------------------------------------------------------------------------- */

TEST(engine_refuses_what_the_queue_does_not_hold)
{
    struct bench b;
    bench_open(&b, TINY_GQA,
               (struct engine_opts){.n_threads = 1, .max_batch = 1, .max_queue = 2});
    runner_hold(b.runner);
    struct run *runs[4] = {post_greedy(&b, 5, 5, NULL)};
    runner_wait_event(b.runner);
    runs[1] = post_greedy(&b, 5, 5, NULL);
    struct run *two = run_new(b.ids, 5, 5, NULL);
    two->job.n = 2;
    expect_refused(&b, two, ERR_QUEUE_FULL, WORDS("1 sequences wait", "holds 2"));
    runs[2] = post_greedy(&b, 5, 5, NULL);
    expect_refused(&b, run_new(b.ids, 5, 5, NULL), ERR_QUEUE_FULL,
                   WORDS("2 sequences wait"));
    runner_release(b.runner);
    runner_wait(b.runner, runs, 3);
    runs[3] = answer_greedy(&b, 5, 5, NULL); /* and takes work again */
    for (int i = 0; i < 3; i++)
        EXPECT(answer_equals(&runs[i]->answers[0], &runs[3]->answers[0]));
    free_runs(runs, 4);
    bench_close(&b);
}

TEST(engine_refuses_what_exceeds_the_context_with_the_numbers)
{
    struct bench b;
    bench_open(&b, TINY_GQA, (struct engine_opts){.n_threads = 1, .max_ctx = 64});
    struct kv_prefix *p = tiny_prefix(b.base, &b.rng, 10);
    EXPECT_EQ(engine_max_ctx(runner_engine(b.runner)), 64);
    expect_refused(
        &b, run_new(b.ids, 40, 25, NULL), ERR_CONTEXT,
        WORDS("64 tokens", "needs 65", "0 virtual", "40 prompt", "25 max_tokens"));
    expect_refused(&b, run_new(b.ids, 40, 15, p), ERR_CONTEXT,
                   WORDS("needs 65", "10 virtual"));
    expect_refused(&b, run_new(b.ids, 1, INT32_MAX, p), ERR_CONTEXT,
                   WORDS("2147483647 max_tokens"));
    struct run *fits = answer_greedy(&b, 40, 14, p);
    EXPECT_EQ(fits->answers[0].n_ids, 14);
    run_free(fits);
    kv_prefix_free(p);
    bench_close(&b);
}

TEST(engine_refuses_tokens_that_are_none)
{
    struct bench b;
    bench_open(&b, TINY_GQA, (struct engine_opts){.n_threads = 1});
    int32_t bad[2][2] = {{3, -1}, {base_model_shape(b.base)->vocab, 3}};
    for (int i = 0; i < 2; i++)
        expect_refused(&b, run_new(bad[i], 2, 5, NULL), ERR_INVALID,
                       WORDS("vocabulary of 320"));
    expect_refused(&b, run_new(bad[0], 0, 5, NULL), ERR_INVALID, WORDS("empty"));
    bench_close(&b);
}

static size_t block_bytes(const char *model)
{
    struct bench b;
    bench_open(&b, model, (struct engine_opts){.n_threads = 1});
    size_t bytes = stats_of(&b).kv_block_bytes;
    bench_close(&b);
    return bytes;
}

TEST(engine_refuses_what_never_fits_the_pool)
{
    struct bench b;
    size_t bytes = 4 * block_bytes(TINY_GQA);
    bench_open(&b, TINY_GQA,
               (struct engine_opts){.n_threads = 1, .max_ctx = 256, .kv_bytes = bytes});
    EXPECT_EQ(stats_of(&b).kv_blocks_total, 4);
    expect_refused(
        &b, run_new(b.ids, 40, 25, NULL), ERR_CONTEXT,
        WORDS("5 KV blocks of 16", "40 prompt tokens + 25 max_tokens", "pool has 4"));
    struct run *run = answer_greedy(&b, 40, 24, NULL);
    EXPECT_EQ(run->answers[0].n_ids, 24);
    run_free(run);
    bench_close(&b);
}

TEST(engine_bounds_the_default_context_by_the_pool)
{
    struct bench b;
    size_t bytes = 3 * block_bytes(TINY_GQA);
    bench_open(&b, TINY_GQA, (struct engine_opts){.n_threads = 1, .kv_bytes = bytes + 5});
    EXPECT_EQ(engine_max_ctx(runner_engine(b.runner)), 48);
    bench_close(&b);
}

TEST(engine_open_names_wrong_options)
{
    struct err err = {0};
    struct base_model *m = tiny_open(TINY_GQA);
    EXPECT(!engine_open(m, &(struct engine_opts){.max_ctx = 257}, &err));
    EXPECT(strstr(err.msg, "ctx 257") && strstr(err.msg, "256"));
    EXPECT(!engine_open(m, &(struct engine_opts){.kv_bytes = 100}, &err));
    EXPECT(strstr(err.msg, "kv-bytes 100") != NULL);
    base_model_free(m);
}

/* Three of four blocks are taken; the next needs two and waits; the last would fit but came
 * later. */
TEST(engine_lets_wait_what_fits_later_first_come_first_served)
{
    struct bench b;
    size_t bytes = 4 * block_bytes(TINY_GQA);
    bench_open(&b, TINY_GQA,
               (struct engine_opts){.n_threads = 1, .max_ctx = 256, .kv_bytes = bytes});
    runner_hold(b.runner);
    struct run *runs[3] = {post_greedy(&b, 30, 10, NULL)};
    runner_wait_event(b.runner);
    runs[1] = post_greedy(&b, 10, 12, NULL);
    runs[2] = post_greedy(&b, 4, 3, NULL);
    runner_step(b.runner);
    EXPECT_EQ(stats_of(&b).running, 1);
    EXPECT_EQ(stats_of(&b).waiting, 2);
    while (!runs[0]->is_done) {
        runner_step(b.runner);
        EXPECT(runs[1]->answers[0].n_ids == 0 && runs[2]->answers[0].n_ids == 0);
    }
    runner_step(b.runner);
    EXPECT(runs[1]->answers[0].n_ids == 1 && runs[2]->answers[0].n_ids == 1);
    EXPECT_EQ(stats_of(&b).kv_blocks_used, 3);
    runner_release(b.runner);
    runner_wait(b.runner, runs, 3);
    EXPECT_EQ(stats_of(&b).kv_blocks_used, 0);
    free_runs(runs, 3);
    bench_close(&b);
}

/* ---- prompt scores
 * ------------------------------------------------------------------------------- */

TEST(engine_scores_a_prompt_without_generating)
{
    struct bench b;
    bench_open(&b, TINY_GQA, (struct engine_opts){.n_threads = 2, .prefill_chunk = 7});
    struct run *run = run_new(b.ids, 30, 0, NULL);
    run->job.is_echo = true;
    answer(&b, run);
    const struct answer *a = &run->answers[0];
    EXPECT_EQ(a->n_prompt_scores, 30);
    EXPECT(a->prompt_logprobs[0] != a->prompt_logprobs[0]);
    for (int i = 1; i < 30; i++)
        EXPECT(a->prompt_logprobs[i] < 0);
    EXPECT(a->has_ended && a->n_ids == 0 && a->n_generated == 0 &&
           a->finish == FINISH_LENGTH);
    EXPECT_EQ(stats_of(&b).generated_tokens, 0);
    run_free(run);
    bench_close(&b);
}

/* What was generated, put into the prompt, is scored as it was when it was generated: bit
 * for bit. */
TEST(engine_scores_a_prompt_as_it_generated_it)
{
    struct bench b;
    bench_open(&b, TINY_DEMO, (struct engine_opts){.n_threads = 2, .prefill_chunk = 16});
    struct kv_prefix *p = tiny_prefix(b.base, &b.rng, 20);
    struct run *made = answer_greedy(&b, 25, 30, p);
    int32_t both[55];
    memcpy(both, b.ids, 25 * sizeof *both);
    memcpy(both + 25, made->answers[0].ids, 30 * sizeof *both);
    struct run *scored = run_new(both, 55, 0, p);
    scored->job.is_echo = true;
    answer(&b, scored);
    EXPECT_EQ(scored->answers[0].n_prompt_scores, 55);
    EXPECT(memcmp(scored->answers[0].prompt_logprobs + 25, made->answers[0].logprobs,
                  30 * sizeof(float)) == 0);
    run_free(made);
    run_free(scored);
    kv_prefix_free(p);
    bench_close(&b);
}

TEST(engine_logprobs_are_those_of_a_distribution)
{
    struct bench b;
    bench_open(&b, TINY_GQA, (struct engine_opts){.n_threads = 1});
    struct run *run = answer_greedy(&b, 9, 20, NULL);
    const struct answer *a = &run->answers[0];
    for (int i = 0; i < a->n_ids; i++) {
        double sum = 0;
        for (int t = 0; t < a->n_top[i]; t++) {
            sum += exp((double)a->top[i][t].logprob);
            EXPECT(t == 0 || a->top[i][t].logprob <= a->top[i][t - 1].logprob);
        }
        EXPECT(a->n_top[i] == 5 && sum <= 1 && a->top[i][0].id == a->ids[i]);
        EXPECT(a->top[i][0].logprob == a->logprobs[i]);
    }
    run_free(run);
    bench_close(&b);
}

/* ---- ends of answers: EOS
 * ------------------------------------------------------------------------ */

enum { EOS_CHOICES = 100, EOS_TOKENS = 30 };

static struct run *hot_run(struct bench *b, int n)
{
    struct run *run = run_new(b->ids, 4, EOS_TOKENS, NULL);
    run->job.n = n;
    run->job.sampling = (struct sampling){.temperature = 50, .top_p = 1, .seed = 3};
    return run;
}

static int eos_place(const struct bench *b, const struct answer *a)
{
    for (int i = 0; i < a->n_ids; i++)
        if (base_model_is_eos(b->base, a->ids[i]))
            return i;
    return -1;
}

/* The very hot answers of one job, most of which hit EOS nowhere and some somewhere. */
static struct run *hot_answers(struct bench *b)
{
    struct run *run = answer(b, hot_run(b, EOS_CHOICES));
    int n = 0;
    for (int c = 0; c < EOS_CHOICES; c++)
        n += eos_place(b, &run->answers[c]) >= 3;
    EXPECT(n >= 3);
    return run;
}

TEST(engine_goes_on_after_eos_only_if_told_so)
{
    struct bench b;
    bench_open(&b, TINY_GQA, (struct engine_opts){.n_threads = 1});
    struct run *on = hot_answers(&b), *stops = hot_run(&b, EOS_CHOICES);
    stops->job.ignore_eos = false;
    answer(&b, stops);
    for (int c = 0; c < EOS_CHOICES; c++) {
        const struct answer *x = &on->answers[c], *y = &stops->answers[c];
        int at = eos_place(&b, x), n = at < 0 ? EOS_TOKENS : at + 1;
        EXPECT_EQ(x->n_ids, EOS_TOKENS);
        EXPECT_EQ(y->n_ids, n); /* EOS counts and is among the tokens */
        EXPECT_EQ(y->n_generated, n);
        EXPECT_EQ(y->finish, at < 0 ? FINISH_LENGTH : FINISH_STOP);
        EXPECT_EQ(y->stop_index, -1);
        EXPECT(memcmp(x->ids, y->ids, (size_t)n * sizeof *x->ids) == 0);
        EXPECT(y->text_len <= x->text_len && memcmp(x->text, y->text, y->text_len) == 0);
    }
    run_free(on);
    run_free(stops);
    bench_close(&b);
}

TEST(engine_makes_no_eos_before_min_tokens)
{
    struct bench b;
    bench_open(&b, TINY_GQA, (struct engine_opts){.n_threads = 1});
    struct run *free_run = hot_answers(&b), *held = hot_run(&b, EOS_CHOICES);
    held->job.ignore_eos = false;
    held->job.min_tokens = 20;
    answer(&b, held);
    for (int c = 0; c < EOS_CHOICES; c++) {
        const struct answer *x = &free_run->answers[c], *y = &held->answers[c];
        EXPECT(y->n_ids >= 20);
        EXPECT(eos_place(&b, y) < 0 || eos_place(&b, y) >= 20);
        /* scores are those of the raw logits, whatever was forbidden */
        EXPECT(x->ids[0] != y->ids[0] || x->logprobs[0] == y->logprobs[0]);
        EXPECT(memcmp(x->top[0], y->top[0], sizeof x->top[0]) == 0);
    }
    run_free(free_run);
    run_free(held);
    bench_close(&b);
}

/* A copy of the model whose configuration names an ordinary token as another EOS. */
static char *model_with_eos(int32_t id)
{
    static const char *const files[] = {"config.json", "tokenizer.json",
                                        "model.safetensors"};
    char *dir = adapter_files_tmp_dir(), *model = test_path(TINY_GQA), text[64];
    for (int i = 0; i < 3; i++) {
        char from[512], to[512];
        snprintf(from, sizeof from, "%s/%s", model, files[i]);
        snprintf(to, sizeof to, "%s/%s", dir, files[i]);
        char *absolute = realpath(from, NULL);
        CHECK(absolute && symlink(absolute, to) == 0);
        free(absolute);
    }
    snprintf(text, sizeof text, "{\"eos_token_id\": [319, %d]}", id);
    adapter_files_write(dir, "generation_config.json", text, strlen(text));
    free(model);
    return dir;
}

static void expect_text_of(struct bench *b, const struct answer *a, int n_tokens)
{
    struct buf text = {0};
    struct detok *d = detok_new(base_model_tokenizer(b->base), b->ids, 4);
    for (int i = 0; i < n_tokens; i++)
        detok_feed(d, a->ids[i], &text);
    detok_end(d, &text);
    detok_free(d);
    EXPECT(text.len == a->text_len && memcmp(text.data, a->text, text.len) == 0);
    buf_free(&text);
}

TEST(engine_shows_no_text_of_an_eos_that_is_no_special_token)
{
    enum { ORDINARY = 65 };
    struct bench b = {.rng = {99}};
    struct err err = {0};
    char *dir = model_with_eos(ORDINARY);
    int n = 0;
    b.base = base_model_open(dir, DTYPE_CHOICE_AUTO, &err);
    ASSERT(b.base != NULL);
    b.runner = runner_new(b.base, (struct engine_opts){.n_threads = 1});
    b.ids = tiny_ids(b.base, &b.rng, 600);
    struct run *run = hot_run(&b, EOS_CHOICES);
    run->job.ignore_eos = false;
    answer(&b, run);
    for (int c = 0; c < EOS_CHOICES; c++) {
        const struct answer *a = &run->answers[c];
        if (a->ids[a->n_ids - 1] != ORDINARY)
            continue;
        EXPECT_EQ(a->finish, FINISH_STOP);
        expect_text_of(&b, a, a->n_ids - 1);
        n++;
    }
    EXPECT(n >= 2);
    run_free(run);
    bench_close(&b);
    adapter_files_remove_dir(dir);
    free(dir);
}

/* ---- ends of answers: stop strings
 * --------------------------------------------------------------- */

static struct run *english(struct bench *b, int max_tokens)
{
    struct token_list l = {0};
    struct err err = {0};
    const char *text = "Shall I compare thee to a summer's day? ";
    EXPECT_EQ(
        tokenizer_encode(base_model_tokenizer(b->base), text, strlen(text), 0, &l, &err),
        0);
    memcpy(b->ids, l.ids, l.n * sizeof *l.ids);
    struct run *run = run_new(b->ids, (int)l.n, max_tokens, NULL);
    token_list_free(&l);
    return run;
}

/* The length of the text that the first n tokens of the answer make, as streaming showed
 * it. */
static size_t text_of_tokens(struct bench *b, const struct run *run, int n, struct buf *out)
{
    struct detok *d =
        detok_new(base_model_tokenizer(b->base), b->ids, (size_t)run->prompt.n_ids);
    for (int i = 0; i < n; i++)
        detok_feed(d, run->answers[0].ids[i], out);
    detok_free(d);
    return out->len;
}

static void expect_stopped(struct bench *b, const struct run *whole, const struct run *cut,
                           int index)
{
    const struct answer *w = &whole->answers[0], *c = &cut->answers[0];
    const struct job_stop *st = &cut->job.stops[index];
    const char *at = memmem(w->text, w->text_len, st->text, st->len);
    EXPECT_EQ(c->finish, FINISH_STOP);
    EXPECT_EQ(c->stop_index, index);
    EXPECT(at && c->text_len == (size_t)(at - w->text) &&
           memcmp(c->text, w->text, c->text_len) == 0);
    EXPECT(c->n_ids == c->n_generated &&
           memcmp(c->ids, w->ids, (size_t)c->n_ids * sizeof *c->ids) == 0);
    struct buf text = {0}; /* it ended with the very token that completed the string */
    EXPECT(text_of_tokens(b, whole, c->n_ids, &text) >= c->text_len + st->len);
    buf_clear(&text);
    EXPECT(text_of_tokens(b, whole, c->n_ids - 1, &text) < c->text_len + st->len);
    buf_free(&text);
}

static struct run *stopped_run(struct bench *b, const struct job_stop *stops, int n)
{
    struct run *run = english(b, 40);
    memcpy(run->job.stops, stops, (size_t)n * sizeof *stops);
    run->job.n_stops = n;
    return answer(b, run);
}

TEST(engine_stops_at_a_string_wherever_it_lies)
{
    struct bench b;
    bench_open(&b, TINY_DEMO, (struct engine_opts){.n_threads = 1});
    struct run *whole = answer(&b, english(&b, 40));
    const struct answer *w = &whole->answers[0];
    ASSERT(w->text_len > 60);
    for (size_t at = 0; at < 50; at += 3)
        for (size_t len = 1; len <= 10; len += 3) { /* inside one token, and over several */
            struct job_stop stop = {w->text + at, len};
            struct run *cut = stopped_run(&b, &stop, 1);
            expect_stopped(&b, whole, cut, 0);
            run_free(cut);
        }
    run_free(whole);
    bench_close(&b);
}

TEST(engine_stops_at_the_string_that_is_complete_first)
{
    struct bench b;
    bench_open(&b, TINY_DEMO, (struct engine_opts){.n_threads = 1});
    struct run *whole = answer(&b, english(&b, 40));
    const char *text = whole->answers[0].text;
    ASSERT(whole->answers[0].text_len > 60);
    struct job_stop stops[3] = {{text + 30, 12}, {text + 9, 9}, {text + 22, 9}};
    struct run *cut = stopped_run(&b, stops, 3);
    expect_stopped(&b, whole, cut, 1);
    run_free(cut);
    run_free(whole);
    bench_close(&b);
}

TEST(engine_gives_back_what_it_held_for_a_stop_string_that_never_came)
{
    struct bench b;
    bench_open(&b, TINY_DEMO, (struct engine_opts){.n_threads = 1});
    struct run *whole = answer(&b, english(&b, 40));
    const struct answer *w = &whole->answers[0];
    ASSERT(w->text_len > 60);
    char almost[24];
    memcpy(almost, w->text + w->text_len - 20, 20);
    memcpy(almost + 20, "\x01zz", 3);
    struct job_stop stop = {almost, 23};
    struct run *held = stopped_run(&b, &stop, 1);
    EXPECT(answer_equals(&held->answers[0], w));
    EXPECT_EQ(held->answers[0].finish, FINISH_LENGTH);
    run_free(held);
    run_free(whole);
    bench_close(&b);
}

/* ---- choices
 * ------------------------------------------------------------------------------------- */

static struct run *three(struct bench *b, uint64_t seed)
{
    struct run *run = run_new(b->ids, 12, 16, NULL);
    run->job.n = 3;
    run->job.sampling = (struct sampling){.temperature = 1.5f, .top_p = 1, .seed = seed};
    return answer(b, run);
}

TEST(engine_seeded_choices_differ_and_repeat)
{
    struct bench b;
    bench_open(&b, TINY_GQA, (struct engine_opts){.n_threads = 2});
    struct run *x = three(&b, 5), *again = three(&b, 5), *other = three(&b, 6);
    for (int c = 0; c < 3; c++) {
        EXPECT(answer_equals(&x->answers[c], &again->answers[c]));
        EXPECT(!answer_equals(&x->answers[c], &x->answers[(c + 1) % 3]));
        EXPECT(!answer_equals(&x->answers[c], &other->answers[c]));
    }
    run_free(x);
    run_free(again);
    run_free(other);
    bench_close(&b);
}

/* The noise belongs to the choice within its prompt, so a list of prompts is as each prompt
 * alone. */
TEST(engine_list_of_prompts_is_as_each_alone)
{
    struct bench b;
    bench_open(&b, TINY_GQA, (struct engine_opts){.n_threads = 1, .max_batch = 3});
    struct job_prompt prompts[2] = {{b.ids + 100, 30}, {b.ids, 12}};
    struct run *alone = three(&b, 5), *list = run_new(b.ids, 1, 16, NULL);
    list->job = alone->job;
    list->job.ud = list;
    list->job.prompts = prompts;
    list->job.n_prompts = 2;
    answer(&b, list);
    for (int c = 0; c < 3; c++)
        EXPECT(answer_equals(&list->answers[3 + c], &alone->answers[c]));
    run_free(alone);
    run_free(list);
    bench_close(&b);
}

/* ---- broken prefixes
 * ----------------------------------------------------------------------------- */

static void poison(const struct kv_prefix *p)
{
    union {
        const void *c;
        float *m;
    } v = {p->v};
    v.m[3] = NAN;
}

TEST(engine_broken_prefix_fails_its_own_jobs_alone)
{
    struct bench b;
    bench_open(&b, TINY_GQA, (struct engine_opts){.n_threads = 2});
    struct kv_prefix *fine = tiny_prefix(b.base, &b.rng, 20),
                     *broken = tiny_prefix(b.base, &b.rng, 20);
    poison(broken);
    struct run *alone = answer_greedy(&b, 40, 30, fine);
    runner_hold(b.runner);
    struct run *runs[4] = {post_greedy(&b, 40, 30, fine)};
    runner_wait_event(b.runner);
    runs[1] =
        run_new(b.ids, 9, 30, broken); /* fails with several choices in the same step */
    runs[1]->job.n = 3;
    post(&b, runs[1]);
    runs[2] = post_greedy(&b, 40, 30, fine);
    runs[3] = run_new(b.ids, 9, 0, broken);
    runs[3]->job.is_echo = true;
    post(&b, runs[3]);
    runner_release(b.runner);
    runner_wait(b.runner, runs, 4);
    EXPECT(runs[1]->has_failed && runs[1]->err.code == ERR_INTERNAL && runs[3]->has_failed);
    EXPECT(!runs[0]->has_failed && answer_equals(&runs[0]->answers[0], &alone->answers[0]));
    EXPECT(!runs[2]->has_failed && answer_equals(&runs[2]->answers[0], &alone->answers[0]));
    EXPECT_EQ(stats_of(&b).kv_blocks_used, 0);
    free_runs(runs, 4);
    run_free(alone);
    kv_prefix_free(fine);
    kv_prefix_free(broken);
    bench_close(&b);
}

TEST(engine_refuses_soft_prompts_that_are_not_finite)
{
    struct bench b;
    struct err err = {0};
    bench_open(&b, TINY_GQA, (struct engine_opts){.n_threads = 1});
    size_t n = (size_t)(5 * base_model_shape(b.base)->dim);
    float *rows = xcalloc(n, sizeof *rows);
    rng_fill(&b.rng, rows, n, 1);
    rows[n - 1] = INFINITY;
    EXPECT(!engine_prefix_from_rows(runner_engine(b.runner), 0, rows, 5, &err));
    EXPECT_EQ(err.code, ERR_ADAPTER);
    EXPECT(!engine_prefix_from_rows(runner_engine(b.runner), 0, rows, 257, &err));
    EXPECT(strstr(err.msg, "257 virtual tokens") && strstr(err.msg, "256"));
    expect_no_blocks(&b);
    free(rows);
    bench_close(&b);
}

/* ---- figures
 * ------------------------------------------------------------------------------------- */

static void expect_grown(const struct engine_stats *a, const struct engine_stats *b,
                         int reads, int rows, int prefill, int decode)
{
    EXPECT_EQ(b->steps - a->steps, 1);
    EXPECT_EQ(b->prefix_reads - a->prefix_reads, reads);
    EXPECT_EQ(b->prefix_rows - a->prefix_rows, rows);
    EXPECT_EQ(b->prefill_rows - a->prefill_rows, prefill);
    EXPECT_EQ(b->decode_rows - a->decode_rows, decode);
    EXPECT_EQ(b->generated_tokens - a->generated_tokens, 7);
}

TEST(engine_reads_a_prefix_once_per_step_however_many_share_it)
{
    struct bench b;
    bench_open(&b, TINY_GQA, (struct engine_opts){.n_threads = 1, .step_target_ms = -1});
    struct kv_prefix *p[2] = {tiny_prefix(b.base, &b.rng, 40),
                              tiny_prefix(b.base, &b.rng, 3)};
    runner_hold(b.runner);
    struct run *runs[7] = {post_greedy(&b, 4, 20, NULL)};
    runner_wait_event(b.runner);
    for (int i = 1; i < 7; i++)
        runs[i] = post_greedy(&b, 3, 20, p[i % 3 == 0]); /* four share one, two the other */
    struct engine_stats before = stats_of(&b);
    runner_step(b.runner);
    struct engine_stats prefilled = stats_of(&b);
    expect_grown(&before, &prefilled, 2, 18, 18, 1);
    runner_step(b.runner);
    struct engine_stats decoded = stats_of(&b);
    expect_grown(&prefilled, &decoded, 2, 6, 0, 7);
    runner_release(b.runner);
    runner_wait(b.runner, runs, 7);
    free_runs(runs, 7);
    kv_prefix_free(p[0]);
    kv_prefix_free(p[1]);
    bench_close(&b);
}

TEST(engine_computes_no_rows_for_a_prefix)
{
    struct bench b;
    bench_open(&b, TINY_DEMO, (struct engine_opts){.n_threads = 2});
    struct kv_prefix *p = tiny_prefix(b.base, &b.rng, 512);
    uint64_t rows[2], steps[2];
    for (int i = 0; i < 2; i++) {
        struct engine_stats before = stats_of(&b);
        struct run *run = answer_greedy(&b, 70, 3, i ? p : NULL);
        struct engine_stats after = stats_of(&b);
        rows[i] = after.prefill_rows - before.prefill_rows;
        steps[i] = after.steps - before.steps;
        run_free(run);
    }
    EXPECT_EQ(rows[0], 70);
    EXPECT_EQ(rows[1], 70);
    EXPECT_EQ(steps[0], steps[1]);
    kv_prefix_free(p);
    bench_close(&b);
}

TEST(engine_counts_rows_of_compiling_apart)
{
    struct bench b;
    struct err err = {0};
    bench_open(&b, TINY_GQA, (struct engine_opts){.n_threads = 1, .prefill_chunk = 16});
    struct kv_prefix *p =
        engine_prefix_from_tokens(runner_engine(b.runner), 0, b.ids, 50, &err);
    ASSERT(p != NULL);
    EXPECT(p->n_tokens == 50 && p->first_pos == 50 && p->n_tiles == 4);
    EXPECT_EQ(stats_of(&b).compile_rows, 50);
    EXPECT_EQ(stats_of(&b).prefill_rows, 0);
    EXPECT_EQ(stats_of(&b).steps, 4);
    expect_no_blocks(&b);
    kv_prefix_free(p);
    bench_close(&b);
}

/* ---- pace
 * ---------------------------------------------------------------------------------------- */

/* Prompt rows of the first two steps beside a sequence that decodes. */
static int rows_beside_decoding(int target_ms)
{
    struct bench b;
    bench_open(&b, TINY_DEMO, (struct engine_opts){.n_threads = 1, .step_target_ms = target_ms});
    runner_hold(b.runner);
    struct run *runs[2] = {post_greedy(&b, 1, 400, NULL)};
    runner_wait_event(b.runner);
    int before = (int)stats_of(&b).prefill_rows;
    runs[1] = post_greedy(&b, 500, 1, NULL);
    runner_step(b.runner);
    runner_step(b.runner);
    int rows = (int)stats_of(&b).prefill_rows - before;
    runner_release(b.runner);
    runner_wait(b.runner, runs, 2);
    free_runs(runs, 2);
    bench_close(&b);
    return rows;
}

TEST(engine_spares_those_who_decode)
{
    EXPECT_EQ(rows_beside_decoding(-1), 500);
    int n = rows_beside_decoding(0);
    EXPECT(n >= 20 && n <= 10 + 20); /* the least, then at most twice that */
}

/* ---- closing
 * ------------------------------------------------------------------------------------- */

struct compiling {
    struct bench *b;
    struct kv_prefix *made;
    struct err err;
};

static void *compile_main(void *ud)
{
    struct compiling *c = ud;
    c->made =
        engine_prefix_from_tokens(runner_engine(c->b->runner), 0, c->b->ids, 600, &c->err);
    return NULL;
}

TEST(engine_close_ends_running_waiting_and_compiling)
{
    struct bench b;
    bench_open(&b, TINY_DEMO,
               (struct engine_opts){.n_threads = 2, .max_batch = 1, .prefill_chunk = 1});
    struct compiling c = {.b = &b};
    pthread_t thread;
    runner_hold(b.runner);
    struct run *runs[3] = {post_greedy(&b, 1, 500, NULL)};
    runner_wait_event(b.runner);
    CHECK(pthread_create(&thread, NULL, compile_main, &c) == 0);
    while (stats_of(&b).compile_rows < 2)
        runner_step(b.runner);
    runs[1] = post_greedy(&b, 5, 5, NULL); /* in the queue: the one place is taken */
    runner_step(b.runner);
    EXPECT_EQ(stats_of(&b).waiting, 1);
    runs[2] = post_greedy(&b, 5, 5, NULL); /* still in the inbox */
    runner_release(b.runner);
    engine_close(runner_engine(b.runner));
    CHECK(pthread_join(thread, NULL) == 0);
    EXPECT(!c.made && c.err.code == ERR_CLOSING);
    runner_wait(b.runner, runs, 3);
    for (int i = 0; i < 3; i++)
        EXPECT(!runs[i]->has_failed && !runs[i]->answers[0].has_ended);
    EXPECT_EQ(stats_of(&b).kv_blocks_used, 0);
    expect_refused(&b, run_new(b.ids, 5, 5, NULL), ERR_CLOSING, WORDS("shutting down"));
    struct err err = {0};
    EXPECT(!engine_prefix_from_tokens(runner_engine(b.runner), 0, b.ids, 5, &err));
    EXPECT_EQ(err.code, ERR_CLOSING);
    free_runs(runs, 3);
    bench_close(&b);
}

/* All places and all blocks are taken, and a queue waits: an adapter is compiled all the same. */
TEST(engine_compiles_beside_whatever_waits)
{
    struct bench b;
    struct engine_opts opts = {.n_threads = 2, .max_batch = 1, .max_ctx = 512};
    opts.kv_bytes = kv_pool_block_bytes(base_model_shape((b.base = tiny_open(TINY_DEMO)))) * 20;
    base_model_free(b.base);
    bench_open(&b, TINY_DEMO, opts);
    enum { QUEUE = 40 };
    struct run *runs[QUEUE];
    for (int i = 0; i < QUEUE; i++)
        runs[i] = post_greedy(&b, 20, 300, NULL); /* all 20 blocks each */
    struct err err = {0};
    struct kv_prefix *p = engine_prefix_from_tokens(runner_engine(b.runner), 0, b.ids, 400, &err);
    EXPECT(p != NULL);
    struct engine_stats s = stats_of(&b);
    EXPECT(s.waiting >= 2); /* long before they are through */
    EXPECT_EQ(s.kv_blocks_total, 20);
    for (int i = 0; i < QUEUE; i++)
        atomic_store(&runs[i]->job.cancelled, true);
    runner_wait(b.runner, runs, QUEUE);
    expect_no_blocks(&b);
    kv_prefix_free(p);
    free_runs(runs, QUEUE);
    bench_close(&b);
}

/* One request of many choices does not stand before all that come after it. */
TEST(engine_lets_jobs_take_turns)
{
    struct bench b;
    bench_open(&b, TINY_DEMO, (struct engine_opts){.n_threads = 1, .max_batch = 2});
    struct run *big = run_new(b.ids, 4, 40, NULL);
    big->job.n = 40;
    runner_hold(b.runner);
    post(&b, big);
    runner_wait_event(b.runner);
    struct run *small = post_greedy(&b, 4, 2, NULL);
    while (!small->is_done)
        runner_step(b.runner);
    EXPECT(!big->is_done);
    int n_ended = 0;
    for (int c = 0; c < 40; c++)
        n_ended += big->answers[c].has_ended;
    EXPECT(n_ended <= 4); /* what ran when it came, and one more turn */
    atomic_store(&big->job.cancelled, true);
    runner_release(b.runner);
    runner_wait(b.runner, &big, 1);
    run_free(big);
    run_free(small);
    bench_close(&b);
}

TEST(engine_heeds_no_stop_string_before_min_tokens)
{
    struct bench b;
    bench_open(&b, TINY_DEMO, (struct engine_opts){.n_threads = 1});
    struct run *all = answer_greedy(&b, 8, 24, NULL), *held = run_new(b.ids, 8, 24, NULL);
    held->job.stops[0] = (struct job_stop){all->answers[0].text, 1}; /* its very first letter */
    held->job.n_stops = 1;
    held->job.min_tokens = 12;
    answer(&b, held);
    const struct answer *x = &all->answers[0], *y = &held->answers[0];
    EXPECT(y->n_ids > 12 && y->text_len > 0); /* the early one is passed on */
    EXPECT(memcmp(x->text, y->text, y->text_len) == 0);
    run_free(all);
    run_free(held);
    bench_close(&b);
}

TEST(engine_close_of_an_idle_engine_returns)
{
    struct bench b;
    bench_open(&b, TINY_GQA, (struct engine_opts){.n_threads = 3});
    engine_close(runner_engine(b.runner));
    engine_close(runner_engine(b.runner)); /* and a second time does nothing */
    EXPECT(engine_drain(runner_engine(b.runner)) == NULL);
    bench_close(&b);
}
