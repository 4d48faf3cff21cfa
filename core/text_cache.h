/* The blocks of requests: who reads them, and which hold text that is found again by what it says.
 *
 * Thread: engine. A full block is kept under its key: the tenant's domain, the prefix before the
 * text, the block before it, and its sixteen tokens. The block before it stands for all the text
 * up to there, because a block goes only after those that follow it. So a kept block is a place in
 * one tenant's tree of texts, and found means equal: keys are compared, and the hash only says
 * where to look. It is keyed with a secret, so that nobody can make texts that lie in one bucket.
 * Model and types are not part of the key: a cache belongs to one engine, which has one of each.
 *
 * A block has a reference for every sequence that reads it; whoever holds one holds the one before
 * it. A kept block without references is idle: it counts as free, and goes when room is needed. It
 * is the tenant with the most idle blocks who loses one, the one that was used longest ago; so
 * nobody's flood of texts takes what is remembered of others with less.
 *
 *     int32_t b = text_cache_find(c, &key);  held, or -1: to be computed in a block of one's own
 *     text_cache_take(c, 5, blocks);         such blocks
 *     blocks[i] = text_cache_keep(c, &key, blocks[i]);  full: now the one block with this text
 *     text_cache_give(c, blocks, n);         of a sequence, first to last */
#ifndef PREFIXD_TEXT_CACHE_H
#define PREFIXD_TEXT_CACHE_H

#include "core/kv_pool.h"

struct text_key { /* compared as bytes: no padding */
    uint32_t domain;
    int32_t before; /* block of the sixteen tokens before these; -1: these are the first */
    unsigned char prefix[KV_PREFIX_DIGEST]; /* zeros: none */
    int32_t ids[KV_TILE];
};

struct text_block {
    int n_refs;
    struct text_domain *domain; /* NULL: not kept; then only n_refs means anything */
    struct text_key key;
    int n_after;                /* kept blocks whose key names this one */
    int32_t next;               /* in its bucket; -1: the last */
    int32_t older, newer;       /* while idle, in its domain's list; -1: none */
};

struct text_domain { /* a tenant who has kept blocks */
    uint32_t id;
    int n_kept, n_idle;
    int32_t oldest, newest; /* idle ones */
    struct text_domain *next;
};

struct text_cache {
    struct kv_pool *pool;
    bool is_off;               /* nothing is kept, so nothing is found */
    int max_blocks;            /* held and idle ones together */
    int n_held, n_idle;
    struct text_block *blocks; /* [the pool's] */
    struct text_domain *domains;
    int32_t *buckets;          /* [n_buckets] first blocks, -1: none */
    uint32_t n_buckets;        /* a power of two */
    unsigned char secret[16];
    uint64_t n_asked, n_found; /* prompt tokens of those who looked; of these what was there */
    uint64_t n_evicted;        /* blocks */
};

void text_cache_init(struct text_cache *c, struct kv_pool *pool, int max_blocks, bool is_off);
void text_cache_fini(struct text_cache *c); /* everything was given back */

/* Blocks that nobody else reads, all or none. false: too many are held. */
bool text_cache_take(struct text_cache *c, int n, int32_t *out);

/* The block that was kept under this key, with one more reference; -1: none. The block before it is
 * held by the caller, here and in text_cache_keep. */
int32_t text_cache_find(struct text_cache *c, const struct text_key *key);

/* Block is full, computed, and the caller's alone. What comes back replaces it: itself, or the block
 * that has been kept under this key already, in exchange for it. */
int32_t text_cache_keep(struct text_cache *c, const struct text_key *key, int32_t block);

/* Gives up a reference to each of n blocks of one sequence. */
void text_cache_give(struct text_cache *c, const int32_t *blocks, int n);

#endif
