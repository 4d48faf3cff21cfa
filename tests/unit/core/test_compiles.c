/* Compiles side by side, with simulated steps: who gets a place, and who waits for whom. */
#include <stdlib.h>

#include "core/base/check.h"
#include "core/base/mem.h"
#include "core/sched.h"
#include "tests/support/rng.h"
#include "tests/test.h"

enum { PLACES = 8, CHUNK = 64, BLOCKS = 100, CTX = 2048, MAX_WORKS = 4000, SMALL = 19 };

static const struct model_shape shape = {
    .n_layers = 1, .n_kv_heads = 1, .head_dim = 2, .kv_dtype = DTYPE_F32};
static const int32_t tokens[CTX] = {3, 1, 4, 1, 5, 9, 2, 6};

struct work { /* a compile and what came of it */
    struct compile compile;
    struct seq *seq; /* NULL: it has ended */
    long posted, began, ended;
};

struct desk {
    struct sched sched;
    struct kv_pool pool;
    struct text_cache text;
    struct batch batch;
    struct work works[MAX_WORKS];
    int n;
    long round;
};

static void desk_init_with(struct desk *d, int ctx, int chunk)
{
    struct err err = {0};
    int n_blocks = BLOCKS + compiles_blocks(ctx);
    *d = (struct desk){.n = 0};
    CHECK(kv_pool_init(&d->pool, &shape, n_blocks, &err) == 0);
    text_cache_init(&d->text, &d->pool, BLOCKS, false);
    sched_init(&d->sched, &d->text, PLACES, ctx, chunk);
    batch_init(&d->batch, sched_max_seqs(PLACES) + chunk, sched_max_seqs(PLACES), 8);
}

static struct desk *desk_new(void)
{
    struct desk *d = xcalloc(1, sizeof *d);
    desk_init_with(d, CTX, CHUNK);
    return d;
}

static struct work *post(struct desk *d, uint32_t domain, int n)
{
    CHECK(d->n < MAX_WORKS);
    struct work *w = &d->works[d->n++];
    *w = (struct work){.compile = {.ids = tokens, .n = n, .domain = domain}, .posted = d->round};
    w->seq = seq_new_compile(&w->compile);
    sched_add(&d->sched, w->seq);
    return w;
}

static void end(struct desk *d, struct work *w)
{
    struct seq *q = w->seq;
    w->seq = NULL;
    w->ended = d->round;
    sched_remove(&d->sched, q);
    seq_free(q);
}

static void step(struct desk *d)
{
    d->round++;
    sched_admit(&d->sched);
    sched_next(&d->sched, &d->batch);
    EXPECT(d->batch.n_rows > 0 || !d->sched.compiles.n_waiting);
    for (int i = 0; i < d->batch.n_seqs; i++)
        d->sched.order[i]->n_computed += d->batch.seqs[i].n_rows;
    for (int i = 0; i < d->n; i++) {
        struct work *w = &d->works[i];
        if (w->seq && w->seq->blocks && !w->began)
            w->began = d->round;
        if (w->seq && w->seq->n_computed == w->seq->n_prompt)
            end(d, w);
    }
}

static void steps(struct desk *d, int n)
{
    while (n-- > 0)
        step(d);
}

static bool is_running(const struct work *w)
{
    return w->seq && w->seq->blocks;
}

/* The rounds that w took from when it came; steps on until it has ended. */
static long rounds_of(struct desk *d, struct work *w)
{
    for (int i = 0; w->seq && i < 100000; i++)
        step(d);
    EXPECT(!w->seq);
    return w->ended - w->posted;
}

static void desk_free(struct desk *d)
{
    for (int i = 0; i < d->n; i++)
        if (d->works[i].seq)
            end(d, &d->works[i]);
    EXPECT_EQ(d->pool.n_free, d->pool.n_blocks);
    EXPECT_EQ(d->sched.compiles.n_waiting, 0);
    sched_fini(&d->sched);
    batch_fini(&d->batch);
    text_cache_fini(&d->text);
    kv_pool_fini(&d->pool);
    free(d);
}

TEST(compiles_of_different_domains_run_side_by_side)
{
    struct desk *d = desk_new();
    struct work *huge = post(d, 1, CTX);
    steps(d, 3);
    struct work *other = post(d, 2, CTX);
    steps(d, 2);
    EXPECT(is_running(huge) && is_running(other));
    EXPECT_EQ(huge->seq->n_computed, 3 * CHUNK + 2 * CHUNK / 2);
    EXPECT_EQ(other->seq->n_computed, 2 * CHUNK / 2);
    desk_free(d);
}

