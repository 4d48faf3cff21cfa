/* How prefixes are made: storage in the layout that attention reads, filled from raw keys and values, from
 * hidden vectors, or from the blocks of a finished causal pass.
 *
 * Thread: any; a prefix under construction belongs to one thread. The public calls are in core/engine.h. */
#ifndef PREFIXD_KV_PREFIX_H
#define PREFIXD_KV_PREFIX_H

#include "core/engine.h"
#include "core/kv_pool.h"

/* All zeros; NULL with ERR_NO_MEMORY, or ERR_ADAPTER when the size overflows. */
struct kv_prefix *kv_prefix_new(const struct model_shape *s, int n_tokens, struct err *err);

/* A sequence's first n_tokens tokens, as they stand in its blocks. Still to be finished, which takes a
 * look at every byte and need not hold up the engine. */
struct kv_prefix *kv_prefix_from_blocks(const struct model_shape *s, const struct kv_pool *pool,
                                        const int32_t *blocks, int n_tokens, struct err *err);

/* Checks what was made and gives it its digest; takes p. NULL with ERR_ADAPTER: not finite. */
struct kv_prefix *kv_prefix_finish(struct kv_prefix *p, struct err *err);

#endif
