/* Rows of f32 to groups of packed whole numbers; each instruction set's file compiles it for
 * itself. The same bits come out everywhere: additions of a rotation have their order, nothing else
 * is added but whole numbers, and where a product is rounded by an addition it is one of its own
 * (-ffp-contract=off). */
#ifndef PREFIXD_QUANT_ROWS_H
#define PREFIXD_QUANT_ROWS_H

#include "core/kernels/quant.h"

struct part { /* of a row: the inputs that share a scale */
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
/* Every lane with its partner: the lower one becomes their sum, the upper one their difference. */
static inline __m512 with_partners(__m512 v, __m512 partners, __mmask16 upper)
{
    return _mm512_mask_sub_ps(_mm512_add_ps(partners, v), upper, partners, v);
}

static inline __m512 rotate_lanes(__m512 v)
{
    v = with_partners(v, _mm512_permute_ps(v, 0xb1), 0xaaaa);
    v = with_partners(v, _mm512_permute_ps(v, 0x4e), 0xcccc);
    v = with_partners(v, _mm512_shuffle_f32x4(v, v, 0xb1), 0xf0f0);
    return with_partners(v, _mm512_shuffle_f32x4(v, v, 0x4e), 0xff00);
}

/* quant_rotate */
static inline void rotate(float x[QUANT_BLOCK])
{
    __m512 a = rotate_lanes(_mm512_loadu_ps(x)), b = rotate_lanes(_mm512_loadu_ps(x + 16)),
           c = rotate_lanes(_mm512_loadu_ps(x + 32)), d = rotate_lanes(_mm512_loadu_ps(x + 48));
    __m512 ab = _mm512_add_ps(a, b), a_b = _mm512_sub_ps(a, b);
    __m512 cd = _mm512_add_ps(c, d), c_d = _mm512_sub_ps(c, d);
    _mm512_storeu_ps(x, _mm512_add_ps(ab, cd));
    _mm512_storeu_ps(x + 16, _mm512_add_ps(a_b, c_d));
    _mm512_storeu_ps(x + 32, _mm512_sub_ps(ab, cd));
    _mm512_storeu_ps(x + 48, _mm512_sub_ps(a_b, c_d));
}

static inline int32_t largest_bits(const float *x, int n)
{
    __m512i most = _mm512_setzero_si512();
    for (int i = 0; i < n; i += 16)
        most = _mm512_max_epi32(most, _mm512_and_si512((__m512i)_mm512_loadu_ps(x + i),
                                                       _mm512_set1_epi32(0x7fffffff)));
    return _mm512_reduce_max_epi32(most);
}

/* Conversion rounds to the nearest, as the sum below does. Returns the sum of the codes. */
static inline int32_t to_codes(int8_t *code, const float *x, int n, float inverse)
{
    __m512i sum = _mm512_setzero_si512();
    for (int i = 0; i < n; i += 16) {
        __m512i whole = _mm512_cvtps_epi32(
            _mm512_mul_ps(_mm512_loadu_ps(x + i), _mm512_set1_ps(inverse)));
        _mm_storeu_si128((__m128i *)(void *)(code + i), _mm512_cvtepi32_epi8(whole));
        sum = _mm512_add_epi32(sum, whole);
    }
    return _mm512_reduce_add_epi32(sum);
}
#else
static inline void rotate(float x[QUANT_BLOCK])
{
    quant_rotate(x);
}

static inline int32_t largest_bits(const float *x, int n)
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

static inline int32_t to_codes(int8_t *code, const float *x, int n, float inverse)
{
    int32_t sum = 0;
    for (int i = 0; i < n; i++) {
        /* 1.5 * 2^23: the lowest byte is the nearest whole number */
        float t = x[i] * inverse + 12582912.0f;
        int32_t bits;
        memcpy(&bits, &t, sizeof bits);
        code[i] = (int8_t)bits;
        sum += code[i];
    }
    return sum;
}
#endif

static inline struct part quantise_part(int8_t *code, const float *x, int n)
{
    struct part p = {0};
    float inverse;
    p.scale = scale_for(largest_bits(x, n), &inverse);
    if (inverse > 0)
        p.sum = to_codes(code, x, n, inverse);
    else
        memset(code, 0, (size_t)n);
    return p;
}

/* Row r of n packed together: inputs that share a scale, of which x[QUANT_BLOCK] begins with what
 * is left of the row. */
static inline void pack_part(enum dtype t, char *out, int r, int n, float *x)
{
    int8_t code[QUANT_BLOCK];
    int len = (int)quant_row_part(t);
    if (t == DTYPE_INT8)
        rotate(x);
    struct part p = quantise_part(code, x, len);
    float scale = t == DTYPE_INT8 ? p.scale * 0.125f : p.scale;
    int32_t start = -quant_zero(t) * p.sum;
    out += 4 * r;
    memcpy(out, &scale, 4);
    memcpy(out + 4 * n, &start, 4);
    for (int i = 0; i < len; i += 4)
        memcpy(out + (8 + i) * n, code + i, 4);
}

/* Row r of n packed together; padded with zeros. */
static inline __attribute__((always_inline)) void pack_row(enum dtype t, char *out, int r, int n,
                                                           const float *x, int K)
{
    int padded = (int)quant_blocks((size_t)K) * QUANT_BLOCK, len = (int)quant_row_part(t), k = 0;
    float v[QUANT_BLOCK];
    for (; k + len <= K; k += len, out += (8 + len) * n) {
        memcpy(v, x + k, (size_t)len * sizeof *v);
        pack_part(t, out, r, n, v);
    }
    for (; k < padded; k += len, out += (8 + len) * n) {
        memset(v, 0, sizeof v);
        if (k < K)
            memcpy(v, x + k, (size_t)(K - k) * sizeof *v);
        pack_part(t, out, r, n, v);
    }
}

static int quantise(enum dtype t, void *out, size_t ldo, const float *x, size_t ldx, int row,
                    int n_rows, int K)
{
    int n = n_rows - row < QUANT_ROWS ? n_rows - row : QUANT_ROWS;
    char *group = (char *)out + (size_t)row * ldo;
    for (int r = 0; r < n; r++)
        if (t == DTYPE_INT8)
            pack_row(DTYPE_INT8, group, r, n, x + (size_t)(row + r) * ldx, K);
        else
            pack_row(DTYPE_INT4, group, r, n, x + (size_t)(row + r) * ldx, K);
    return n;
}

#endif
