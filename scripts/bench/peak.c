/* Loops that keep a core's multipliers busy: twelve independent sums, enough to hide the latency of
 * an addition, each in a register of its own. */
#include "scripts/bench/peak.h"

#include <stdint.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

enum { SUMS = 12 };

#define TWICE_SIX(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11)
#define DECLARE(i) sum c##i = zero;
#define HIDE(v) __asm__ volatile("" : "+x"(v)); /* v is used now, and unlike anything known */
#define HIDE_SUM(i) HIDE(c##i)
#define ADD(i) HIDE(x) c##i = STEP(c##i);

/* void NAME(long rounds): each round is STEP of every sum; KIND is their type, X the operand. */
#define PEAK_LOOP(NAME, TARGET, KIND, ZERO, X)                                                     \
    TARGET static void NAME(long rounds)                                                           \
    {                                                                                              \
        typedef KIND sum;                                                                          \
        sum zero = ZERO;                                                                           \
        KIND x = X;                                                                                \
        TWICE_SIX(DECLARE)                                                                         \
        TWICE_SIX(HIDE_SUM)                                                                        \
        for (long i = 0; i < rounds; i++) {                                                        \
            TWICE_SIX(ADD)                                                                         \
        }                                                                                          \
        TWICE_SIX(HIDE_SUM)                                                                        \
    }

typedef float f32x4 __attribute__((vector_size(16)));
typedef int16_t i16x8 __attribute__((vector_size(16)));

#define STEP(c) (c) + (x * x)
PEAK_LOOP(floats_generic, , f32x4, {0}, ((f32x4){1, 1, 1, 1}))
PEAK_LOOP(ints_generic, , i16x8, {0}, ((i16x8){1, 1, 1, 1, 1, 1, 1, 1}))
#undef STEP

#if defined(__x86_64__)
#define AVX2 __attribute__((target("avx2,fma")))
#define AVX512 __attribute__((target("avx512f,avx512bw")))
#define AVX512BF16 __attribute__((target("avx512f,avx512bw,avx512bf16")))
#define AVX512VNNI __attribute__((target("avx512f,avx512bw,avx512vnni")))

#define STEP(c) _mm256_fmadd_ps(x, x, c)
PEAK_LOOP(floats_avx2, AVX2, __m256, _mm256_setzero_ps(), _mm256_set1_ps(1))
#undef STEP
#define STEP(c)                                                                                    \
    _mm256_add_epi32(c, _mm256_madd_epi16(_mm256_maddubs_epi16(x, x), _mm256_set1_epi16(1)))
PEAK_LOOP(ints_avx2, AVX2, __m256i, _mm256_setzero_si256(), _mm256_set1_epi8(1))
#undef STEP
#define STEP(c) _mm512_fmadd_ps(x, x, c)
PEAK_LOOP(floats_avx512, AVX512, __m512, _mm512_setzero_ps(), _mm512_set1_ps(1))
#undef STEP
#define STEP(c)                                                                                    \
    _mm512_add_epi32(c, _mm512_madd_epi16(_mm512_maddubs_epi16(x, x), _mm512_set1_epi16(1)))
PEAK_LOOP(ints_avx512, AVX512, __m512i, _mm512_setzero_si512(), _mm512_set1_epi8(1))
#undef STEP
#define STEP(c) _mm512_dpbf16_ps(c, (__m512bh)x, (__m512bh)x)
PEAK_LOOP(pairs_avx512bf16, AVX512BF16, __m512, _mm512_setzero_ps(), _mm512_set1_ps(1))
#undef STEP
#define STEP(c) _mm512_dpbusd_epi32(c, x, x)
PEAK_LOOP(fours_avx512vnni, AVX512VNNI, __m512i, _mm512_setzero_si512(), _mm512_set1_epi8(1))
#undef STEP
#endif

/* One row for each table of kernels; any other name is taken for the last. */
static const struct {
    const char *isa;
    struct peak bf16, int8;
} peaks[] = {
#if defined(__x86_64__)
    {"avx512bf16", {pairs_avx512bf16, SUMS * 64}, {fours_avx512vnni, SUMS * 128}},
    {"avx512vnni", {floats_avx512, SUMS * 32}, {fours_avx512vnni, SUMS * 128}},
    {"avx512", {floats_avx512, SUMS * 32}, {ints_avx512, SUMS * 128}},
    {"avx2", {floats_avx2, SUMS * 16}, {ints_avx2, SUMS * 64}},
#endif
    {"generic", {floats_generic, SUMS * 8}, {ints_generic, SUMS * 16}},
};

enum { N_PEAKS = sizeof peaks / sizeof *peaks };

static int row_of(const char *isa)
{
    int i = 0;
    while (i < N_PEAKS - 1 && strcmp(peaks[i].isa, isa) != 0)
        i++;
    return i;
}

struct peak peak_bf16(const char *isa)
{
    return peaks[row_of(isa)].bf16;
}

/* Every CPU so far that has AVX-512's instruction for bf16 has the one for int8, too. */
struct peak peak_int8(const char *isa)
{
    return peaks[row_of(isa)].int8;
}
