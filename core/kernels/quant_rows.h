/* Rows of f32 to groups of packed whole numbers; each instruction set's file compiles it for itself. The
 * same bits come out everywhere: nothing is added but whole numbers, and no product meets an addition. */
#ifndef PREFIXD_QUANT_ROWS_H
#define PREFIXD_QUANT_ROWS_H

#include "core/kernels/quant.h"

/* Bits of the largest magnitude; a NaN's are above all others. */
static inline int32_t magnitude(const float *x, int n)
{
    int32_t most = 0;
    for (int i = 0; i < n; i++) {
        int32_t bits;
        memcpy(&bits, x + i, sizeof bits);
        bits &= 0x7fffffff;
        most = bits > most ? bits : most;
    }
    return most;
}

/* Codes of n inputs that share a scale, which is returned: NaN if one is not finite, so that their products are. */
static inline float quantise_half(int8_t *code, const float *x, int n)
{
    enum { INFINITE = 0x7f800000, TINY = 0x04000000 }; /* 127 / 1.5e-36 is finite */
    int32_t most = magnitude(x, n);
    float largest, nan = __builtin_nanf("");
    memset(code, 0, QUANT_HALF);
    if (most < TINY || most >= INFINITE)
        return most < TINY ? 0 : nan;
    memcpy(&largest, &most, sizeof largest);
    float inverse = 127 / largest;
    for (int i = 0; i < n; i++) {
        float t = x[i] * inverse + 12582912.0f; /* 1.5 * 2^23: the lowest byte is the nearest whole number */
        int32_t bits;
        memcpy(&bits, &t, sizeof bits);
        code[i] = (int8_t)bits;
    }
    return largest / 127;
}

/* Row r of n packed together: half a group of inputs, of which `left` are there. */
static inline void pack_half(char *out, int r, int n, const float *x, int left, int zero)
{
    int8_t code[QUANT_HALF];
    float scale = left >= QUANT_HALF ? quantise_half(code, x, QUANT_HALF) : quantise_half(code, x, left);
    int32_t start = 0;
    for (int i = 0; i < QUANT_HALF; i++)
        start -= zero * code[i];
    out += 4 * r;
    memcpy(out, &scale, 4);
    memcpy(out + 4 * n, &start, 4);
    for (int i = 0; i < QUANT_HALF; i += 4)
        memcpy(out + (8 + i) * n, code + i, 4);
}

static int quantise(enum dtype t, void *out, size_t ldo, const float *x, size_t ldx, int row, int n_rows, int K)
{
    int n = n_rows - row < QUANT_ROWS ? n_rows - row : QUANT_ROWS, padded = (int)quant_blocks((size_t)K) * QUANT_BLOCK;
    for (int r = 0; r < n; r++) {
        char *to = (char *)out + (size_t)row * ldo;
        const float *from = x + (size_t)(row + r) * ldx;
        for (int k = 0; k < padded; k += QUANT_HALF, to += (QUANT_HALF + 8) * n)
            pack_half(to, r, n, k < K ? from + k : from, k < K ? K - k : 0, quant_zero(t));
    }
    return n;
}

#endif
