/* The blocks of requests: references, keys, and what is forgotten first. */
#include "core/text_cache.h"

#include "core/base/check.h"
#include "core/base/mem.h"

#include <sodium.h>
#include <stdlib.h>
#include <string.h>

_Static_assert(sizeof(struct text_key) == 8 + KV_PREFIX_DIGEST + KV_TILE * 4, "no padding");
_Static_assert(sizeof((struct text_cache *)0)->secret == crypto_shorthash_KEYBYTES, "whole key");

void text_cache_init(struct text_cache *c, struct kv_pool *pool, int max_blocks, bool is_off)
{
    CHECK(sodium_init() >= 0 && max_blocks <= pool->n_blocks);
    *c = (struct text_cache){
        .pool = pool, .max_blocks = max_blocks, .is_off = is_off, .n_buckets = 1};
    while (c->n_buckets < (uint32_t)max_blocks)
        c->n_buckets *= 2;
    c->blocks = xcalloc((size_t)pool->n_blocks, sizeof *c->blocks);
    c->buckets = xcalloc(c->n_buckets, sizeof *c->buckets);
    for (uint32_t i = 0; i < c->n_buckets; i++)
        c->buckets[i] = -1;
    randombytes_buf(c->secret, sizeof c->secret);
}

/* ---- keys ------------------------------------------------------------------------------------ */

static int32_t *bucket_of(const struct text_cache *c, const struct text_key *key)
{
    uint64_t h;
    unsigned char out[crypto_shorthash_BYTES];
    crypto_shorthash(out, (const unsigned char *)key, sizeof *key, c->secret);
    memcpy(&h, out, sizeof h);
    return &c->buckets[h & (c->n_buckets - 1)];
}

static int32_t look_up(const struct text_cache *c, const struct text_key *key)
{
    int32_t b = *bucket_of(c, key);
    while (b >= 0 && memcmp(&c->blocks[b].key, key, sizeof *key) != 0)
        b = c->blocks[b].next;
    return b;
}

static struct text_domain *domain_of(struct text_cache *c, uint32_t id)
{
    struct text_domain *d = c->domains;
    while (d && d->id != id)
        d = d->next;
    if (d)
        return d;
    d = xcalloc(1, sizeof *d);
    *d = (struct text_domain){.id = id, .oldest = -1, .newest = -1, .next = c->domains};
    return c->domains = d;
}

static void drop_domain(struct text_cache *c, struct text_domain *d)
{
    struct text_domain **at = &c->domains;
    while (*at != d)
        at = &(*at)->next;
    *at = d->next;
    free(d);
}

static void enter(struct text_cache *c, const struct text_key *key, int32_t block)
{
    struct text_block *b = &c->blocks[block];
    int32_t *bucket = bucket_of(c, key);
    b->key = *key;
    b->next = *bucket;
    *bucket = block;
    b->domain = domain_of(c, key->domain);
    b->domain->n_kept++;
    if (key->before >= 0)
        c->blocks[key->before].n_after++;
}

static void forget(struct text_cache *c, int32_t block)
{
    struct text_block *b = &c->blocks[block];
    int32_t *at = bucket_of(c, &b->key);
    CHECK(!b->n_after); /* or its number would stand for another text in their keys */
    while (*at != block)
        at = &c->blocks[*at].next;
    *at = b->next;
    if (b->key.before >= 0)
        c->blocks[b->key.before].n_after--;
    if (--b->domain->n_kept == 0)
        drop_domain(c, b->domain);
    b->domain = NULL;
}

/* ---- idle blocks ----------------------------------------------------------------------------- */

static void set_idle(struct text_cache *c, int32_t block)
{
    struct text_block *b = &c->blocks[block];
    struct text_domain *d = b->domain;
    b->older = d->newest;
    b->newer = -1;
    *(d->newest >= 0 ? &c->blocks[d->newest].newer : &d->oldest) = block;
    d->newest = block;
    d->n_idle++;
    c->n_idle++;
}

