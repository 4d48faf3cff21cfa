/* Fairness between tenants, with simulated steps: shares, bounds, no credit, work
 * conservation. */
#include "core/sched.h"

#include <stdlib.h>

#include "core/base/check.h"
#include "core/base/mem.h"
#include "tests/support/rng.h"
#include "tests/test.h"

enum { PLACES = 32, CHUNK = 64, BLOCKS = 1024, DOMAINS = 40, HUGE_PROMPT = 4000 };

static const struct model_shape shape = {
    .n_layers = 1, .n_kv_heads = 1, .head_dim = 2, .kv_dtype = DTYPE_F32};
static const int32_t prompt[HUGE_PROMPT] = {3, 1, 4, 1, 5, 9, 2, 6};

struct client { /* of one domain: keeps `backlog` sequences of its kind waiting */
    uint32_t weight;
    int backlog, n_prompt, max_new;
    int n_waiting, n_running;
    int n_ran;     /* in the last step */
    long n_tokens; /* generated */
    long n_rows;   /* of prompts */
    long n_ended, longest_head; /* rounds that a head waited, at most */
    long head_since;
    long waited; /* of the sequence that ended last: from post to first token, in rounds */
};

struct sim {
    struct sched sched;
    struct kv_pool pool;
    struct text_cache text;
    struct batch batch;
    struct client clients[DOMAINS];
    long round;
    int n_ran;
};

struct piece { /* one sequence and its job; the job's ud */
    struct job job;
    long posted;
    bool has_started;
};

static void sim_init_with(struct sim *m, int places, int chunk, int n_blocks)
{
    struct err err = {0};
    *m = (struct sim){.round = 0};
    int n_all = n_blocks + compiles_blocks(HUGE_PROMPT);
    CHECK(kv_pool_init(&m->pool, &shape, n_all, &err) == 0);
    text_cache_init(&m->text, &m->pool, n_blocks, true);
    sched_init(&m->sched, &m->text, places, HUGE_PROMPT, chunk);
    batch_init(&m->batch, sched_max_seqs(places) + chunk, sched_max_seqs(places), 8);
}

static void sim_init(struct sim *m)
{
    sim_init_with(m, PLACES, CHUNK, BLOCKS);
}

static void post(struct sim *m, int domain, int n_prompt, int max_new)
{
    struct client *c = &m->clients[domain];
    struct piece *p = xcalloc(1, sizeof *p);
    struct seq *q = xcalloc(1, sizeof *q);
    p->job.domain = (uint32_t)domain;
    p->job.weight = c->weight;
    p->job.n_logprobs = -1;
    p->job.ud = p;
    p->posted = m->round;
    q->job = &p->job;
    q->prompt = prompt;
    q->n_prompt = n_prompt;
    q->max_new = max_new;
    if (!c->n_waiting++)
        c->head_since = m->round;
    sched_add(&m->sched, q);
}

static void end(struct sim *m, struct seq *q)
{
    struct piece *p = q->job->ud;
    sched_remove(&m->sched, q);
    seq_free(q);
    free(p);
}

static struct client *client_of(struct sim *m, const struct seq *q)
{
    return &m->clients[q->job->domain];
}

/* Heads that started in this round, from what is among the running for the first time. */
static void note_starts(struct sim *m)
{
    for (int i = 0; i < m->sched.n_running; i++) {
        struct seq *q = m->sched.running[i];
        struct piece *p = q->job->ud;
        struct client *c = client_of(m, q);
        if (p->has_started)
            continue;
        p->has_started = true;
        long waited = m->round - c->head_since;
        c->longest_head = waited > c->longest_head ? waited : c->longest_head;
        c->head_since = m->round;
        c->n_waiting--;
        c->n_running++;
    }
}

static void advance(struct sim *m, struct seq *q, int n_rows)
{
    struct client *c = client_of(m, q);
    if (seq_is_prefill(q))
        c->n_rows += n_rows;
    q->n_computed += n_rows;
    if (seq_is_prefill(q))
        return;
    if (!q->n_generated)
        c->waited = m->round - ((struct piece *)q->job->ud)->posted;
    c->n_tokens++;
    if (++q->n_generated < q->max_new)
        return;
    c->n_running--;
    c->n_ended++;
    end(m, q);
}

