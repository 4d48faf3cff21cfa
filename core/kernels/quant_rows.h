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
    memset(code, 0, INT8_GROUP);
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

static inline int32_t sum_of_codes(const int8_t *code, int n)
{
    int32_t sum = 0;
    for (int i = 0; i < n; i++)
        sum += code[i];
    return sum;
}

/* Row r of n_rows packed together: K inputs in groups of `group`, padded ones of them in all. */
static inline void quantise_row(char *out, int r, int n_rows, const float *x, int K, int padded, int group, int zero)
{
    int8_t code[INT8_GROUP];
    size_t n = (size_t)n_rows, at = (size_t)r * 4;
    for (int k = 0; k < padded; k += group) {
        int len = padded - k < group ? padded - k : group, left = K - k < len ? K - k : len;
        float scale = quantise_group(code, x + k, left < 0 ? 0 : left);
        int32_t start = -zero * sum_of_codes(code, len);
        memcpy(out + at, &scale, 4);
        memcpy(out + 4 * n + at, &start, 4);
        out += 8 * n;
        for (int i = 0; i < len; i += 4, out += 4 * n)
            memcpy(out + at, code + i, 4);
    }
}

static int quantise(enum dtype t, void *out, size_t ldo, const float *x, size_t ldx, int row, int n_rows, int K)
{
    int n = n_rows - row < QUANT_ROWS ? n_rows - row : QUANT_ROWS, padded = (int)quant_padded(t, (size_t)K);
    char *group = (char *)out + (size_t)row * ldo;
    for (int r = 0; r < n; r++) {
        const float *from = x + (size_t)(row + r) * ldx;
        if (t == DTYPE_INT8) /* constants make loops of known length */
            quantise_row(group, r, n, from, K, padded, INT8_GROUP, INT8_ZERO);
        else
            quantise_row(group, r, n, from, K, padded, INT4_GROUP, INT4_ZERO);
    }
    return n;
}

#endif
