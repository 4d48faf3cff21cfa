/* Rotary position embedding and where keys and values of a token go (Su et al., arXiv 2104.09864;
 * the half-rotation layout of Hugging Face's Llama: dimension d pairs with d + Dh/2).
 *
 * Thread: any; pure. */
#ifndef PREFIXD_ROPE_H
#define PREFIXD_ROPE_H

#include "core/base/dtype.h"

#include <stdbool.h>

/* cos, sin: [Dh/2] for one position, computed as transformers does in f32. */
void rope_angles(const float *inv_freq, int half, int pos, float *cos_out, float *sin_out);

/* Rotates n_heads vectors of 2 * half numbers in place. */
void rope_rotate(float *x, int n_heads, int half, const float *cos_in, const float *sin_in);

/* Writes one head's key and value of token slot (0..KV_TILE-1) into a K and a V tile
 * (core/kv_tile.h), zeros into the padding of its head dimensions. A bf16 value lies in a pair with
 * the next token's: writing an even slot's zeroes that one, so the slots of a tile are written in
 * order. */
void rope_store(const float *k, const float *v, int head_dim, int slot, enum dtype t, void *k_tile,
                void *v_tile);

#endif