static void set_busy(struct text_cache *c, int32_t block)
{
    struct text_block *b = &c->blocks[block];
    struct text_domain *d = b->domain;
    *(b->older >= 0 ? &c->blocks[b->older].newer : &d->oldest) = b->newer;
    *(b->newer >= 0 ? &c->blocks[b->newer].older : &d->newest) = b->older;
    d->n_idle--;
    c->n_idle--;
}

/* A block is given up after those that follow it, so the oldest has none left that follow. */
static void evict_oldest(struct text_cache *c, struct text_domain *d)
{
    int32_t block = d->oldest;
    set_busy(c, block);
    forget(c, block); /* with its last block d is gone */
    kv_pool_give(c->pool, &block, 1);
    c->n_evicted++;
}

/* Of equals the first in the list. */
static struct text_domain *most_idle(const struct text_cache *c, const struct text_domain *but)
{
    struct text_domain *most = NULL;
    for (struct text_domain *d = c->domains; d; d = d->next)
        if (d != but && d->n_idle && (!most || d->n_idle > most->n_idle))
            most = d;
    return most;
}

static bool is_before(const struct text_domain *d, const struct text_domain *other)
{
    while (d && d != other)
        d = d->next;
    return d != NULL;
}

/* n blocks, each from whoever has most idle ones then. Others' numbers stay, so one goes on giving
 * until the next has more. */
static void evict(struct text_cache *c, int n)
{
    while (n > 0) {
        struct text_domain *most = most_idle(c, NULL), *next = most_idle(c, most);
        CHECK(most);
        int give = most->n_idle;
        if (next)
            give -= next->n_idle - is_before(most, next);
        give = give < n ? give : n;
        n -= give;
        while (give-- > 0)
            evict_oldest(c, most);
    }
}

/* ---- references ------------------------------------------------------------------------------ */

static void hold(struct text_cache *c, int32_t block)
{
    struct text_block *b = &c->blocks[block];
    if (b->n_refs++)
        return;
    c->n_held++;
    if (b->domain)
        set_busy(c, block);
}

static void drop(struct text_cache *c, int32_t block)
{
    struct text_block *b = &c->blocks[block];
    CHECK(b->n_refs > 0);
    if (--b->n_refs)
        return;
    c->n_held--;
    if (b->domain)
        set_idle(c, block);
    else
        kv_pool_give(c->pool, &block, 1);
}

bool text_cache_take(struct text_cache *c, int n, int32_t *out)
{
    if (n > c->max_blocks - c->n_held)
        return false;
    evict(c, n - (c->max_blocks - c->n_held - c->n_idle));
    CHECK(kv_pool_take(c->pool, n, out));
    for (int i = 0; i < n; i++)
        hold(c, out[i]);
    return true;
}

static void check_before(const struct text_cache *c, const struct text_key *key)
{
    if (key->before < 0)
        return;
    const struct text_block *b = &c->blocks[key->before];
    CHECK(b->n_refs > 0 && b->domain && b->domain->id == key->domain);
}

int32_t text_cache_find(struct text_cache *c, const struct text_key *key)
{
    int32_t block = c->is_off ? -1 : look_up(c, key);
    if (block < 0)
        return -1;
    check_before(c, key);
    hold(c, block);
    return block;
}

int32_t text_cache_keep(struct text_cache *c, const struct text_key *key, int32_t block)
{
    if (c->is_off)
        return block;
    CHECK(c->blocks[block].n_refs == 1 && !c->blocks[block].domain);
    int32_t kept = text_cache_find(c, key);
    if (kept >= 0) {
        drop(c, block);
        return kept;
    }
    check_before(c, key);
    enter(c, key, block);
    return block;
}

void text_cache_give(struct text_cache *c, const int32_t *blocks, int n)
{
    while (n-- > 0)
        drop(c, blocks[n]);
}

void text_cache_fini(struct text_cache *c)
{
    if (!c->pool)
        return;
    CHECK(!c->n_held);
    evict(c, c->n_idle);
    CHECK(!c->domains);
    free(c->blocks);
    free(c->buckets);
    *c = (struct text_cache){0};
}
