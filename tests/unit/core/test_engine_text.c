/* The text cache from outside: what is computed again and what is not, for whom, and that no bit of
 * an answer tells the difference. */
#include "core/engine.h"

#include <stdlib.h>
#include <string.h>

#include "core/base/check.h"
#include "core/kv_pool.h"
#include "tests/support/run.h"
#include "tests/support/tiny.h"
#include "tests/test.h"

enum { MAX_IDS = 256 };

struct bench { /* the same model with a cache and without */
    struct base_model *base;
    struct runner *runner, *plain;
    struct rng rng;
    int32_t ids[MAX_IDS];
    int n;
};

static void bench_open(struct bench *b, struct engine_opts opts)
{
    *b = (struct bench){.base = tiny_open(TINY_GQA), .rng = {5}};
    b->runner = runner_new(b->base, opts);
    b->plain = runner_new(b->base, (struct engine_opts){.n_threads = 1, .no_text_cache = true});
    int32_t *ids = tiny_ids(b->base, &b->rng, MAX_IDS);
    memcpy(b->ids, ids, sizeof b->ids);
    free(ids);
}

static void bench_close(struct bench *b)
{
    runner_free(b->runner);
    runner_free(b->plain);
    base_model_free(b->base);
}

static struct engine_stats stats_of(struct runner *r)
{
    struct engine_stats s;
    engine_stats(runner_engine(r), &s);
    return s;
}

static struct run *post(struct runner *r, struct run *run)
{
    struct err err = {0};
    if (runner_post(r, run, &err) < 0)
        test_fail(__FILE__, __LINE__, "%s", err.msg);
    return run;
}

static struct run *answer(struct runner *r, struct run *run)
{
    post(r, run);
    runner_wait(r, &run, 1);
    return run;
}

/* Answers with the cache, and without it to the same; how many tokens were cached. */
static int ask(struct bench *b, uint32_t domain, const int32_t *ids, int n,
               const struct kv_prefix *p)
{
    struct run *run = run_new(ids, n, 8, p), *plain = run_new(ids, n, 8, p);
    run->job.domain = plain->job.domain = domain;
    answer(b->runner, run);
    answer(b->plain, plain);
    EXPECT(answer_equals(&run->answers[0], &plain->answers[0]));
    EXPECT_EQ(plain->answers[0].n_cached, 0);
    int n_cached = run->answers[0].n_cached;
    run_free(run);
    run_free(plain);
    return n_cached;
}

TEST(text_cache_of_an_engine_computes_a_follow_up_from_where_it_is_new)
{
    struct bench b;
    bench_open(&b, (struct engine_opts){.n_threads = 2});
    struct run *first = answer(b.runner, run_new(b.ids, 40, 30, NULL));
    EXPECT_EQ(first->answers[0].n_cached, 0);
    memcpy(b.ids + 40, first->answers[0].ids, 30 * sizeof *b.ids); /* 69 of 70 were computed */
    struct engine_stats before = stats_of(b.runner);
    EXPECT_EQ(ask(&b, 0, b.ids, 90, NULL), 64);
    struct engine_stats after = stats_of(b.runner);
    EXPECT_EQ(after.prefill_rows - before.prefill_rows, 26);
    EXPECT_EQ(after.text_asked - before.text_asked, 90);
    EXPECT_EQ(after.text_found - before.text_found, 64);
    EXPECT_EQ(after.kv_blocks_used, 0);
    EXPECT_EQ(after.kv_blocks_cached, 6); /* of 97 tokens, once */
    b.ids[20]++;
    EXPECT_EQ(ask(&b, 0, b.ids, 90, NULL), 16);
    EXPECT_EQ(ask(&b, 0, b.ids + 16, 60, NULL), 0); /* equal tokens elsewhere */
    run_free(first);
    bench_close(&b);
}

TEST(text_cache_of_an_engine_is_private_to_domain_and_prefix)
{
    struct bench b;
    bench_open(&b, (struct engine_opts){.n_threads = 1});
    struct rng again = {8}, other = {9};
    struct kv_prefix *p = tiny_prefix(b.base, &(struct rng){8}, 20);
    EXPECT_EQ(ask(&b, 1, b.ids, 50, p), 0);
    EXPECT_EQ(ask(&b, 2, b.ids, 50, p), 0);
    EXPECT_EQ(ask(&b, 1, b.ids, 50, NULL), 0);
    EXPECT_EQ(ask(&b, 1, b.ids, 50, p), 48);
    kv_prefix_free(p);
    /* Whatever address they get: it is what they hold that counts. */
    struct kv_prefix *newer = tiny_prefix(b.base, &other, 20);
    struct kv_prefix *same = tiny_prefix(b.base, &again, 20);
    EXPECT_EQ(ask(&b, 1, b.ids, 50, newer), 0);
    EXPECT_EQ(ask(&b, 1, b.ids, 50, same), 48);
    kv_prefix_free(newer);
    kv_prefix_free(same);
    bench_close(&b);
}

