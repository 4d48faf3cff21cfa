/* The kernels for CPUs with AVX2 and FMA. */
#if defined(__x86_64__)
#include <immintrin.h>

#define LARGER(a, b) _mm256_max_ps(a, b)
#define SMALLER(a, b) _mm256_min_ps(a, b)
#define FMADD(a, b, c) _mm256_fmadd_ps(a, b, c)
#define VW 8
#define NAME kernels_avx2
#define ISA "avx2"
#define QUANT quant_avx2
#include "core/kernels/body.h"
#endif
