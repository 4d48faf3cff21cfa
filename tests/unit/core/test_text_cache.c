/* The text cache: only equal text is found, held blocks stay, idle ones go in their order. */
#include "core/text_cache.h"

#include <stdlib.h>
#include <string.h>

#include "core/base/check.h"
#include "tests/support/rng.h"
#include "tests/support/tiny.h"
#include "tests/test.h"

static const struct model_shape shape = {
    .n_layers = 1, .n_kv_heads = 1, .head_dim = 2, .kv_dtype = DTYPE_F32};

struct shelf { /* a cache and its pool */
    struct kv_pool pool;
    struct text_cache c;
};

static void shelf_init(struct shelf *s, int n_pool, int max_blocks)
{
    struct err err = {0};
    CHECK(kv_pool_init(&s->pool, &shape, n_pool, &err) == 0);
    text_cache_init(&s->c, &s->pool, max_blocks, false);
}

static void shelf_fini(struct shelf *s)
{
    text_cache_fini(&s->c);
    EXPECT_EQ(s->pool.n_free, s->pool.n_blocks);
    kv_pool_fini(&s->pool);
}

/* Sixteen tokens that differ from those of any other number. */
static struct text_key key_of(uint32_t domain, int32_t before, int text)
{
    struct text_key key = {.domain = domain, .before = before};
    for (int i = 0; i < KV_TILE; i++)
        key.ids[i] = text;
    return key;
}

static int32_t take(struct shelf *s)
{
    int32_t b = -1;
    EXPECT(text_cache_take(&s->c, 1, &b));
    return b;
}

static int32_t keep(struct shelf *s, uint32_t domain, int32_t before, int text)
{
    struct text_key key = key_of(domain, before, text);
    return text_cache_keep(&s->c, &key, take(s));
}

static int32_t find(struct shelf *s, uint32_t domain, int32_t before, int text)
{
    struct text_key key = key_of(domain, before, text);
    return text_cache_find(&s->c, &key);
}

static void give(struct shelf *s, int32_t block)
{
    text_cache_give(&s->c, &block, 1);
}

/* Whether it is there, without holding it. */
static bool has(struct shelf *s, uint32_t domain, int32_t before, int text)
{
    int32_t b = find(s, domain, before, text);
    if (b >= 0)
        give(s, b);
    return b >= 0;
}

TEST(text_cache_finds_the_very_key_alone)
{
    struct shelf s;
    shelf_init(&s, 20, 20);
    s.c.n_buckets = 1; /* all hashes are equal */
    int32_t root = keep(&s, 1, -1, 7), other_root = keep(&s, 1, -1, 8);
    struct text_key key = key_of(1, root, 9);
    memset(key.prefix, 5, sizeof key.prefix);
    int32_t b = text_cache_keep(&s.c, &key, take(&s));
    EXPECT_EQ(text_cache_find(&s.c, &key), b);
    for (size_t i = 0; i < sizeof key.prefix; i++) {
        struct text_key other = key;
        other.prefix[i]++;
        EXPECT_EQ(text_cache_find(&s.c, &other), -1);
    }
    for (int i = 0; i < KV_TILE; i++) {
        struct text_key other = key;
        other.ids[i]++;
        EXPECT_EQ(text_cache_find(&s.c, &other), -1);
    }
    struct text_key other = key;
    other.before = other_root;
    EXPECT_EQ(text_cache_find(&s.c, &other), -1);
    other = key;
    other.domain = 2;
    other.before = -1;
    EXPECT_EQ(text_cache_find(&s.c, &other), -1);
    EXPECT_EQ(find(&s, 2, -1, 7), -1);
    text_cache_give(&s.c, (int32_t[]){other_root, root, b, b}, 4);
    EXPECT(s.c.n_held == 0 && s.c.n_idle == 3);
    shelf_fini(&s);
}

