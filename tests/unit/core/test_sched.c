/* The scheduler's bookkeeping, with sequences made by hand. */
#include "core/sched.h"

#include <stdlib.h>

#include "core/base/check.h"
#include "core/base/mem.h"
#include "tests/support/rng.h"
#include "tests/test.h"

enum { MAX_RUNNING = 4, CHUNK = 10, MAX_SEQS = 12 };

static const struct model_shape shape = {
    .n_layers = 1, .n_kv_heads = 1, .head_dim = 2, .kv_dtype = DTYPE_F32};
static const int32_t prompt[200] = {3, 1, 4, 1, 5, 9, 2, 6};

struct desk { /* a scheduler, its pool and batch, and what was posted */
    struct sched sched;
    struct kv_pool pool;
    struct text_cache text;
    struct batch batch;
    struct seq *seqs[MAX_SEQS];
    struct job jobs[MAX_SEQS];
    int n;
};

static void desk_init_with(struct desk *d, int n_blocks, bool has_text_cache)
{
    struct err err = {0};
    *d = (struct desk){.n = 0};
    CHECK(kv_pool_init(&d->pool, &shape, n_blocks, &err) == 0);
    text_cache_init(&d->text, &d->pool, n_blocks, !has_text_cache);
    sched_init(&d->sched, &d->text, MAX_RUNNING, 64, CHUNK);
    batch_init(&d->batch, MAX_RUNNING + CHUNK, MAX_RUNNING, 8);
}

static void desk_init(struct desk *d, int n_blocks)
{
    desk_init_with(d, n_blocks, false);
}

static struct seq *desk_add_for(struct desk *d, uint32_t domain, int n_prompt, int max_new,
                                const struct kv_prefix *p)
{
    struct seq *q = xcalloc(1, sizeof *q);
    int i = d->n++;
    d->jobs[i] = (struct job){.domain = domain, .n_logprobs = -1};
    *q = (struct seq){.job = &d->jobs[i],
                      .prompt = prompt,
                      .n_prompt = n_prompt,
                      .max_new = max_new,
                      .prefix = p};
    d->seqs[i] = q;
    sched_add(&d->sched, q);
    return q;
}

static struct seq *desk_add(struct desk *d, int n_prompt, int max_new,
                            const struct kv_prefix *p)
{
    return desk_add_for(d, 0, n_prompt, max_new, p);
}

static void desk_remove(struct desk *d, struct seq *q)
{
    for (int i = 0; i < d->n; i++)
        if (d->seqs[i] == q)
            d->seqs[i] = NULL;
    sched_remove(&d->sched, q);
    seq_free(q);
}

static void desk_fini(struct desk *d)
{
    for (int i = 0; i < d->n; i++)
        if (d->seqs[i])
            desk_remove(d, d->seqs[i]);
    EXPECT_EQ(d->pool.n_free + d->text.n_idle, d->pool.n_blocks);
    sched_fini(&d->sched);
    batch_fini(&d->batch);
    text_cache_fini(&d->text);
    kv_pool_fini(&d->pool);
}

/* A step: admits, chooses rows, and advances every sequence of the batch. */
static void step(struct desk *d)
{
    sched_admit(&d->sched);
    sched_next(&d->sched, &d->batch);
    for (int i = 0; i < d->batch.n_seqs; i++)
        d->sched.order[i]->n_computed += d->batch.seqs[i].n_rows;
}

static int rows_of(const struct desk *d, const struct seq *q)
{
    for (int i = 0; i < d->batch.n_seqs; i++)
        if (d->sched.order[i] == q)
            return d->batch.seqs[i].n_rows;
    return 0;
}

TEST(sched_blocks_needed)
{
    EXPECT_EQ(seq_blocks_needed(1, 0), 1);
    EXPECT_EQ(seq_blocks_needed(16, 0), 1);
    EXPECT_EQ(seq_blocks_needed(10, 6), 1);
    EXPECT_EQ(seq_blocks_needed(10, 7), 2);
}

