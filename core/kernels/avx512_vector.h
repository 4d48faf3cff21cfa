/* What AVX-512 has instructions for, in place of the portable vector operations of core/kernels/body.h: for the
 * files of both instruction sets that have it. */
#ifndef PREFIXD_AVX512_VECTOR_H
#define PREFIXD_AVX512_VECTOR_H

#include <immintrin.h>

#define FMADD(a, b, c) _mm512_fmadd_ps(a, b, c)
#define LARGER(a, b) _mm512_max_ps(a, b)
#define SMALLER(a, b) _mm512_min_ps(a, b)
#define LANES_SUM(v) _mm512_reduce_add_ps(v)
#define LANES_MAX(v) _mm512_reduce_max_ps(v)

/* n: whole numbers; p * 2^n */
#define TIMES_TWO_TO(p, n) _mm512_scalef_ps(p, n)
#define NEAREST(x) _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)

#endif
