/* Rotary position embedding, and keys and values into tiles. */
#include "core/rope.h"

#include "core/engine.h"

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

void rope_store(const float *k, const float *v, int head_dim, int slot, enum dtype t, void *k_tile,
                void *v_tile)
{
    if (t == DTYPE_F32) {
        float *kt = k_tile, *vt = (float *)v_tile + (size_t)slot * (size_t)head_dim;
        for (int d = 0; d < head_dim; d++) {
            kt[d * KV_TILE + slot] = k[d];
            vt[d] = v[d];
        }
        return;
    }
    uint16_t *kt = k_tile, *vt = (uint16_t *)v_tile + (size_t)slot * (size_t)head_dim;
    for (int d = 0; d < head_dim; d++) {
        kt[d * KV_TILE + slot] = f32_to_bf16(k[d]);
        vt[d] = f32_to_bf16(v[d]);
    }
}