TEST(sched_admits_in_order_while_there_are_places_and_blocks)
{
    struct desk d;
    desk_init(&d, 6);
    struct seq *a = desk_add(&d, 30, 2, NULL), *b = desk_add(&d, 40, 30, NULL),
               *c = desk_add(&d, 1, 1, NULL);
    step(&d);
    EXPECT_EQ(d.sched.n_running, 1); /* b needs five of four: it waits, and c behind it */
    EXPECT_EQ(d.sched.fair.n_waiting, 2);
    EXPECT_EQ(d.pool.n_free, 4);
    desk_remove(&d, a);
    step(&d);
    EXPECT(d.sched.n_running == 2 && d.sched.running[0] == b && d.sched.running[1] == c);
    EXPECT_EQ(d.pool.n_free, 0);
    desk_fini(&d);
}

TEST(sched_runs_no_more_than_its_places)
{
    struct desk d;
    desk_init(&d, 100);
    for (int i = 0; i < 7; i++)
        desk_add(&d, 1, 3, NULL);
    step(&d);
    EXPECT_EQ(d.sched.n_running, MAX_RUNNING);
    EXPECT_EQ(d.sched.fair.n_waiting, 3);
    desk_fini(&d);
}

TEST(sched_takes_all_decoding_rows_and_a_bounded_chunk)
{
    struct desk d;
    desk_init(&d, 100);
    struct seq *a = desk_add(&d, 3, 5, NULL), *b = desk_add(&d, 17, 5, NULL),
               *c = desk_add(&d, 4, 5, NULL);
    step(&d);
    EXPECT(rows_of(&d, a) == 3 && rows_of(&d, b) == 7 && rows_of(&d, c) == 0);
    step(&d);
    EXPECT(rows_of(&d, a) == 1 && rows_of(&d, b) == 10 && rows_of(&d, c) == 0);
    step(&d);
    EXPECT(rows_of(&d, a) == 1 && rows_of(&d, b) == 1 && rows_of(&d, c) == 4);
    EXPECT_EQ(d.batch.n_rows, 6);
    desk_fini(&d);
}

TEST(sched_rows_carry_tokens_slots_and_positions)
{
    struct desk d;
    struct kv_prefix p = {.n_tokens = 50, .first_pos = 50};
    desk_init(&d, 100);
    struct seq *a = desk_add(&d, 12, 5, &p);
    step(&d);
    step(&d);
    EXPECT_EQ(d.batch.n_rows, 2);
    EXPECT(d.batch.rows[1].slot == 11 && d.batch.rows[1].pos == 61 &&
           d.batch.rows[0].logits == -1);
    EXPECT_EQ(d.batch.rows[1].logits,
              0); /* the last prompt row gives the first new token */
    a->last = 77;
    step(&d);
    EXPECT(d.batch.n_rows == 1 && d.batch.rows[0].token == 77 &&
           d.batch.rows[0].slot == 12);
    EXPECT_EQ(d.batch.rows[0].logits, 0);
    desk_fini(&d);
}

TEST(sched_wants_logits_of_prompts_only_for_scores)
{
    struct desk d;
    desk_init(&d, 100);
    struct seq *a = desk_add(&d, 4, 0, NULL), *b = desk_add(&d, 4, 1, NULL);
    d.jobs[0].is_echo = d.jobs[1].is_echo = true;
    d.jobs[1].n_logprobs = 0;
    step(&d);
    for (int i = 0; i < 4; i++) {
        EXPECT_EQ(d.batch.rows[i].token, prompt[i]);
        EXPECT_EQ(d.batch.rows[i].logits,
                  -1); /* echo without scores, and nothing to generate */
        EXPECT_EQ(d.batch.rows[4 + i].logits, i);
    }
    EXPECT(d.sched.order[0] == a && d.sched.order[1] == b);
    desk_fini(&d);
}

TEST(sched_puts_sequences_of_one_prefix_side_by_side)
{
    struct desk d;
    struct kv_prefix p[2] = {{.n_tokens = 5, .first_pos = 5},
                             {.n_tokens = 6, .first_pos = 6}};
    desk_init(&d, 100);
    struct seq *a = desk_add(&d, 2, 5, &p[1]), *b = desk_add(&d, 2, 5, &p[0]);
    struct seq *c = desk_add(&d, 2, 5, &p[1]), *n = desk_add(&d, 2, 5, NULL);
    step(&d);
    EXPECT_EQ(d.batch.n_groups, 2);
    EXPECT(d.sched.order[0] == n);
    for (int i = 0; i < 2; i++)
        EXPECT_EQ(d.batch.groups[i].n_rows, d.batch.groups[i].prefix == &p[1] ? 4 : 2);
    int at = d.sched.order[1] == b ? 2 : 1;
    EXPECT(d.sched.order[at] == a && d.sched.order[at + 1] == c);
    desk_fini(&d);
}