static void step(struct sim *m)
{
    m->round++;
    for (int d = 0; d < DOMAINS; d++)
        while (m->clients[d].n_waiting < m->clients[d].backlog)
            post(m, d, m->clients[d].n_prompt, m->clients[d].max_new);
    sched_admit(&m->sched);
    note_starts(m);
    m->n_ran = m->sched.n_running;
    for (int d = 0; d < DOMAINS; d++)
        m->clients[d].n_ran = m->clients[d].n_running;
    sched_next(&m->sched, &m->batch);
    EXPECT(m->batch.n_rows <= m->batch.max_rows);
    EXPECT(m->sched.n_running <= PLACES + fair_extra_places(PLACES));
    for (int i = 0; i < m->batch.n_seqs; i++)
        advance(m, m->sched.order[i], m->batch.seqs[i].n_rows);
}

static void steps(struct sim *m, int n)
{
    for (int i = 0; i < n; i++)
        step(m);
}

static bool is_any(const struct seq *q, const void *ud)
{
    (void)q, (void)ud;
    return true;
}

static void sim_fini(struct sim *m)
{
    for (struct seq *q; (q = sched_find(&m->sched, is_any, NULL));)
        end(m, q);
    EXPECT_EQ(m->pool.n_free, m->pool.n_blocks);
    EXPECT_EQ(m->sched.fair.n_running + m->sched.fair.n_blocks, 0);
    sched_admit(&m->sched);
    EXPECT(m->sched.fair.domains == NULL); /* nothing to remember */
    sched_fini(&m->sched);
    batch_fini(&m->batch);
    text_cache_fini(&m->text);
    kv_pool_fini(&m->pool);
}

static void backlog(struct sim *m, int d, uint32_t weight, int n, int n_prompt, int max_new)
{
    struct client *c = &m->clients[d];
    c->weight = weight;
    c->backlog = n;
    c->n_prompt = n_prompt;
    c->max_new = max_new;
}

/* Tokens of d per weight against those of domain 0, in thousandths. */
static long ratio(const struct sim *m, int d)
{
    const struct client *a = &m->clients[0], *b = &m->clients[d];
    return b->n_tokens * 1000 * a->weight / (a->n_tokens * b->weight);
}

static void expect_ratio(const struct sim *m, int d, long tolerance)
{
    if (labs(ratio(m, d) - 1000) > tolerance)
        test_fail(__FILE__, __LINE__, "domain %d has %ld tokens, domain 0 %ld: %ld", d,
                  m->clients[d].n_tokens, m->clients[0].n_tokens, ratio(m, d));
}

TEST(fair_equal_weights_get_equal_tokens)
{
    for (int n = 2; n <= DOMAINS; n += n < 20 ? 1 : 5) {
        struct sim m;
        sim_init(&m);
        for (int d = 0; d < n; d++)
            backlog(&m, d, 1, 3 + 5 * d, 12, 32); /* a longer queue is worth nothing */
        steps(&m, 4000);
        for (int d = 1; d < n; d++)
            expect_ratio(&m, d, 50);
        sim_fini(&m);
    }
}

TEST(fair_tokens_follow_weights)
{
    static const uint32_t weights[] = {1, 3, 1, 3, 2, 6};
    for (int n = 2; n <= 6; n++) {
        struct sim m;
        sim_init(&m);
        for (int d = 0; d < n; d++)
            backlog(&m, d, weights[d], 40, 12, 32);
        steps(&m, 4000);
        for (int d = 1; d < n; d++)
            expect_ratio(&m, d, 100);
        sim_fini(&m);
    }
}

/* Every ordinary place is in use whenever somebody waits, whoever it is. */
TEST(fair_conserves_work)
{
    struct sim m;
    sim_init(&m);
    backlog(&m, 0, 1, 50, 8, 100);
    steps(&m, 50);
    EXPECT_EQ(m.clients[0].n_ran, PLACES); /* alone: all of them */
    backlog(&m, 1, 7, 1, 8, 3); /* beside one that uses less than its share */
    for (int i = 0; i < 500; i++) {
        step(&m);
        EXPECT(m.n_ran >= PLACES);
    }
    EXPECT(m.clients[0].n_ran >= PLACES - 8);
    sim_fini(&m);
}

