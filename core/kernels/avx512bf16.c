/* Products with bf16 weights for CPUs whose AVX-512 multiplies pairs of bf16 (vdpbf16ps): activations are
 * rounded to bf16, sums are f32. The rest is AVX-512's.
 *
 * A lane holds one output; its sum takes the inputs two by two, in order, whatever the number of rows. */
#if defined(__x86_64__)
#include "core/kernels/kernels.h"

#include <immintrin.h>

typedef __m512 acc;

/* Two neighbouring activations in every lane. */
static inline __m512bh pair(const uint16_t *x)
{
    uint32_t both;
    memcpy(&both, x, sizeof both);
    return (__m512bh)_mm512_set1_epi32((int)both);
}

static inline __m512bh weights(const uint16_t *w)
{
    return (__m512bh)_mm512_loadu_si512(w);
}

/* The next panel comes into the second-level cache while this one is worked on, a line a step. */
static inline void ahead(const uint16_t *w, size_t panel)
{
    _mm_prefetch((const char *)(w + panel), _MM_HINT_T1);
}

#define EACH16(XX) XX(0) XX(1) XX(2) XX(3) XX(4) XX(5) XX(6) XX(7) XX(8) XX(9) XX(10) XX(11) XX(12) XX(13) XX(14) XX(15)
#define EACH8(XX) XX(0) XX(1) XX(2) XX(3) XX(4) XX(5) XX(6) XX(7)
#define EACH4(XX) XX(0) XX(1) XX(2) XX(3)
#define EACH2(XX) XX(0) XX(1)

#define ZERO(r) acc c##r = _mm512_setzero_ps();
#define MADD(r) c##r = _mm512_dpbf16_ps(c##r, b, pair(x + 2 * r));
#define KEEP(r) _mm512_storeu_ps(y + (size_t)r * ldy, c##r);

/* One panel for N rows. Accumulators are named variables, because gcc 12 keeps arrays of them in memory. */
#define TILE(N)                                                                                    \
    static void tile##N(const struct pairs_args *a, const uint16_t *x, const uint16_t *w, float *y) \
    {                                                                                              \
        size_t ldy = a->ldy, panel = a->panel_step;                                                \
        EACH##N(ZERO)                                                                              \
        for (int k = 0; k < a->K; k += 2, w += 32, x += 2 * N) {                                   \
            __m512bh b = weights(w);                                                               \
            ahead(w, panel);                                                                       \
            EACH##N(MADD)                                                                          \
        }                                                                                          \
        EACH##N(KEEP)                                                                              \
    }

TILE(16)
TILE(8)
TILE(4)
TILE(2)

#define ZERO1(p) acc c##p = _mm512_setzero_ps();
#define MADD1(p) c##p = _mm512_dpbf16_ps(c##p, weights(w + (size_t)p * panel), both);
#define KEEP1(p) _mm512_storeu_ps(y + (size_t)p * 16, c##p);

/* N panels for one row: several sums at once hide what one addition waits for the one before. */
#define ROW(N)                                                                                     \
    static void row##N(const struct pairs_args *a, const uint16_t *x, const uint16_t *w, float *y)  \
    {                                                                                              \
        size_t panel = a->panel_step;                                                              \
        EACH##N(ZERO1)                                                                             \
        for (size_t k = 0; k < (size_t)a->K; k += 2, w += 32) {                                    \
            __m512bh both = pair(x + k);                                                           \
            EACH##N(MADD1)                                                                         \
        }                                                                                          \
        EACH##N(KEEP1)                                                                             \
    }

#define EACH1(XX) XX(0)
ROW(4)
ROW(1)

/* Rows come packed in groups of so many. */
static int group_of(int left)
{
    return left >= 16 ? 16 : left >= 8 ? 8 : left >= 4 ? 4 : left >= 2 ? 2 : 1;
}

static int tile(const struct pairs_args *a, int r, const uint16_t *w, float *y)
{
    const uint16_t *x = (const uint16_t *)a->x + (size_t)r * a->ldx;
    int n = group_of(a->n_rows - r);
    y += (size_t)r * a->ldy;
    switch (n) {
    case 16: tile16(a, x, w, y); break;
    case 8: tile8(a, x, w, y); break;
    case 4: tile4(a, x, w, y); break;
    case 2: tile2(a, x, w, y); break;
    default: row1(a, x, w, y); break;
    }
    return n;
}

static void one_row(const struct pairs_args *a)
{
    int p = 0;
    for (; p + 4 <= a->n_panels; p += 4)
        row4(a, a->x, a->w + (size_t)p * a->panel_step, a->y + p * 16);
    for (; p < a->n_panels; p++)
        row1(a, a->x, a->w + (size_t)p * a->panel_step, a->y + p * 16);
}

static void bf16_pairs(const struct pairs_args *a)
{
    if (a->n_rows == 1) {
        one_row(a);
        return;
    }
    for (int p = 0; p < a->n_panels; p++)
        for (int r = 0; r < a->n_rows;)
            r += tile(a, r, a->w + (size_t)p * a->panel_step, a->y + p * 16);
}

/* One row's pairs, every n-th place of out. */
static void cast_row(uint32_t *out, int n, const float *x, int K)
{
    uint16_t h[16];
    int k = 0;
    for (; k + 16 <= K; k += 16) {
        _mm256_storeu_si256((__m256i *)(void *)h, (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(x + k)));
        for (int i = 0; i < 8; i++, out += n)
            memcpy(out, h + 2 * i, sizeof *out);
    }
    for (; k < K; k += 2, out += n) {
        uint16_t both[2] = {f32_to_bf16(x[k]), k + 1 < K ? f32_to_bf16(x[k + 1]) : 0};
        memcpy(out, both, sizeof *out);
    }
}

static int cast(uint16_t *out, size_t ldo, const float *x, size_t ldx, int row, int n_rows, int K)
{
    int n = group_of(n_rows - row);
    uint32_t *group = (uint32_t *)(void *)(out + (size_t)row * ldo);
    for (int r = 0; r < n; r++)
        cast_row(group + r, n, x + (size_t)(row + r) * ldx, K);
    return n;
}

#define VW 16
#define NAME kernels_avx512bf16
#define ISA "avx512bf16"
#define PAIRS bf16_pairs
#define CAST cast
#include "core/kernels/body.h"
#endif
