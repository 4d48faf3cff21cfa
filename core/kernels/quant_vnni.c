/* Products with int8 and int4 weights for CPUs whose AVX-512 multiplies and adds four bytes at once
 * (VNNI). */
#if defined(__x86_64__)
#include <immintrin.h>
#include <stdint.h>

typedef int32_t vi __attribute__((vector_size(64)));

static inline vi add8(vi sum, vi w, int32_t x)
{
    return (vi)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)w, _mm512_set1_epi32(x));
}

static inline vi begin4(int32_t start)
{
    return start + (vi){0};
}

static inline vi end4(vi sum, int32_t start)
{
    (void)start;
    return sum;
}

#define add4 add8
#define FMADD(a, b, c) _mm512_fmadd_ps(a, b, c)
#define VW 16
#define TWO 4
#define FOUR 2
#define NAME quant_vnni
#include "core/kernels/quant_body.h"
#endif
