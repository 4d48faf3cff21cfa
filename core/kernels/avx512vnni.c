/* The kernels for CPUs with AVX-512 and its VNNI, but without its products of bf16. */
#if defined(__x86_64__)
#define VW 16
#define NAME kernels_avx512vnni
#define ISA "avx512vnni"
#define QUANT quant_vnni
#include "core/kernels/avx512_vector.h"
#include "core/kernels/body.h"
#endif
