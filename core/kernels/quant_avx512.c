/* Products with int8 and int4 weights for CPUs whose AVX-512 multiplies pairs of 16-bit numbers. */
#if defined(__x86_64__)
#include <immintrin.h>
#include <stdint.h>

typedef int32_t vi __attribute__((vector_size(64)));

/* Even and odd neighbours apart, each as 16 bits: pairs of u8 times int8 do not fit into them. */
static inline vi add8(vi sum, vi w, int32_t x)
{
    __m512i four = _mm512_set1_epi32(x);
    __m512i even = _mm512_madd_epi16(_mm512_and_si512((__m512i)w, _mm512_set1_epi16(0xff)),
                                     _mm512_srai_epi16(_mm512_slli_epi16(four, 8), 8));
    __m512i odd = _mm512_madd_epi16(_mm512_srli_epi16((__m512i)w, 8), _mm512_srai_epi16(four, 8));
    return sum + (vi)even + (vi)odd;
}

/* Pairs of u4 times int8 do fit, eight times: 8 * 2 * 15 * 127 < 2^15. */
static inline vi begin4(int32_t start)
{
    (void)start;
    return (vi){0};
}

static inline vi add4(vi sum, vi w, int32_t x)
{
    __m512i pairs = _mm512_maddubs_epi16((__m512i)w, _mm512_set1_epi32(x));
    return (vi)_mm512_add_epi16((__m512i)sum, pairs);
}

static inline vi end4(vi sum, int32_t start)
{
    return start + (vi)_mm512_madd_epi16((__m512i)sum, _mm512_set1_epi16(1));
}

#define FMADD(a, b, c) _mm512_fmadd_ps(a, b, c)
#define VW 16
#define TWO 4
#define FOUR 1
#define NAME quant_avx512
#include "core/kernels/quant_body.h"
#endif