TEST(text_cache_tells_apart_what_lies_in_one_bucket)
{
    enum { N = 100 };
    struct shelf s;
    int32_t blocks[N];
    shelf_init(&s, N, N);
    s.c.n_buckets = 1;
    for (int i = 0; i < N; i++)
        blocks[i] = keep(&s, (uint32_t)i % 3, -1, i / 3);
    for (int i = 0; i < N; i++)
        give(&s, blocks[i]);
    for (int i = N; i-- > 0;) {
        EXPECT_EQ(find(&s, (uint32_t)i % 3, -1, i / 3), blocks[i]);
        give(&s, blocks[i]);
    }
    shelf_fini(&s);
}

TEST(text_cache_keeps_one_block_of_a_text)
{
    struct shelf s;
    shelf_init(&s, 4, 4);
    int32_t first = keep(&s, 1, -1, 7);
    EXPECT_EQ(s.pool.n_free, 3);
    EXPECT_EQ(keep(&s, 1, -1, 7), first); /* in exchange for the second */
    EXPECT_EQ(s.pool.n_free, 3);
    EXPECT_EQ(s.c.n_held, 1);
    give(&s, first);
    EXPECT(s.c.n_held == 1 && s.c.n_idle == 0);
    give(&s, first);
    EXPECT(s.c.n_held == 0 && s.c.n_idle == 1);
    EXPECT_EQ(s.pool.n_free, 3);
    shelf_fini(&s);
}

TEST(text_cache_that_is_off_keeps_nothing)
{
    struct shelf s;
    struct err err = {0};
    CHECK(kv_pool_init(&s.pool, &shape, 4, &err) == 0);
    text_cache_init(&s.c, &s.pool, 4, true);
    int32_t a = keep(&s, 1, -1, 7), b = keep(&s, 1, -1, 7);
    EXPECT(a != b && !has(&s, 1, -1, 7));
    text_cache_give(&s.c, (int32_t[]){a, b}, 2);
    EXPECT_EQ(s.pool.n_free, 4);
    shelf_fini(&s);
}

TEST(text_cache_leaves_the_rest_of_the_pool_alone)
{
    struct shelf s;
    int32_t held[6];
    shelf_init(&s, 10, 6);
    for (int i = 0; i < 20; i++)
        give(&s, keep(&s, 1, -1, i));
    EXPECT_EQ(s.pool.n_free, 4);
    EXPECT(s.c.n_idle == 6 && s.c.n_evicted == 14);
    EXPECT(!text_cache_take(&s.c, 7, held));
    EXPECT_EQ(s.c.n_idle, 6); /* all or none */
    EXPECT(text_cache_take(&s.c, 6, held));
    EXPECT(!text_cache_take(&s.c, 1, held));
    EXPECT_EQ(s.pool.n_free, 4);
    text_cache_give(&s.c, held, 6);
    shelf_fini(&s);
}

TEST(text_cache_forgets_first_what_was_used_longest_ago_from_its_end)
{
    struct shelf s;
    int32_t a[3], b[2];
    shelf_init(&s, 5, 5);
    for (int i = 0; i < 3; i++)
        a[i] = keep(&s, 1, i ? a[i - 1] : -1, 10 + i);
    text_cache_give(&s.c, a, 3);
    for (int i = 0; i < 2; i++)
        b[i] = keep(&s, 1, i ? b[i - 1] : -1, 20 + i);
    text_cache_give(&s.c, b, 2);
    EXPECT(has(&s, 1, -1, 10)); /* the beginning of the first was used again */
    const int32_t order[] = {a[2], a[1], b[1], b[0], a[0]};
    for (int i = 0; i < 5; i++)
        EXPECT_EQ(take(&s), order[i]);
    text_cache_give(&s.c, order, 5);
    shelf_fini(&s);
}

TEST(text_cache_never_takes_what_is_held)
{
    struct shelf s;
    int32_t a[3], t[4];
    shelf_init(&s, 4, 4);
    for (int i = 0; i < 3; i++)
        a[i] = keep(&s, 1, i ? a[i - 1] : -1, i);
    give(&s, a[2]);
    EXPECT(!text_cache_take(&s.c, 3, t));
    EXPECT(text_cache_take(&s.c, 2, t));
    EXPECT(t[0] != a[0] && t[0] != a[1] && t[1] != a[0] && t[1] != a[1]);
    EXPECT(has(&s, 1, -1, 0) && has(&s, 1, a[0], 1));
    text_cache_give(&s.c, t, 2);
    text_cache_give(&s.c, a, 2);
    shelf_fini(&s);
}

