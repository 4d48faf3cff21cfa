/* Chooses the kernels for the CPU the program finds itself on. */
#include "core/kernels/kernels.h"

#include <stdlib.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

static bool is_forced(const char *name)
{
    const char *want = getenv("PREFIXD_ISA");
    return want && strcmp(want, name) == 0;
}

#if defined(__x86_64__)
/* Leaf 7, subleaf 1: gcc 12 and clang 14 have no name for it that both know. */
static bool has_bf16(void)
{
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & 1u << 5);
}

/* The best of those with AVX-512. */
static const struct kernels *avx512(void)
{
    if (!__builtin_cpu_supports("avx512vnni") || is_forced("avx512"))
        return &kernels_avx512;
    return has_bf16() && !is_forced("avx512vnni") ? &kernels_avx512bf16 : &kernels_avx512vnni;
}
#endif

const struct kernels *kernels_get(void)
{
    if (is_forced("generic"))
        return &kernels_generic;
#if defined(__x86_64__)
    bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    bool has_avx512 = has_avx2 && __builtin_cpu_supports("avx512f") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("avx512dq");
    if (has_avx512 && !is_forced("avx2"))
        return avx512();
    if (has_avx2)
        return &kernels_avx2;
#endif
    return &kernels_generic;
}
