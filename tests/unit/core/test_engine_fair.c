/* Tenants with full backlogs on the real engine: what each gets, counted in tokens. */
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>

#include "core/base/check.h"
#include "core/base/mem.h"
#include "tests/support/run.h"
#include "tests/support/tenants.h"
#include "tests/support/tiny.h"
#include "tests/test.h"

enum { MAX_TENANTS = 20, REQUEST = 32 };

static const struct engine_opts opts = {.n_threads = 1};

static void expect_shares(const struct tenant *t, int n, long permille)
{
    for (int i = 1; i < n; i++) {
        long r = t[i].n_tokens * 1000 * t[0].weight / (t[0].n_tokens * t[i].weight);
        if (labs(r - 1000) > permille)
            test_fail(__FILE__, __LINE__, "of %d tenants number %d got %ld tokens, number 0 %ld", n,
                      i, t[i].n_tokens, t[0].n_tokens);
    }
}

/* n tenants, every second one of the given weight. Counters promise a bounded difference, so each gets
 * many times that: some 150 requests' tokens. */
static void compete(const struct base_model *b, int n, uint32_t weight, long permille)
{
    struct tenant t[MAX_TENANTS] = {{0}};
    uint32_t weights = 0;
    for (int i = 0; i < n; i++) {
        t[i] = (struct tenant){.weight = i % 2 ? weight : 1, .n_prompt = 12, .max_tokens = REQUEST};
        t[i].backlog = 220 * (int)t[i].weight; /* for the whole run: a late poster is no matter */
        weights += t[i].weight;
    }
    struct tenants *l = tenants_open(b, opts, t, n);
    tenants_run(l, (long)weights * 150 * REQUEST, 0);
    expect_shares(t, n, permille);
    tenants_close(l);
}

TEST(engine_gives_tenants_of_equal_weight_equal_tokens)
{
    static const int numbers[] = {2, 5, 20};
    struct base_model *b = tiny_open(TINY_DEMO);
    for (int i = 0; i < tiny_scaled(3); i++)
        compete(b, numbers[i], 1, 50);
    base_model_free(b);
}

TEST(engine_gives_tenants_tokens_by_weight)
{
    struct base_model *b = tiny_open(TINY_DEMO);
    compete(b, 2, 3, 100);
    if (tiny_scaled(2) > 1)
        compete(b, 7, 3, 100);
    base_model_free(b);
}

/* One tenant's full queue refuses that tenant alone. */
TEST(engine_bounds_the_queue_of_each_tenant)
{
    struct base_model *b = tiny_open(TINY_DEMO);
    struct err err = {0};
    struct runner *r =
        runner_new(b, (struct engine_opts){.n_threads = 1, .max_batch = 1, .max_queue = 2});
    int32_t ids[4] = {5, 6, 7, 8};
    struct run *runs[5];
    runner_hold(r);
    for (int i = 0; i < 5; i++) {
        runs[i] = run_new(ids, 4, 5, NULL);
        runs[i]->job.domain = 7;
    }
    EXPECT_EQ(runner_post(r, runs[0], &err), 0);
    runner_wait_event(r);
    EXPECT_EQ(runner_post(r, runs[1], &err), 0);
    EXPECT_EQ(runner_post(r, runs[2], &err), 0);
    EXPECT_EQ(runner_post(r, runs[3], &err), -1);
    EXPECT_EQ(err.code, ERR_QUEUE_FULL);
    runs[4]->job.domain = 8;
    EXPECT_EQ(runner_post(r, runs[4], &err), 0);
    runner_step(r); /* it has begun beside the first, whose tenant's others still wait */
    EXPECT_EQ(runs[4]->answers[0].n_ids, 1);
    EXPECT_EQ(runs[1]->answers[0].n_ids, 0);
    runner_release(r);
    struct run *posted[4] = {runs[0], runs[1], runs[2], runs[4]};
    runner_wait(r, posted, 4);
    for (int i = 1; i < 4; i++)
        EXPECT(answer_equals(&posted[i]->answers[0], &posted[0]->answers[0]));
    for (int i = 0; i < 5; i++)
        run_free(runs[i]);
    runner_free(r);
    base_model_free(b);
}

/* ---- compiles ------------------------------------------------------------------------ */

enum { HUGE_TEXT = 1900, SMALL_TEXT = 19, MOST_COMPILES = 9 };

struct compiling {
    struct engine *engine;
    uint32_t domain;
    const int32_t *ids;
    int n;
    pthread_t thread;
    struct kv_prefix *made;
};

static void *compile_main(void *ud)
{
    struct compiling *c = ud;
    struct err err = {0};
    c->made = engine_prefix_from_tokens(c->engine, c->domain, c->ids, c->n, &err);
    return NULL;
}

static int n_compiling(struct runner *r)
{
    struct engine_stats s;
    engine_stats(runner_engine(r), &s);
    return s.compiling;
}

/* The engine stands still: when this returns the compile waits for its next step. */
static void begin_compile(struct runner *r, struct compiling *c)
{
    int before = n_compiling(r);
    CHECK(pthread_create(&c->thread, NULL, compile_main, c) == 0);
    while (n_compiling(r) == before)
        sched_yield();
}

static void end_compile(struct compiling *c)
{
    CHECK(pthread_join(c->thread, NULL) == 0);
    EXPECT(c->made && c->made->n_tokens == c->n);
    kv_prefix_free(c->made);
}

/* Beside the huge compiles of n domains: the steps that a small one of another takes. A request
 * that generates all the while makes every step one that can be counted. */
static int steps_of_small(const struct base_model *b, int n, int n_rows)
{
    struct err err = {0};
    struct rng rng = {5};
    struct runner *r = runner_new(
        b, (struct engine_opts){.n_threads = 1, .prefill_chunk = n_rows, .step_target_ms = -1});
    struct engine *e = runner_engine(r);
    int32_t *ids = tiny_ids(b, &rng, HUGE_TEXT);
    struct compiling c[MOST_COMPILES];
    struct run *run = run_new(ids, 4, 500, NULL);
    runner_hold(r);
    EXPECT_EQ(runner_post(r, run, &err), 0);
    runner_wait_event(r);
    for (int i = 0; i <= n; i++) {
        c[i] = (struct compiling){e, (uint32_t)(i + 1), ids, i < n ? HUGE_TEXT : SMALL_TEXT, 0, NULL};
        begin_compile(r, &c[i]);
        if (i < n)
            runner_step(r);
    }
    int steps = 0;
    for (; n_compiling(r) > n && steps < 200; steps++)
        runner_step(r);
    EXPECT_EQ(n_compiling(r), n); /* no huge one has ended */
    end_compile(&c[n]);
    atomic_store(&run->job.cancelled, true);
    runner_release(r);
    for (int i = 0; i < n; i++)
        end_compile(&c[i]); /* and each of those ends too */
    runner_wait(r, &run, 1);
    run_free(run);
    free(ids);
    runner_free(r);
    return steps;
}

TEST(engine_small_compile_does_not_wait_for_a_huge_one)
{
    struct base_model *b = tiny_open(TINY_DEMO);
    EXPECT(steps_of_small(b, 1, 64) <= 2);
    EXPECT(steps_of_small(b, 1, 16) <= 4);
    base_model_free(b);
}

TEST(engine_small_compile_does_not_wait_for_many_huge_ones)
{
    struct base_model *b = tiny_open(TINY_DEMO);
    EXPECT(steps_of_small(b, tiny_scaled(MOST_COMPILES - 1), 64) <= 3);
    base_model_free(b);
}
