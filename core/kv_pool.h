/* Paged keys and values: one allocation, cut into blocks of KV_TILE tokens, with a free list.
 *
 * Thread: engine. A block holds every layer's and every KV head's tile of the same sixteen tokens, in
 * the layout of struct kv_prefix, so that attention reads a prefix and a sequence's own blocks alike:
 *     K tile, then V tile (core/kv_tile.h), per (layer, KV head)
 * Memory is mapped at start and paid for when first written. Nothing is cleared between owners:
 * attention never reads a slot that its own sequence has not written. */
#ifndef PREFIXD_KV_POOL_H
#define PREFIXD_KV_POOL_H

#include "core/engine.h"

struct kv_pool {
    int n_layers, n_kv_heads, head_dim;
    enum dtype dtype;
    size_t tile_bytes;  /* of one K or V tile */
    size_t block_bytes;
    unsigned char *memory;
    size_t memory_len;
    int n_blocks, n_free;
    int32_t *free_list; /* [n_free] */
};

/* Bytes of one block for a model of this shape. */
size_t kv_pool_block_bytes(const struct model_shape *s);

/* Bytes for a few whole contexts, but no more than a quarter of an engine's part of the machine. */
size_t kv_pool_default_bytes(const struct model_shape *s, int max_ctx, int n_engines);

int kv_pool_init(struct kv_pool *p, const struct model_shape *s, int n_blocks, struct err *err);
void kv_pool_fini(struct kv_pool *p);

/* Takes n blocks (all or none). false: not enough free now. */
bool kv_pool_take(struct kv_pool *p, int n, int32_t *out);
void kv_pool_give(struct kv_pool *p, const int32_t *blocks, int n);

static inline unsigned char *kv_pool_k(const struct kv_pool *p, int32_t block, int layer, int head)
{
    size_t tile = (size_t)layer * (size_t)p->n_kv_heads + (size_t)head;
    return p->memory + (size_t)block * p->block_bytes + tile * 2 * p->tile_bytes;
}

static inline unsigned char *kv_pool_v(const struct kv_pool *p, int32_t block, int layer, int head)
{
    return kv_pool_k(p, block, layer, head) + p->tile_bytes;
}

#endif
