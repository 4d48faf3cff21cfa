/* Where a token's key and value stand in a tile: KV_TILE tokens of one layer and one KV head.
 *
 * Thread: any; pure. Head dimensions are padded to whole panels of sixteen, so that a kernel never
 * meets a half one (Dp). Each tile is what a matrix of panels is (core/model/model.h), two inputs side by side
 * where it is of bf16:
 *     K: lanes are tokens, inputs head dimensions   f32 [Dp, 16]            bf16 [Dp / 2, 16, 2]
 *     V: lanes are head dimensions, inputs tokens   f32 [Dp / 16, 16, 16]   bf16 [Dp / 16, 8, 16, 2]
 */
#ifndef PREFIXD_KV_TILE_H
#define PREFIXD_KV_TILE_H

#include "core/engine.h"

enum { KV_LANES = 16, KV_V_PANEL = KV_TILE * KV_LANES };

static inline size_t kv_tile_dims(int head_dim)
{
    return ((size_t)head_dim + KV_LANES - 1) / KV_LANES * KV_LANES;
}

/* Bytes of a K tile, and of a V tile. */
static inline size_t kv_tile_bytes(int head_dim, enum dtype t)
{
    return kv_tile_dims(head_dim) * KV_TILE * dtype_size(t);
}

/* The element of (input, lane) from the start of its panel. */
static inline size_t kv_tile_at(enum dtype t, size_t input, size_t lane)
{
    return t == DTYPE_F32 ? input * KV_LANES + lane : (input / 2 * KV_LANES + lane) * 2 + input % 2;
}

static inline size_t kv_tile_k_at(enum dtype t, size_t dim, size_t slot)
{
    return kv_tile_at(t, dim, slot);
}

static inline size_t kv_tile_v_at(enum dtype t, size_t dim, size_t slot)
{
    return dim / KV_LANES * KV_V_PANEL + kv_tile_at(t, slot, dim % KV_LANES);
}

#endif