TEST(text_cache_of_an_engine_serves_choices_and_simultaneous_requests)
{
    struct bench b;
    bench_open(&b, (struct engine_opts){.n_threads = 2});
    struct run *many = run_new(b.ids, 100, 4, NULL);
    many->job.n = 5;
    many->job.sampling.temperature = 1;
    runner_hold(b.runner);
    struct run *runs[3] = {post(b.runner, run_new(b.ids + 200, 3, 40, NULL))};
    runner_wait_event(b.runner); /* the rest comes at once */
    runs[1] = post(b.runner, many);
    runs[2] = post(b.runner, run_new(b.ids, 120, 4, NULL));
    runner_release(b.runner);
    runner_wait(b.runner, runs, 3);
    EXPECT_EQ(stats_of(b.runner).prefill_rows, 3 + 100 + 4 * (100 - 96) + 120 - 96);
    struct run *plain = run_new(b.ids, 100, 4, NULL);
    plain->job.n = 5;
    plain->job.sampling.temperature = 1;
    answer(b.plain, plain);
    for (int c = 0; c < 5; c++) {
        EXPECT(answer_equals(&many->answers[c], &plain->answers[c]));
        EXPECT_EQ(many->answers[c].n_cached, c ? 96 : 0);
    }
    for (int i = 0; i < 3; i++)
        run_free(runs[i]);
    run_free(plain);
    bench_close(&b);
}

TEST(text_cache_of_an_engine_is_not_asked_for_scored_prompts)
{
    struct bench b;
    bench_open(&b, (struct engine_opts){.n_threads = 1});
    EXPECT_EQ(ask(&b, 0, b.ids, 60, NULL), 0);
    struct run *scored = run_new(b.ids, 60, 2, NULL), *plain = run_new(b.ids, 60, 2, NULL);
    scored->job.is_echo = plain->job.is_echo = true;
    answer(b.runner, scored);
    answer(b.plain, plain);
    EXPECT_EQ(scored->answers[0].n_cached, 0);
    EXPECT_EQ(scored->answers[0].n_prompt_scores, 60);
    EXPECT(answer_equals(&scored->answers[0], &plain->answers[0]));
    EXPECT_EQ(stats_of(b.runner).text_asked, 60);
    run_free(scored);
    run_free(plain);
    bench_close(&b);
}

/* A pool of eight blocks, of which a request needs six: texts go, and what is asked for again is
 * computed again. */
TEST(text_cache_of_an_engine_makes_room)
{
    struct bench b;
    struct base_model *m = tiny_open(TINY_GQA);
    size_t bytes = 8 * kv_pool_block_bytes(base_model_shape(m));
    base_model_free(m);
    bench_open(&b, (struct engine_opts){.n_threads = 1, .max_ctx = 256, .kv_bytes = bytes});
    EXPECT_EQ(ask(&b, 0, b.ids, 80, NULL), 0);
    EXPECT_EQ(ask(&b, 0, b.ids, 80, NULL), 64);
    EXPECT_EQ(ask(&b, 0, b.ids + 100, 80, NULL), 0);
    EXPECT_EQ(ask(&b, 0, b.ids, 80, NULL), 32); /* the beginning is the last to go */
    EXPECT(stats_of(b.runner).text_evicted > 0);
    EXPECT_EQ(stats_of(b.runner).kv_blocks_used, 0);
    EXPECT(stats_of(b.runner).kv_blocks_cached <= 8);
    bench_close(&b);
}

TEST(text_cache_of_an_engine_keeps_what_a_cancelled_request_computed)
{
    struct bench b;
    bench_open(&b, (struct engine_opts){.n_threads = 1, .prefill_chunk = 20});
    runner_hold(b.runner);
    struct run *runs[2] = {post(b.runner, run_new(b.ids + 200, 3, 40, NULL))};
    runner_wait_event(b.runner);
    runs[1] = post(b.runner, run_new(b.ids, 100, 4, NULL));
    while (stats_of(b.runner).prefill_rows < 3 + 35)
        runner_step(b.runner);
    int n_computed = (int)stats_of(b.runner).prefill_rows - 3;
    EXPECT(n_computed < 100 && !runs[0]->is_done);
    atomic_store(&runs[1]->job.cancelled, true);
    runner_release(b.runner);
    runner_wait(b.runner, runs, 2);
    EXPECT_EQ(ask(&b, 0, b.ids, 100, NULL), n_computed / KV_TILE * KV_TILE);
    run_free(runs[0]);
    run_free(runs[1]);
    bench_close(&b);
}