TEST(text_cache_flood_of_one_tenant_leaves_the_others_theirs)
{
    struct shelf s;
    shelf_init(&s, 30, 30);
    for (int d = 1; d <= 2; d++)
        for (int i = 0; i < 5; i++)
            give(&s, keep(&s, (uint32_t)d, -1, i));
    for (int i = 0; i < 1000; i++)
        give(&s, keep(&s, 9, -1, i));
    for (int d = 1; d <= 2; d++)
        for (int i = 0; i < 5; i++)
            EXPECT(has(&s, (uint32_t)d, -1, i));
    for (int i = 0; i < 30; i++) /* and one with more than the others shares with them */
        give(&s, keep(&s, 1, -1, 100 + i));
    for (int i = 0; i < 5; i++)
        EXPECT(has(&s, 2, -1, i));
    EXPECT(has(&s, 9, -1, 999) && !has(&s, 9, -1, 985) && has(&s, 1, -1, 129));
    shelf_fini(&s);
}

/* By the rule for one block: from whoever has most idle ones, of equals from who came last. */
static int giver(const int *n_idle, int n)
{
    int most = n - 1;
    for (int i = n - 1; i >= 0; i--)
        most = n_idle[i] > n_idle[most] ? i : most;
    return most;
}

TEST(text_cache_many_blocks_at_once_go_as_one_by_one)
{
    enum { TENANTS = 4, MOST = 6, ALL = TENANTS * MOST };
    struct rng rng = {78};
    for (int round = 0; round < 500; round++) {
        struct shelf s;
        int n_idle[TENANTS], n = 0;
        int32_t blocks[TENANTS * MOST];
        for (int i = 0; i < TENANTS; i++)
            n += n_idle[i] = rng_between(&rng, 1, MOST);
        shelf_init(&s, ALL, n);
        for (int i = 0; i < TENANTS; i++)
            for (int k = 0; k < n_idle[i]; k++)
                blocks[i * MOST + k] = keep(&s, (uint32_t)i, -1, k);
        for (int i = 0; i < TENANTS; i++)
            for (int k = 0; k < n_idle[i]; k++)
                give(&s, blocks[i * MOST + k]);
        int n_new = rng_between(&rng, 1, n), n_gone[TENANTS] = {0};
        EXPECT(text_cache_take(&s.c, n_new, blocks));
        for (int i = 0; i < n_new; i++) {
            int from = giver(n_idle, TENANTS);
            n_idle[from]--;
            n_gone[from]++;
        }
        for (int i = 0; i < TENANTS; i++)
            for (int k = 0; k < n_gone[i] + n_idle[i]; k++) {
                int32_t b = find(&s, (uint32_t)i, -1, k);
                EXPECT_EQ(b >= 0, k >= n_gone[i]);
                if (b >= 0)
                    give(&s, b);
            }
        text_cache_give(&s.c, blocks, n_new);
        shelf_fini(&s);
    }
}

/* ---- a random life, against what the blocks are said to hold --------------------------------- */

enum { POOL = 40, CAP = 30, READERS = 8, DEEPEST = 8, DOMAINS = 3 };

struct reader { /* as a sequence: its text is known, its blocks fill one by one */
    uint32_t domain;
    int text[DEEPEST];
    int32_t blocks[DEEPEST];
    int n, n_kept; /* 0: it is not there */
};

struct life {
    struct shelf s;
    struct reader readers[READERS];
    long holds[POOL]; /* what was written there: a number for the whole text up to its end */
    int32_t compiling[POOL - CAP];
    int n_compiling;
};

static long number_of(const struct reader *r, int i)
{
    long n = (long)r->domain + 1;
    for (int t = 0; t <= i; t++)
        n = n * 4 + r->text[t] + 1;
    return n;
}