/* ---- text that is found again ----------------------------------------------------------------- */

/* As step, and blocks are kept as they fill. */
static void step_and_keep(struct desk *d)
{
    sched_admit(&d->sched);
    sched_next(&d->sched, &d->batch);
    for (int i = 0; i < d->batch.n_seqs; i++) {
        struct seq *q = d->sched.order[i];
        seq_keep_text(q, &d->text, q->n_computed + d->batch.seqs[i].n_rows);
        q->n_computed += d->batch.seqs[i].n_rows;
    }
}

static void run_to_end_of_prompt(struct desk *d, struct seq *q)
{
    while (q->n_computed < q->n_prompt)
        step_and_keep(d);
}

TEST(sched_computes_what_is_new_and_charges_it)
{
    struct desk d;
    desk_init_with(&d, 100, true);
    struct seq *a = desk_add(&d, 40, 5, NULL);
    run_to_end_of_prompt(&d, a);
    desk_remove(&d, a);
    EXPECT_EQ(d.text.n_idle, 2);
    struct seq *b = desk_add(&d, 45, 5, NULL);
    uint64_t before = b->domain->counter;
    step_and_keep(&d);
    EXPECT(b->n_cached == 32 && rows_of(&d, b) == CHUNK && d.batch.rows[0].slot == 32);
    EXPECT(d.batch.rows[0].token == prompt[32] && b->n_due == 3 && b->domain->n_due == 3);
    step_and_keep(&d);
    EXPECT_EQ((b->domain->counter - before) >> 16,
              32 * PRICE_FOUND + 13 * PRICE_PROMPT + PRICE_GENERATED);
    EXPECT(d.text.n_asked == 85 && d.text.n_found == 32);
    desk_fini(&d);
}

TEST(sched_always_computes_the_last_token_of_a_prompt)
{
    struct desk d;
    desk_init_with(&d, 100, true);
    for (int n = 31; n <= 34; n++) {
        struct seq *a = desk_add(&d, n, 1, NULL);
        run_to_end_of_prompt(&d, a);
        desk_remove(&d, a);
        struct seq *b = desk_add(&d, n, 1, NULL);
        step_and_keep(&d);
        EXPECT_EQ(b->n_cached, n <= 32 ? 16 : 32);
        EXPECT_EQ(d.batch.rows[rows_of(&d, b) - 1].logits, b->n_computed == n ? 0 : -1);
        desk_remove(&d, b);
    }
    desk_fini(&d);
}

TEST(sched_lets_the_first_of_equal_beginnings_compute_it)
{
    struct desk d;
    desk_init_with(&d, 100, true);
    struct seq *q[3];
    for (int i = 0; i < 3; i++)
        q[i] = desk_add(&d, 35 + i, 5, NULL);
    int n_rows = 0;
    while (d.sched.n_running == 0 || seq_is_prefill(q[2])) {
        step_and_keep(&d);
        for (int i = 0; i < d.batch.n_rows; i++)
            n_rows += d.batch.rows[i].slot < 32;
    }
    EXPECT_EQ(n_rows, 32);
    EXPECT(q[0]->n_cached == 0 && q[1]->n_cached == 32 && q[2]->n_cached == 32);
    for (int i = 0; i < 2; i++)
        EXPECT(q[1]->blocks[i] == q[0]->blocks[i] && q[2]->blocks[i] == q[0]->blocks[i]);
    EXPECT(q[1]->blocks[2] != q[0]->blocks[2]);
    EXPECT_EQ(d.text.n_held, 2 + 3);
    desk_fini(&d);
}

/* What one waits for ends before it is there. */
TEST(sched_goes_on_by_itself_if_the_one_it_follows_goes)
{
    struct desk d;
    desk_init_with(&d, 100, true);
    struct seq *a = desk_add(&d, 40, 5, NULL), *b = desk_add(&d, 40, 5, NULL);
    step_and_keep(&d);
    EXPECT(rows_of(&d, a) == CHUNK && rows_of(&d, b) == 0);
    desk_remove(&d, a);
    step_and_keep(&d);
    EXPECT(rows_of(&d, b) == CHUNK && b->n_cached == 0);
    run_to_end_of_prompt(&d, b);
    desk_fini(&d);
}