/* Who holds more than its share gets no place while one waits that holds less. */
TEST(fair_no_place_above_the_share_while_another_waits)
{
    struct sim m;
    sim_init(&m);
    backlog(&m, 0, 1, 50, 8, 200);
    steps(&m, 100);
    backlog(&m, 1, 1, 50, 8, 200);
    int most = m.clients[0].n_ran;
    for (int i = 0; i < 1000; i++) {
        step(&m);
        int n = m.clients[0].n_ran;
        EXPECT(n <= most || n <= PLACES / 2);
        most = n;
    }
    EXPECT_EQ(m.clients[0].n_ran, PLACES / 2);
    EXPECT_EQ(m.clients[1].n_ran, PLACES / 2);
    sim_fini(&m);
}

/* Blocks, too: the second domain's sequences need a tenth of the pool each. */
TEST(fair_no_blocks_above_the_share_while_another_waits)
{
    struct sim m;
    sim_init(&m);
    int tenth = BLOCKS / 10 * KV_TILE;
    backlog(&m, 0, 1, 50, 8, tenth - 8);
    backlog(&m, 1, 1, 50, 8, tenth - 8);
    steps(&m, 4 * tenth);
    int n[2] = {m.clients[0].n_running, m.clients[1].n_running};
    EXPECT(n[0] >= 4 && n[0] <= 5 && n[1] >= 4 && n[1] <= 5);
    sim_fini(&m);
}

/* A flood of one, long or short, wide or narrow: another's request starts in the round in
 * which it comes, and its first token is there as soon. */
static long light_wait(int flood, int n_prompt, int max_new)
{
    struct sim m;
    struct rng rng = {17};
    long worst = 0;
    sim_init(&m);
    backlog(&m, 0, 1, flood, n_prompt, max_new);
    m.clients[1].weight = 1;
    post(&m, 1, 4, 1); /* the scheduler has seen both */
    steps(&m, 3 * max_new);
    for (int i = 0; i < 200; i++) {
        post(&m, 1, 10, 4);
        steps(&m, 8 + rng_below(&rng, 20));
        worst = m.clients[1].waited > worst ? m.clients[1].waited : worst;
    }
    EXPECT_EQ(m.clients[1].n_ended, 201);
    EXPECT(m.clients[1].longest_head <= 1);
    sim_fini(&m);
    return worst;
}

TEST(fair_light_tenant_starts_at_once_in_a_flood)
{
    EXPECT_EQ(light_wait(2 * PLACES, 10, 32), 1);
    EXPECT_EQ(light_wait(10 * PLACES, 10, 32), 1);
    EXPECT_EQ(light_wait(10 * PLACES, 10, 1014), 1); /* 64 blocks each: all of them */
    EXPECT(light_wait(PLACES, HUGE_PROMPT, 32) <= 2); /* so is every chunk */
}

/* As many newcomers at once as there are places for them. */
TEST(fair_several_newcomers_start_at_once)
{
    struct sim m;
    sim_init(&m);
    backlog(&m, 0, 1, 100, 8, 400);
    steps(&m, 100);
    int n = fair_extra_places(PLACES);
    for (int d = 1; d <= n; d++)
        post(&m, d, 4, 20);
    step(&m);
    for (int d = 1; d <= n; d++)
        EXPECT_EQ(m.clients[d].n_tokens, 1);
    steps(&m, 30);
    EXPECT_EQ(m.n_ran, PLACES); /* and the ordinary number again */
    sim_fini(&m);
}