static bool advance(struct life *l, struct reader *r)
{
    struct text_key key = key_of(r->domain, r->n_kept ? r->blocks[r->n_kept - 1] : -1,
                                 r->text[r->n_kept]);
    int32_t b = text_cache_find(&l->s.c, &key);
    if (b < 0)
        return false;
    EXPECT_EQ(l->holds[b], number_of(r, r->n_kept));
    if (r->blocks[r->n_kept] >= 0)
        give(&l->s, r->blocks[r->n_kept]);
    r->blocks[r->n_kept++] = b;
    return true;
}

static void come(struct life *l, struct reader *r, struct rng *rng)
{
    int n = rng_between(rng, 1, DEEPEST), n_held = 0;
    for (int i = 0; i < READERS; i++)
        n_held += l->readers[i].n;
    if (n_held + n > CAP) /* as admission counts: shared ones for each */
        return;
    *r = (struct reader){.domain = (uint32_t)rng_below(rng, DOMAINS), .n = n};
    memset(r->blocks, -1, sizeof r->blocks);
    for (int i = 0; i < n; i++)
        r->text[i] = rng_below(rng, 2);
    while (r->n_kept < n && advance(l, r))
        ;
    EXPECT(text_cache_take(&l->s.c, n - r->n_kept, r->blocks + r->n_kept));
}

/* Computes its next block, or finds that somebody else has. */
static void compute(struct life *l, struct reader *r)
{
    if (r->n_kept == r->n || advance(l, r))
        return;
    int i = r->n_kept;
    struct text_key key = key_of(r->domain, i ? r->blocks[i - 1] : -1, r->text[i]);
    l->holds[r->blocks[i]] = number_of(r, i);
    r->blocks[i] = text_cache_keep(&l->s.c, &key, r->blocks[i]);
    r->n_kept++;
}

static void leave(struct life *l, struct reader *r)
{
    text_cache_give(&l->s.c, r->blocks, r->n);
    *r = (struct reader){0};
}

static void compile(struct life *l, struct rng *rng)
{
    if (l->n_compiling) {
        kv_pool_give(&l->s.pool, l->compiling, l->n_compiling);
        l->n_compiling = 0;
        return;
    }
    int n = rng_between(rng, 1, POOL - CAP);
    EXPECT(kv_pool_take(&l->s.pool, n, l->compiling)); /* whatever is kept */
    for (int i = 0; i < n; i++)
        l->holds[l->compiling[i]] = -1;
    l->n_compiling = n;
}

static void check_books(const struct life *l)
{
    const struct text_cache *c = &l->s.c;
    int n_refs[POOL] = {0}, n_held = 0, n_idle = 0;
    for (int i = 0; i < READERS; i++)
        for (int k = 0; k < l->readers[i].n; k++)
            n_refs[l->readers[i].blocks[k]]++;
    for (int b = 0; b < POOL; b++) {
        EXPECT_EQ(c->blocks[b].n_refs, n_refs[b]);
        n_held += n_refs[b] > 0;
        n_idle += !n_refs[b] && c->blocks[b].domain;
    }
    EXPECT(n_held == c->n_held && n_idle == c->n_idle && n_held + n_idle <= CAP);
    EXPECT_EQ(l->s.pool.n_free, POOL - n_held - n_idle - l->n_compiling);
}

TEST(text_cache_random_life_hands_out_no_text_but_the_right_one)
{
    struct life l = {0};
    struct rng rng = {77};
    shelf_init(&l.s, POOL, CAP);
    l.s.c.n_buckets = 4;
    for (int i = 0, n = tiny_scaled(60000); i < n; i++) {
        struct reader *r = &l.readers[rng_below(&rng, READERS)];
        if (!r->n)
            come(&l, r, &rng);
        else if (rng_below(&rng, 12))
            compute(&l, r);
        else
            leave(&l, r); /* finished or cancelled: with blocks that were never computed */
        if (rng_below(&rng, 20) == 0)
            compile(&l, &rng);
        check_books(&l);
    }
    for (int i = 0; i < READERS; i++)
        leave(&l, &l.readers[i]);
    if (l.n_compiling)
        compile(&l, &rng);
    EXPECT(l.s.c.n_evicted > 100);
    shelf_fini(&l.s);
}