TEST(sched_lets_nobody_wait_for_a_prompt_whose_every_row_is_scored)
{
    struct desk d;
    desk_init_with(&d, 100, true);
    struct seq *scored = desk_add(&d, 40, 5, NULL), *b = desk_add(&d, 40, 5, NULL);
    scored->job->is_echo = true;
    scored->job->n_logprobs = 0;
    sched_admit(&d.sched);
    EXPECT(!b->is_following);
    scored->job->is_echo = false;
    sched_admit(&d.sched);
    EXPECT(b->is_following);
    desk_fini(&d);
}

TEST(sched_shares_no_text_between_domains_prefixes_and_with_scores)
{
    struct desk d;
    struct kv_prefix p = {.n_tokens = 5, .first_pos = 5, .digest = {1}}, same = p, other = p;
    other.digest[15] = 1;
    desk_init_with(&d, 100, true);
    struct seq *a = desk_add(&d, 40, 1, &p);
    run_to_end_of_prompt(&d, a);
    struct seq *bare = desk_add(&d, 40, 1, NULL), *newer = desk_add(&d, 40, 1, &other),
               *scored = desk_add(&d, 40, 1, &p);
    scored->job->is_echo = true;
    scored->job->n_logprobs = 0;
    run_to_end_of_prompt(&d, scored);
    run_to_end_of_prompt(&d, newer);
    EXPECT(bare->n_cached == 0 && newer->n_cached == 0 && scored->n_cached == 0);
    EXPECT_EQ(scored->blocks[1], a->blocks[1]); /* what it computed is not kept twice */
    for (int i = 0; i < d.n; i++)
        if (d.seqs[i])
            desk_remove(&d, d.seqs[i]);
    struct seq *again = desk_add(&d, 40, 1, &same), *stranger = desk_add_for(&d, 3, 40, 1, &p);
    run_to_end_of_prompt(&d, stranger);
    EXPECT(again->n_cached == 32 && stranger->n_cached == 0);
    desk_fini(&d);
}

TEST(sched_removes_from_anywhere)
{
    struct desk d;
    struct rng r = {61};
    for (int round = 0; round < 300; round++) {
        desk_init(&d, rng_between(&r, 4, 20));
        int n = rng_between(&r, 1, MAX_SEQS);
        for (int i = 0; i < n; i++)
            desk_add(&d, rng_between(&r, 1, 40), rng_below(&r, 20), NULL);
        for (int gone = 0; gone < n;) {
            step(&d);
            int i = rng_below(&r, n);
            EXPECT(d.sched.n_running + d.sched.fair.n_waiting == n - gone);
            if (d.seqs[i]) {
                desk_remove(&d, d.seqs[i]);
                gone++;
            }
        }
        EXPECT_EQ(d.sched.fair.n_waiting, 0);
        desk_fini(&d);
    }
}

static void desk_init_wide(struct desk *d, int chunk)
{
    desk_init(d, 200);
    batch_fini(&d->batch);
    batch_init(&d->batch, MAX_RUNNING + chunk, MAX_RUNNING, 8);
    d->sched.chunk = chunk;
}

static struct seq *desk_add_scored(struct desk *d, uint32_t domain, int n_prompt)
{
    struct seq *q = desk_add_for(d, domain, n_prompt, 1, NULL);
    q->job->is_echo = true;
    q->job->n_logprobs = 0;
    return q;
}

/* What a scored prompt may not take yet is no claim of its tenant's on the step's rows. */
TEST(sched_deals_the_rows_above_the_scored_to_others)
{
    struct desk d;
    desk_init_wide(&d, 160);
    struct seq *scored = desk_add_scored(&d, 0, 200), *plain = desk_add_for(&d, 1, 200, 1, NULL);
    step(&d);
    EXPECT_EQ(rows_of(&d, scored), SCHED_SCORED);
    EXPECT_EQ(rows_of(&d, plain), 160 - SCHED_SCORED);
    desk_fini(&d);
}

