/* Rows of f32 to groups of packed whole numbers; each instruction set's file compiles it for
 * itself. The same bits come out everywhere: nothing is added but whole numbers, and no product
 * meets an addition. */
#ifndef PREFIXD_QUANT_ROWS_H
#define PREFIXD_QUANT_ROWS_H

#include "core/kernels/quant.h"

struct half {
    float scale;
    int32_t sum; /* of the codes */
};

/* The scale for bits of a largest magnitude, those of a NaN above all others: NaN if not all are
 * finite, so that their products are; zero if there is next to nothing. *inverse: what makes codes
 * of inputs. */
static inline float scale_for(int32_t most, float *inverse)
{
    enum { INFINITE = 0x7f800000, TINY = 0x04000000 }; /* 127 / 1.5e-36 is finite */
    float largest;
    *inverse = 0;
    if (most < TINY || most >= INFINITE)
        return most < TINY ? 0 : __builtin_nanf("");
    memcpy(&largest, &most, sizeof largest);
    *inverse = 127 / largest;
    return largest / 127;
}

#ifdef __AVX512F__
/* Conversion rounds to the nearest, as the sum below does. */
static inline struct half quantise_half(int8_t code[QUANT_HALF], const float *x)
{
    struct half h;
    float inverse;
    __m512 v = _mm512_loadu_ps(x);
    h.scale = scale_for(
        _mm512_reduce_max_epi32(_mm512_and_si512((__m512i)v, _mm512_set1_epi32(0x7fffffff))),
        &inverse);
    if (!(inverse > 0))
        v = _mm512_setzero_ps();
    __m512i whole = _mm512_cvtps_epi32(_mm512_mul_ps(v, _mm512_set1_ps(inverse)));
    _mm_storeu_si128((__m128i *)(void *)code, _mm512_cvtepi32_epi8(whole));
    h.sum = _mm512_reduce_add_epi32(whole);
    return h;
}
#else
static inline struct half quantise_half(int8_t code[QUANT_HALF], const float *x)
{
    struct half h = {0};
    int32_t bits[QUANT_HALF], most = 0;
    float inverse, t[QUANT_HALF];
    memcpy(bits, x, sizeof bits);
    for (int i = 0; i < QUANT_HALF; i++) {
        bits[i] &= 0x7fffffff;
        most = bits[i] > most ? bits[i] : most;
    }
    h.scale = scale_for(most, &inverse);
    for (int i = 0; i < QUANT_HALF; i++)
        t[i] = x[i] * inverse +
               12582912.0f; /* 1.5 * 2^23: the lowest byte is the nearest whole number */
    memcpy(bits, t, sizeof bits);
    for (int i = 0; i < QUANT_HALF; i++) {
        code[i] = inverse > 0 ? (int8_t)bits[i] : 0;
        h.sum += code[i];
    }
    return h;
}
#endif

/* Row r of n packed together: half a group of inputs. */
static inline void pack_half(char *out, int r, int n, const float *x, int zero)
{
    int8_t code[QUANT_HALF];
    struct half h = quantise_half(code, x);
    int32_t start = -zero * h.sum;
    out += 4 * r;
    memcpy(out, &h.scale, 4);
    memcpy(out + 4 * n, &start, 4);
    for (int i = 0; i < QUANT_HALF; i += 4)
        memcpy(out + (8 + i) * n, code + i, 4);
}

/* Row r of n packed together; padded with zeros. */
static inline void pack_row(char *out, int r, int n, const float *x, int K, int zero)
{
    int padded = (int)quant_blocks((size_t)K) * QUANT_BLOCK, k = 0;
    for (; k + QUANT_HALF <= K; k += QUANT_HALF, out += (8 + QUANT_HALF) * n)
        pack_half(out, r, n, x + k, zero);
    for (; k < padded; k += QUANT_HALF, out += (8 + QUANT_HALF) * n) {
        float rest[QUANT_HALF] = {0};
        if (k < K)
            memcpy(rest, x + k, (size_t)(K - k) * sizeof *rest);
        pack_half(out, r, n, rest, zero);
    }
}

static int quantise(enum dtype t, void *out, size_t ldo, const float *x, size_t ldx, int row,
                    int n_rows, int K)
{
    int n = n_rows - row < QUANT_ROWS ? n_rows - row : QUANT_ROWS;
    for (int r = 0; r < n; r++)
        pack_row((char *)out + (size_t)row * ldo, r, n, x + (size_t)(row + r) * ldx, K,
                 quant_zero(t));
    return n;
}

#endif
