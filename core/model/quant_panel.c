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

/* Codes of the group's n weights, those of padding included; lowest <= 0 <= highest. */
static void codes_of(const float *w, size_t n, float inverse, float lowest, float highest,
                     int code[QUANT_GROUP])
{
    memset(code, 0, QUANT_GROUP * sizeof *code);
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

static float scale_of(enum dtype t, const float *w, size_t n)
{
    float largest = largest_of(w, n);
    if (largest != largest)
        return largest;
    return t == DTYPE_INT8 ? rounded(fabsf(largest) / 127) : int4_scale(w, n, largest);
}

/* Quads of a group in a panel, one output's: of int8 each in a line, of int4 two. */
static void place_codes(enum dtype t, const int code[QUANT_GROUP], size_t lane,
                        unsigned char *lines)
{
    int zero = quant_zero(t);
    lines += lane * 4;
    for (size_t i = 0; i < QUANT_GROUP && t == DTYPE_INT8; i++)
        lines[i / 4 * QUANT_LINE + i % 4] = (unsigned char)(zero + code[i]);
    for (size_t i = 0; i < QUANT_GROUP / 2 && t == DTYPE_INT4; i++) {
        size_t first = i / 4 * 8 + i % 4;
        lines[i / 4 * QUANT_LINE + i % 4] =
            (unsigned char)((zero + code[first]) | (zero + code[first + 4]) << 4);
    }
}

/* A group of n weights of one output: the first or the second of a block. */
static void pack_group(enum dtype t, const float *w, size_t n, size_t lane, size_t group,
                       unsigned char *block)
{
    float scale = scale_of(t, w, n);
    size_t lines = (quant_block_bytes(t) - QUANT_LINE) / 2;
    int code[QUANT_GROUP];
    ((uint16_t *)(void *)block)[2 * lane + group] = f32_to_bf16(scale);
    codes_of(w, scale == scale ? n : 0, inverse_of(scale), t == DTYPE_INT8 ? -127 : -8,
             t == DTYPE_INT8 ? 127 : 7, code);
    place_codes(t, code, lane, block + QUANT_LINE + group * lines);
}

void quant_panel_pack(enum dtype t, const float *rows, size_t n_in, void *panel)
{
    for (size_t k = 0; k < quant_blocks(n_in) * QUANT_BLOCK; k += QUANT_GROUP)
        for (size_t o = 0; o < LANES; o++) {
            size_t left = k < n_in ? n_in - k : 0;
            pack_group(t, left ? rows + o * n_in + k : rows,
                       left < QUANT_GROUP ? left : QUANT_GROUP, o, k / QUANT_GROUP % 2,
                       (unsigned char *)panel + k / QUANT_BLOCK * quant_block_bytes(t));
        }
}

void quant_panel_row(enum dtype t, const void *panel, size_t lane, size_t n_in, float *out)
{
    int mask = t == DTYPE_INT8 ? 0xff : 0xf;
    for (size_t i = 0; i < n_in; i++) {
        const unsigned char *block =
            (const unsigned char *)panel + i / QUANT_BLOCK * quant_block_bytes(t);
        struct place at = place_of(t, i % QUANT_BLOCK, lane);
        int code = (block[QUANT_LINE + at.byte] >> at.shift & mask) - quant_zero(t);
        uint16_t scale =
            ((const uint16_t *)(const void *)block)[2 * lane + i % QUANT_BLOCK / QUANT_GROUP];
        out[i] = bf16_to_f32(scale) * (float)code;
    }
}
