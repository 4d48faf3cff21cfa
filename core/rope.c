/* Rotary position embedding, and keys and values into tiles. */
#include "core/rope.h"

#include "core/kv_tile.h"

#include <math.h>

void rope_angles(const float *inv_freq, int half, int pos, float *cos_out, float *sin_out)
{
    for (int i = 0; i < half; i++) {
        float angle = inv_freq[i] * (float)pos;
        cos_out[i] = (float)cos((double)angle);
        sin_out[i] = (float)sin((double)angle);
    }
}

void rope_rotate(float *x, int n_heads, int half, const float *cos_in, const float *sin_in)
{
    for (int h = 0; h < n_heads; h++, x += 2 * half)
        for (int i = 0; i < half; i++) {
            float a = x[i], b = x[i + half];
            x[i] = a * cos_in[i] - b * sin_in[i];
            x[i + half] = b * cos_in[i] + a * sin_in[i];
        }
}

static void store_f32(const float *k, const float *v, size_t head_dim, size_t slot, float *kt,
                      float *vt)
{
    for (size_t d = 0; d < kv_tile_dims((int)head_dim); d++) {
        bool is_padding = d >= head_dim;
        kt[kv_tile_k_at(DTYPE_F32, d, slot)] = is_padding ? 0 : k[d];
        vt[kv_tile_v_at(DTYPE_F32, d, slot)] = is_padding ? 0 : v[d];
    }
}

/* Of a pair of tokens the second is zero until it is there: a sum over pairs meets both. */
static void store_bf16(const float *k, const float *v, size_t head_dim, size_t slot, uint16_t *kt,
                       uint16_t *vt)
{
    for (size_t d = 0; d < head_dim; d++) {
        kt[kv_tile_k_at(DTYPE_BF16, d, slot)] = f32_to_bf16(k[d]);
        vt[kv_tile_v_at(DTYPE_BF16, d, slot)] = f32_to_bf16(v[d]);
    }
    for (size_t d = head_dim; d < kv_tile_dims((int)head_dim); d++) {
        kt[kv_tile_k_at(DTYPE_BF16, d, slot)] = 0;
        vt[kv_tile_v_at(DTYPE_BF16, d, slot)] = 0;
    }
    for (size_t d = 0; slot % 2 == 0 && d < kv_tile_dims((int)head_dim); d++)
        vt[kv_tile_v_at(DTYPE_BF16, d, slot + 1)] = 0;
}

void rope_store(const float *k, const float *v, int head_dim, int slot, enum dtype t, void *k_tile,
                void *v_tile)
{
    if (t == DTYPE_F32)
        store_f32(k, v, (size_t)head_dim, (size_t)slot, k_tile, v_tile);
    else
        store_bf16(k, v, (size_t)head_dim, (size_t)slot, k_tile, v_tile);
}
