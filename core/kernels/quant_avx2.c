/* Products with int8 and int4 weights for CPUs whose AVX2 multiplies pairs of 16-bit numbers. */
#if defined(__x86_64__)
#include <immintrin.h>
#include <stdint.h>

typedef int32_t vi __attribute__((vector_size(32)));

/* Even and odd neighbours apart, each as 16 bits: pairs of u8 times int8 do not fit into them. */
static inline vi add8(vi sum, vi w, int32_t x)
{
    __m256i four = _mm256_set1_epi32(x);
    __m256i even = _mm256_madd_epi16(_mm256_and_si256((__m256i)w, _mm256_set1_epi16(0xff)),
                                     _mm256_srai_epi16(_mm256_slli_epi16(four, 8), 8));
    __m256i odd = _mm256_madd_epi16(_mm256_srli_epi16((__m256i)w, 8), _mm256_srai_epi16(four, 8));
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
    __m256i pairs = _mm256_maddubs_epi16((__m256i)w, _mm256_set1_epi32(x));
    return (vi)_mm256_add_epi16((__m256i)sum, pairs);
}

static inline vi end4(vi sum, int32_t start)
{
    return start + (vi)_mm256_madd_epi16((__m256i)sum, _mm256_set1_epi16(1));
}

#define FMADD(a, b, c) _mm256_fmadd_ps(a, b, c)
#define VW 8
#define TWO 2
#define FOUR 1
#define NAME quant_avx2
#include "core/kernels/quant_body.h"
#endif
