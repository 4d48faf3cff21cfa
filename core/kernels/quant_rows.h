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
static inline float quantise_group(int8_t *code, const float *x, int n)
{
    enum { INFINITE = 0x7f800000, TINY = 0x04000000 }; /* 127 / 1.5e-36 is finite */
    int32_t most = magnitude(x, n);
    float largest, nan = __builtin_nanf("");
    memset(code, 0, QUANT_GROUP);
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

/* Row r of n_rows packed together: K inputs, `padded` with padding. */
static inline void quantise_row(char *out, int r, int n_rows, const float *x, int K, int padded, int zero)
{
    size_t n = (size_t)n_rows, at = (size_t)r * 4;
    for (int k = 0; k < padded; k += QUANT_GROUP) {
        int8_t code[QUANT_GROUP];
        int left = K - k;
        float scale = left >= QUANT_GROUP ? quantise_group(code, x + k, QUANT_GROUP)
                                          : quantise_group(code, x + k, left > 0 ? left : 0);
        int32_t sum = 0;
        for (int i = 0; i < QUANT_GROUP; i++)
            sum += code[i];
        sum *= -zero;
        memcpy(out + at, &scale, 4);
        memcpy(out + 4 * n + at, &sum, 4);
        out += 8 * n;
        for (int i = 0; i < QUANT_GROUP; i += 4, out += 4 * n)
            memcpy(out + at, code + i, 4);
    }
}

static int quantise(enum dtype t, void *out, size_t ldo, const float *x, size_t ldx, int row, int n_rows, int K)
{
    int n = n_rows - row < QUANT_ROWS ? n_rows - row : QUANT_ROWS, padded = (int)quant_padded(t, (size_t)K);
    char *group = (char *)out + (size_t)row * ldo;
    for (int r = 0; r < n; r++)
        quantise_row(group, r, n, x + (size_t)(row + r) * ldx, K, padded, quant_zero(t));
    return n;
}

#endif