/* Idle time is no credit: who comes back gets no more than its share. */
TEST(fair_reentry_gets_no_credit)
{
    enum { N = 20 };
    struct sim m;
    sim_init(&m);
    for (int d = 0; d < N; d++)
        backlog(&m, d, 1, 50, 12, 32);
    steps(&m, 200);
    backlog(&m, 1, 1, 0, 12, 32);
    steps(&m, 5000);
    for (int d = 0; d < N; d++)
        m.clients[d].n_tokens = 0;
    backlog(&m, 1, 1, 50, 12, 32);
    steps(&m, 2000);
    expect_ratio(&m, 1, 50);
    sim_fini(&m);
}

/* Nor does leaving pay off a debt: the counter is remembered until the others reach it. */
TEST(fair_leaving_clears_no_debt)
{
    struct fair f;
    fair_init(&f, 4, 100);
    struct seq a = {.n_prompt = 1}, b = {.n_prompt = 1};
    struct domain *x = fair_domain(&f, 1, 1), *y = fair_domain(&f, 2, 1);
    y->n_seqs = 1;
    fair_wait(&f, y, &b);
    fair_charge(x, 1000);
    fair_begin(&f);
    EXPECT(fair_domain(&f, 1, 1) == x && x->counter > y->counter);
    fair_charge(y, 1001);
    fair_begin(&f); /* x is forgotten now */
    struct domain *again = fair_domain(&f, 1, 1);
    EXPECT_EQ(again->counter, 0);
    fair_wait(&f, again, &a);
    EXPECT_EQ(again->counter, y->counter);
    EXPECT(fair_leave(&f, again, &a) && fair_leave(&f, y, &b));
    y->n_seqs = 0;
    fair_fini(&f);
}

/* A job as large as the pool, beside backlogs that never leave it empty, starts within the
 * stated bound. */
TEST(fair_nobody_starves)
{
    enum { LENGTH = 150, N = 6 };
    struct sim m;
    sim_init(&m);
    for (int d = 0; d < N - 1; d++)
        backlog(&m, d, 1 + 3 * (uint32_t)(d % 2), 60, 20, LENGTH);
    m.clients[N - 1].weight = 1;
    steps(&m, 3000);
    post(&m, N - 1, 40, BLOCKS * KV_TILE - 40);
    long bound = 2 * FAIR_PATIENCE + (N + 1) * (LENGTH + (PLACES + 8) * 20 / CHUNK);
    for (long i = 0; i <= bound && !m.clients[N - 1].n_tokens; i++)
        step(&m);
    EXPECT_EQ(m.clients[N - 1].n_running, 1);
    EXPECT(m.clients[N - 1].longest_head <= bound);
    sim_fini(&m);
}

static long tokens_in(struct sim *m, int n_rounds)
{
    long n = 0;
    for (int d = 0; d < DOMAINS; d++)
        n -= m->clients[d].n_tokens;
    steps(m, n_rounds);
    for (int d = 0; d < DOMAINS; d++)
        n += m->clients[d].n_tokens;
    return n;
}

/* Until then the others lose nothing of their shares, and afterwards newcomers go on. */
TEST(fair_huge_job_holds_back_nobody_while_it_waits)
{
    struct sim m;
    sim_init(&m);
    backlog(&m, 0, 1, 60, 20, 100);
    backlog(&m, 1, 1, 60, 20, 100);
    steps(&m, 1000);
    long before = tokens_in(&m, FAIR_PATIENCE);
    post(&m, 2, 40, BLOCKS * KV_TILE - 40);
    long beside = tokens_in(&m, FAIR_PATIENCE);
    if (beside * 100 < before * 95)
        test_fail(__FILE__, __LINE__, "%ld tokens, %ld without it", beside, before);
    EXPECT_EQ(m.clients[2].n_running, 0);
    post(&m, 3, 4, 10);
    step(&m);
    EXPECT_EQ(m.clients[3].n_tokens, 1);
    sim_fini(&m);
}