/* However many others have huge ones, and some of them many. */
TEST(compiles_small_one_waits_for_none_that_is_huge)
{
    static const int numbers[] = {1, 2, 5, 40};
    for (int i = 0; i < 4; i++) {
        struct desk *d = desk_new();
        for (int n = 0; n < numbers[i]; n++)
            for (int k = 0; k < 3; k++)
                post(d, (uint32_t)(n + 1), n % 2 ? CTX : CTX / 2);
        steps(d, 4);
        EXPECT(rounds_of(d, post(d, 1000, SMALL)) <= 2);
        EXPECT(rounds_of(d, post(d, 1001, CTX / 8)) <= 3 * CTX / 8 / CHUNK);
        desk_free(d);
    }
}

/* Small ones wait for each other alone, and take turns. */
TEST(compiles_many_small_ones_take_turns)
{
    enum { MANY = 60 };
    struct desk *d = desk_new();
    for (uint32_t n = 1; n <= 4; n++)
        post(d, n, CTX);
    for (int i = 0; i < MANY; i++)
        post(d, 5, SMALL);
    step(d);
    EXPECT(rounds_of(d, post(d, 6, SMALL)) <= 4);
    EXPECT_EQ(d->works[4 + MANY - 1].ended, 0);
    desk_free(d);
}

/* One domain's huge ones leave the other large place to others. */
TEST(compiles_one_domain_has_one_in_a_room)
{
    struct desk *d = desk_new();
    struct work *first = post(d, 1, CTX), *second = post(d, 1, CTX);
    steps(d, 2);
    EXPECT(is_running(first) && !is_running(second));
    struct work *other = post(d, 2, CTX / 2);
    step(d);
    EXPECT(is_running(other) && !is_running(second));
    struct work *own = post(d, 1, SMALL); /* its own small one goes on beside it */
    step(d);
    EXPECT(own->began > 0);
    desk_free(d);
}

static struct seq *post_job(struct desk *d, struct job *j, uint32_t domain, int n)
{
    struct seq *q = xcalloc(1, sizeof *q);
    *j = (struct job){.domain = domain, .n_logprobs = -1};
    *q = (struct seq){.job = j, .prompt = tokens, .n_prompt = n, .max_new = 1000};
    sched_add(&d->sched, q);
    return q;
}

static void remove_job(struct desk *d, struct seq *q)
{
    sched_remove(&d->sched, q);
    seq_free(q);
}

/* A domain that has used much, and keeps its debt because another has work all the while. */
static struct seq *make_debtor(struct desk *d, struct job *j, uint32_t domain, int n_compiles)
{
    struct seq *other = post_job(d, j, 99, 1);
    for (int i = 0; i < n_compiles; i++)
        rounds_of(d, post(d, domain, CTX));
    return other;
}

TEST(compiles_go_to_the_smallest_counter)
{
    struct desk *d = desk_new();
    struct job j;
    struct seq *other = make_debtor(d, &j, 1, 2);
    struct work *first = post(d, 3, CTX / 2), *second = post(d, 4, CTX);
    step(d);
    struct work *debtor = post(d, 1, CTX / 2);
    steps(d, 2);
    struct work *late = post(d, 2, CTX / 2);
    while (first->seq)
        step(d);
    step(d);
    EXPECT(is_running(second) && is_running(late) && !is_running(debtor));
    rounds_of(d, debtor);
    remove_job(d, other);
    desk_free(d);
}

/* Others never stop coming, with smaller counters: the huge one begins within its patience and
 * a turn of each. */
TEST(compiles_huge_one_does_not_starve)
{
    enum { OTHERS = 6, LONGEST = CTX / 4 / CHUNK * (OTHERS + 1) };
    struct desk *d = desk_new();
    struct work *current[OTHERS] = {0}, *huge = NULL;
    struct job j;
    struct seq *other = make_debtor(d, &j, 1, 20);
    for (int i = 0; i < 2000 && !(huge && !huge->seq); i++) {
        for (int n = 0; n < OTHERS; n++)
            if (!current[n] || !current[n]->seq)
                current[n] = post(d, (uint32_t)(10 + n), CTX / 4);
        if (i == 10)
            huge = post(d, 1, CTX);
        step(d);
    }
    ASSERT(huge && !huge->seq);
    EXPECT(huge->began - huge->posted <= FAIR_PATIENCE + OTHERS * LONGEST);
    EXPECT(huge->began - huge->posted >= FAIR_PATIENCE); /* it did have to wait */
    remove_job(d, other);
    desk_free(d);
}

