/* The kernels for CPUs with AVX2 and FMA. */
#if defined(__x86_64__)
#define VW 8
#define NAME kernels_avx2
#define ISA "avx2"
#include "core/kernels/body.h"
#endif
