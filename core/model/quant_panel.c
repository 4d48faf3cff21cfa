/* Scales and codes of weights. */
#include "core/model/quant_panel.h"

#include "core/kernels/quant.h"

#include <math.h>

enum { LANES = 16 };

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

/* Codes of n weights; lowest <= 0 <= highest. */
static void codes_of(const float *w, size_t n, float inverse, float lowest, float highest,
                     int *code)
{
    for (size_t i = 0; i < n; i++) {
        float t = w[i] * inverse;
        t = t < lowest ? lowest : t > highest ? highest : t;
        code[i] =
            (int)(t + 12582912.0f) - 12582912; /* 1.5 * 2^23: rounds to the nearest, ties to even */
    }
}

static float int4_error(const float *w, size_t n, float scale)
{
    int code[QUANT_GROUP];
    float sum = 0;
    codes_of(w, n, inverse_of(scale), -8, 7, code);
    for (size_t i = 0; i < n; i++)
        sum += (scale * (float)code[i] - w[i]) * (scale * (float)code[i] - w[i]);
    return sum;
}

/* The largest weight becomes -8, the code that stands alone, or 7, where a weight nearly as large
 * of the other sign would lose more. Scales that lose less squared error still, at the largest
 * weight's expense, make worse models. */
static float int4_scale(const float *w, size_t n, float largest)
{
    float eight = rounded(largest / -8), seven = rounded(largest / 7);
    return int4_error(w, n, seven) < int4_error(w, n, eight) ? seven : eight;
}

/* Quads of a block or group, one output's: of int8 each in a line, of int4 two. */
static void place_int8(const int code[QUANT_BLOCK], unsigned char *at)
{
    for (size_t i = 0; i < QUANT_BLOCK; i++)
        at[i / 4 * QUANT_LINE + i % 4] = (unsigned char)(INT8_ZERO + code[i]);
}

static void place_int4(const int code[QUANT_GROUP], unsigned char *at)
{
    for (size_t i = 0; i < QUANT_GROUP / 2; i++) {
        size_t first = i / 4 * 8 + i % 4;
        at[i / 4 * QUANT_LINE + i % 4] = (unsigned char)((INT4_ZERO + code[first]) |
                                                         (INT4_ZERO + code[first + 4]) << 4);
    }
}

/* A block of n weights of one output, rotated. */
static void pack_int8(const float *w, size_t n, size_t lane, unsigned char *block)
{
    float v[QUANT_BLOCK] = {0};
    int code[QUANT_BLOCK] = {0};
    memcpy(v, w, n * sizeof *v);
    quant_rotate(v);
    float scale = fabsf(largest_of(v, QUANT_BLOCK)) / 127;
    ((float *)(void *)block)[lane] = scale * 0.125f;
    if (scale == scale)
        codes_of(v, QUANT_BLOCK, inverse_of(scale), -127, 127, code);
    place_int8(code, block + QUANT_LINE + lane * 4);
}

/* A group of n weights of one output: the first or the second of a block. */
static void pack_int4(const float *w, size_t n, size_t lane, size_t group, unsigned char *block)
{
    enum { LEN = QUANT_GROUP / 8 * QUANT_LINE };
    int code[QUANT_GROUP] = {0};
    float scale = largest_of(w, n);
    if (scale == scale) {
        scale = int4_scale(w, n, scale);
        codes_of(w, n, inverse_of(scale), -8, 7, code);
    }
    ((uint16_t *)(void *)block)[2 * lane + group] = f32_to_bf16(scale);
    place_int4(code, block + QUANT_LINE + group * LEN + lane * 4);
}

/* Of n weights those of a block or group of so many that begins at k; none behind the last. */
static size_t within(size_t n, size_t k, size_t size)
{
    size_t left = k < n ? n - k : 0;
    return left < size ? left : size;
}

static void pack_block(enum dtype t, const float *w, size_t n, size_t lane, unsigned char *block)
{
    if (t == DTYPE_INT8)
        pack_int8(w, n, lane, block);
    else
        for (size_t g = 0; g < 2; g++)
            pack_int4(w + within(n, 0, g * QUANT_GROUP), within(n, g * QUANT_GROUP, QUANT_GROUP),
                      lane, g, block);
}

void quant_panel_pack(enum dtype t, const float *rows, size_t n_in, void *panel)
{
    unsigned char *block = panel;
    for (size_t k = 0; k < n_in; k += QUANT_BLOCK, block += quant_block_bytes(t))
        for (size_t o = 0; o < LANES; o++)
            pack_block(t, rows + o * n_in + k, within(n_in, k, QUANT_BLOCK), o, block);
}

static void unpack_int8(const unsigned char *block, size_t lane, float out[QUANT_BLOCK])
{
    const unsigned char *at = block + QUANT_LINE + lane * 4;
    float scale = ((const float *)(const void *)block)[lane];
    for (size_t i = 0; i < QUANT_BLOCK; i++)
        out[i] = scale * (float)(at[i / 4 * QUANT_LINE + i % 4] - INT8_ZERO);
    quant_rotate(out);
    for (size_t i = 0; i < QUANT_BLOCK; i++)
        out[i] *= 0.125f;
}

static void unpack_int4(const unsigned char *block, size_t lane, float out[QUANT_BLOCK])
{
    const unsigned char *at = block + QUANT_LINE + lane * 4;
    const uint16_t *scales = (const uint16_t *)(const void *)block + 2 * lane;
    for (size_t i = 0; i < QUANT_BLOCK; i++) {
        int code = (at[i / 8 * QUANT_LINE + i % 4] >> i % 8 / 4 * 4 & 0xf) - INT4_ZERO;
        out[i] = bf16_to_f32(scales[i / QUANT_GROUP]) * (float)code;
    }
}

void quant_panel_row(enum dtype t, const void *panel, size_t lane, size_t n_in, float *out)
{
    const unsigned char *block = panel;
    for (size_t k = 0; k < n_in; k += QUANT_BLOCK, block += quant_block_bytes(t)) {
        float w[QUANT_BLOCK];
        (t == DTYPE_INT8 ? unpack_int8 : unpack_int4)(block, lane, w);
        memcpy(out + k, w, within(n_in, k, QUANT_BLOCK) * sizeof *w);
    }
}
