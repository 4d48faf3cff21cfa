/* The kernels for CPUs with AVX-512. */
#if defined(__x86_64__)
#define VW 16
#define NAME kernels_avx512
#define ISA "avx512"
#define QUANT quant_avx512
#include "core/kernels/avx512_vector.h"
#include "core/kernels/body.h"
#endif
