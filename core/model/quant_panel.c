/* Scales and codes of weights. */
#include "core/model/quant_panel.h"

#include "core/kernels/quant.h"

#include <math.h>

enum { LANES = 16 };

/* Where a code lies: in which byte behind a block's scales, and how far up in it. */
struct place {
    size_t byte;
    int shift;
};

static struct place place_of(enum dtype t, size_t i, size_t lane)
{
    size_t quad = i / 4, in = lane * 4 + i % 4;
    if (t == DTYPE_INT8)
        return (struct place){quad * QUANT_LINE + in, 0};
    return (struct place){quad / 2 * QUANT_LINE + in, (int)(quad % 2 * 4)};
}

/* The weight of the largest magnitude; NaN if one is not finite. */
static float largest_of(const float *w, size_t n)
{
    float most = 0;
    for (size_t i = 0; i < n; i++) {
        if (!isfinite(w[i]))
            return NAN;
        most = fabsf(w[i]) > fabsf(most) ? w[i] : most;
    }
    return most;
}

static float rounded(float scale)
{
    return bf16_to_f32(f32_to_bf16(scale));
}

/* What weights are multiplied by to become codes; nothing where that would be infinite. */
static float inverse_of(float scale)
{
    return fabsf(scale) >= 1e-38f ? 1 / scale : 0;
}

static int code_of(float w, float inverse, int lowest, int highest)
{
    float code = nearbyintf(w * inverse);
    return code < (float)lowest ? lowest : code > (float)highest ? highest : (int)code;
}

static float scale_of(enum dtype t, const float *w, size_t n)
{
    float largest = largest_of(w, n);
    return rounded(t == DTYPE_INT8 ? fabsf(largest) / 127 : largest / -8);
}

/* A group of n weights of one output: inputs first .. of a block. */
static void pack_group(enum dtype t, const float *w, size_t first, size_t n, size_t lane, unsigned char *block)
{
    float scale = scale_of(t, w, n), inverse = inverse_of(scale);
    uint16_t *scales = (uint16_t *)(void *)block;
    int zero = quant_zero(t), low = t == DTYPE_INT8 ? -127 : -8, high = t == DTYPE_INT8 ? 127 : 7;
    scales[2 * lane + first / QUANT_GROUP] = f32_to_bf16(scale);
    for (size_t i = 0; i < QUANT_GROUP; i++) {
        struct place at = place_of(t, first + i, lane);
        int code = i < n && scale == scale ? code_of(w[i], inverse, low, high) : 0;
        block[QUANT_LINE + at.byte] |= (unsigned char)((zero + code) << at.shift);
    }
}

void quant_panel_pack(enum dtype t, const float *rows, size_t n_in, void *panel)
{
    memset(panel, 0, quant_panel_bytes(t, n_in));
    for (size_t k = 0; k < quant_blocks(n_in) * QUANT_BLOCK; k += QUANT_GROUP)
        for (size_t o = 0; o < LANES; o++) {
            size_t left = k < n_in ? n_in - k : 0;
            pack_group(t, left ? rows + o * n_in + k : rows, k % QUANT_BLOCK, left < QUANT_GROUP ? left : QUANT_GROUP,
                       o, (unsigned char *)panel + k / QUANT_BLOCK * quant_block_bytes(t));
        }
}

void quant_panel_row(enum dtype t, const void *panel, size_t lane, size_t n_in, float *out)
{
    int mask = t == DTYPE_INT8 ? 0xff : 0xf;
    for (size_t i = 0; i < n_in; i++) {
        const unsigned char *block = (const unsigned char *)panel + i / QUANT_BLOCK * quant_block_bytes(t);
        struct place at = place_of(t, i % QUANT_BLOCK, lane);
        int code = (block[QUANT_LINE + at.byte] >> at.shift & mask) - quant_zero(t);
        uint16_t scale = ((const uint16_t *)(const void *)block)[2 * lane + i % QUANT_BLOCK / QUANT_GROUP];
        out[i] = bf16_to_f32(scale) * (float)code;
    }
}