/* A domain that brings hundreds at once has no more turns than one that brings one. */
TEST(compiles_domains_take_turns_past_their_patience)
{
    struct desk *d = desk_new();
    for (int i = 0; i < 100; i++) {
        post(d, 1, CTX / 2);
        post(d, 2, CTX / 2);
    }
    steps(d, 2 * FAIR_PATIENCE);
    struct work *late = post(d, 3, CTX / 2);
    EXPECT(rounds_of(d, late) <= 4 * CTX / CHUNK);
    desk_free(d);
}

/* A domain's own requests and small compiles go on beside its huge one, which goes on too. */
TEST(compiles_share_rows_with_their_own_domain)
{
    static const int chunks[] = {CHUNK, 4, 1};
    for (int c = 0; c < 3; c++) {
        struct desk *d = xcalloc(1, sizeof *d);
        struct job jobs[2];
        desk_init_with(d, CTX, chunks[c]);
        struct work *huge = post(d, 1, CTX);
        steps(d, 3);
        struct seq *first = post_job(d, &jobs[0], 1, 300), *second = post_job(d, &jobs[1], 1, 300);
        struct work *small = post(d, 1, SMALL);
        EXPECT(rounds_of(d, small) <= 3 * SMALL / chunks[c] + 3);
        int before = huge->seq->n_computed;
        steps(d, 150 / chunks[c] + 1);
        EXPECT(huge->seq->n_computed - before >= 150 / 2);
        EXPECT(first->n_computed >= 150 / 2 && second->n_computed <= first->n_computed);
        EXPECT(d->batch.n_rows <= chunks[c]);
        remove_job(d, first);
        remove_job(d, second);
        desk_free(d);
    }
}

/* What one part leaves the others use: no step has less rows than it could. */
TEST(compiles_leave_no_row_unused)
{
    struct rng r = {17};
    struct desk *d = desk_new();
    struct job jobs[6];
    struct seq *q[6];
    for (int round = 0; round < 50; round++) {
        int want = 0;
        for (int i = 0; i < 6; i++)
            q[i] = post_job(d, &jobs[i], (uint32_t)rng_below(&r, 3), rng_between(&r, 1, 20));
        for (int i = 0; i < 4; i++)
            post(d, (uint32_t)rng_below(&r, 3), rng_between(&r, 1, 30));
        sched_admit(&d->sched);
        for (int i = 0; i < d->sched.n_running; i++)
            want += d->sched.running[i]->n_prompt;
        sched_next(&d->sched, &d->batch);
        EXPECT_EQ(d->batch.n_rows, want < CHUNK ? want : CHUNK);
        for (int i = 0; i < 6; i++)
            remove_job(d, q[i]);
        for (int i = 0; i < d->n; i++)
            if (d->works[i].seq)
                end(d, &d->works[i]);
        d->n = 0;
    }
    desk_free(d);
}

TEST(compiles_take_no_block_of_requests)
{
    struct rng r = {71};
    static const int chunks[] = {1, 16, 64, 300}, contexts[] = {1, 20, 64, 100, 700, CTX};
    for (int c = 0; c < 4; c++)
        for (int i = 0; i < 6; i++) {
            struct desk *d = xcalloc(1, sizeof *d);
            desk_init_with(d, contexts[i], chunks[c]);
            for (int n = 0; n < 300; n++) {
                int longest = rng_below(&r, 3) ? contexts[i] : contexts[i] / 10 + 1;
                post(d, (uint32_t)rng_below(&r, 7), rng_between(&r, 1, longest));
                step(d);
                EXPECT(d->sched.n_running <= FAIR_COMPILES && d->pool.n_free >= BLOCKS);
            }
            desk_free(d);
        }
}

/* With compiles alone, and none of its own for a while, a domain's debt is not forgotten. */
TEST(compiles_are_remembered_while_others_have_work)
{
    struct desk *d = desk_new();
    post(d, 2, CTX);
    rounds_of(d, post(d, 1, CTX / 4));
    steps(d, 3);
    struct work *again = post(d, 1, SMALL);
    EXPECT(again->seq->domain->counter >= (uint64_t)(CTX / 4 * PRICE_PROMPT) << 16);
    desk_free(d);
}