TEST(sched_shares_the_scored_rows_by_tenant_and_weight)
{
    struct desk d;
    desk_init_wide(&d, 300);
    struct seq *many[3], *one = desk_add_scored(&d, 1, 200);
    for (int i = 0; i < 3; i++)
        many[i] = desk_add_scored(&d, 0, 200);
    step(&d);
    EXPECT_EQ(rows_of(&d, one), SCHED_SCORED / 2);
    for (int i = 0; i < 3; i++)
        EXPECT_EQ(rows_of(&d, many[i]), SCHED_SCORED / 2 / 3);
    one->domain->weight = 3;
    step(&d);
    EXPECT_EQ(rows_of(&d, one), SCHED_SCORED * 3 / 4);
    for (int i = 0; i < 3; i++)
        EXPECT_EQ(rows_of(&d, many[i]), SCHED_SCORED / 4 / 3);
    many[0]->domain->weight = FAIR_MAX_WEIGHT; /* what is left for the other is a row all the same */
    step(&d);
    EXPECT_EQ(rows_of(&d, one), 1);
    EXPECT(d.batch.n_logits <= MAX_RUNNING + SCHED_SCORED);
    desk_fini(&d);
}

/* Prompts whose every row is scored share what room there is for logits; others take the rest. */
TEST(sched_bounds_the_rows_that_are_scored)
{
    struct desk d;
    desk_init_wide(&d, 300);
    struct seq *a = desk_add_scored(&d, 0, 150), *b = desk_add_scored(&d, 0, 150),
               *c = desk_add(&d, 150, 1, NULL);
    step(&d);
    EXPECT_EQ(rows_of(&d, a), SCHED_SCORED / 2);
    EXPECT_EQ(rows_of(&d, b), SCHED_SCORED / 2);
    EXPECT_EQ(rows_of(&d, c), 150);
    EXPECT_EQ(d.batch.n_logits, SCHED_SCORED + 1);
    desk_remove(&d, b);
    step(&d);
    EXPECT_EQ(rows_of(&d, a), SCHED_SCORED);
    desk_fini(&d);
}

TEST(sched_tells_the_load_and_the_step)
{
    struct desk d;
    struct kv_prefix p = {.n_tokens = 30, .first_pos = 30};
    desk_init(&d, 200);
    desk_add(&d, 2, 5, NULL);
    step(&d);
    desk_add(&d, 20, 5, &p);
    sched_admit(&d.sched);
    struct pace_load l = sched_load(&d.sched);
    EXPECT_EQ(l.n_decoding, 1);
    EXPECT_EQ(l.n_left, 20);
    EXPECT_EQ(l.position, 30);
    step(&d);
    EXPECT_EQ(d.sched.step.n_decoding, 1);
    EXPECT_EQ(d.sched.step.n_prompt, CHUNK);
    EXPECT_EQ(d.sched.step.positions, 10 * 30 + 45);
    l = sched_load(&d.sched);
    EXPECT_EQ(l.n_left, 10);
    EXPECT_EQ(l.position, 40);
    desk_fini(&d);
}

/* Position 90 costs the one who is there; a tenant's own prompts are priced as the furthest. */
TEST(sched_prices_the_next_rows_by_the_tenants_that_share_them)
{
    struct desk d;
    struct kv_prefix far = {.n_tokens = 90, .first_pos = 90};
    desk_init(&d, 200);
    struct seq *one = desk_add_for(&d, 0, 100, 5, &far), *near = desk_add_for(&d, 0, 100, 5, NULL);
    sched_admit(&d.sched);
    EXPECT(sched_load(&d.sched).position == 90);
    struct seq *other = desk_add_for(&d, 1, 100, 5, NULL);
    sched_admit(&d.sched);
    EXPECT(sched_load(&d.sched).position == 45);
    EXPECT_EQ(sched_load(&d.sched).n_left, 300);
    desk_add_for(&d, 2, 100, 5, NULL);
    sched_admit(&d.sched);
    EXPECT(sched_load(&d.sched).position == 30);
    one->domain->weight = 2;
    EXPECT(sched_load(&d.sched).position == 45);
    one->domain->weight = 1;
    desk_remove(&d, near);
    desk_remove(&d, other);
    other = desk_add_for(&d, 3, 5, 5, NULL); /* half a chunk, so half as many rows */
    sched_admit(&d.sched);
    EXPECT(sched_load(&d.sched).position == 90 * 2 / 5.0);
    desk_fini(&d);
}