/* Random loads: every head starts within the bound. */
TEST(fair_heads_start_within_the_bound)
{
    struct rng rng = {29};
    for (int round = 0; round < 30; round++) {
        struct sim m;
        int n = rng_between(&rng, 2, 20), longest = 0;
        sim_init_with(&m, PLACES, rng_between(&rng, 1, CHUNK), rng_between(&rng, 64, 300));
        for (int d = 0; d < n; d++) {
            int n_prompt = rng_between(&rng, 1, 60), max_new = rng_between(&rng, 1, 300);
            backlog(&m, d, (uint32_t)rng_between(&rng, 1, 9), rng_below(&rng, 30), n_prompt,
                    max_new);
            longest = max_new > longest ? max_new : longest;
        }
        long run = longest + (PLACES + 8) * 60 / m.sched.chunk + 2;
        long bound = 2 * FAIR_PATIENCE + (n + 1) * run;
        steps(&m, 3000);
        for (int d = 0; d < n; d++) {
            EXPECT(m.clients[d].longest_head <= bound);
            if (m.clients[d].n_waiting)
                EXPECT(m.round - m.clients[d].head_since <= bound);
        }
        sim_fini(&m);
    }
}

/* A prompt of 30 rows beside eight huge ones of another: half of every chunk is its own. */
TEST(fair_huge_prompts_share_the_chunk)
{
    struct sim m;
    sim_init(&m);
    backlog(&m, 0, 1, 8, HUGE_PROMPT, 4);
    steps(&m, 100);
    post(&m, 1, 3 * CHUNK / 2, 1);
    steps(&m, 3);
    EXPECT_EQ(m.clients[1].n_ended, 1);
    EXPECT_EQ(m.clients[0].n_rows + m.clients[1].n_rows, 103 * CHUNK);
    sim_fini(&m);
}

TEST(fair_prompt_rows_follow_weights)
{
    struct sim m;
    sim_init(&m);
    backlog(&m, 0, 1, 8, 1000, 1);
    backlog(&m, 1, 3, 8, 1000, 1);
    steps(&m, 4000);
    long a = m.clients[0].n_rows, b = m.clients[1].n_rows;
    EXPECT(b * 10 >= a * 27 && b * 10 <= a * 33);
    sim_fini(&m);
}

/* With fewer rows than domains everybody still gets some in turn. */
TEST(fair_a_tiny_chunk_feeds_everybody)
{
    struct sim m;
    sim_init_with(&m, PLACES, 1, BLOCKS);
    for (int d = 0; d < 5; d++)
        backlog(&m, d, 1 + 20 * (uint32_t)d, 2, 200, 1);
    steps(&m, 500);
    for (int d = 0; d < 5; d++)
        EXPECT_EQ(m.clients[d].n_rows, 100);
    sim_fini(&m);
}

/* Compiling is paid for by its tenant, and its rows are those of its tenant. */
TEST(fair_compiles_are_charged)
{
    struct sim m;
    sim_init(&m);
    struct compile c = {.ids = prompt, .n = 1000, .domain = 1};
    struct seq *q = seq_new_compile(&c);
    backlog(&m, 0, 1, 8, 1000, 1);
    steps(&m, 20);
    sched_add(&m.sched, q);
    EXPECT_EQ(q->domain->id, 1);
    uint64_t counter = q->domain->counter;
    EXPECT(counter > 0); /* where the other stands: idle time is no credit */
    sched_admit(&m.sched);
    sched_next(&m.sched, &m.batch);
    EXPECT_EQ(q->domain->counter - counter, (uint64_t)(CHUNK / 2 * PRICE_PROMPT) << 16);
    sched_remove(&m.sched, q);
    seq_free(q);
    sim_fini(&m);
}

/* Virtual tokens are paid for once, when the sequence starts. */
TEST(fair_virtual_tokens_are_charged)
{
    struct sim m;
    struct kv_prefix p = {.n_tokens = 50, .first_pos = 50};
    sim_init(&m);
    post(&m, 0, 10, 3);
    struct domain *d = m.sched.fair.domains;
    d->waiting.first->prefix = &p;
    steps(&m, 1);
    EXPECT_EQ(d->counter, (uint64_t)(50 * PRICE_VIRTUAL + 10 * PRICE_PROMPT + PRICE_GENERATED)
                              << 16);
    steps(&m, 2);
    EXPECT_EQ(d->counter,
              (uint64_t)(50 * PRICE_VIRTUAL + 10 * PRICE_PROMPT + 3 * PRICE_GENERATED) << 16);
    sim_fini(&m);
}
