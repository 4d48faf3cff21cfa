/* Products with bf16 weights for CPUs whose AVX-512 multiplies pairs of bf16 (vdpbf16ps): activations are
 * rounded to bf16, sums are f32. The rest is AVX-512's.
 *
 * A lane holds one output; its sum takes the inputs two by two, in order, whatever the number of rows. */
#if defined(__x86_64__)
#include "core/kernels/avx512_vector.h"
#include "core/kernels/kernels.h"
#include "core/kernels/tile.h"

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

#define BEGIN(r, p)                                                                                \
    acc c##p##_##r = _mm512_setzero_ps();                                                          \
    if (a->accumulate)                                                                             \
        c##p##_##r = _mm512_loadu_ps(y + (size_t)r * ldy + 16 * p);
#define STEP(r, p) c##p##_##r = _mm512_dpbf16_ps(c##p##_##r, b##p, pair(x + 2 * r));
#define END(r, p) _mm512_storeu_ps(y + (size_t)r * ldy + 16 * p, c##p##_##r);

#define PANEL_BEGIN(p, N) ROWS##N(BEGIN, p)
#define PANEL_PART(p, N)                                                                           \
    const uint16_t *w##p = panel_part(a, j + p, t);                                                \
    const char *next##p = t ? (const char *)(w##p + P_PANELS * a->panel_step)                      \
                            : next.at + p * a->panel_step * sizeof *w##p;
#define PANEL_STEP(p, N)                                                                           \
    __m512bh b##p = weights(w##p + at);                                                            \
    if (HAS_AHEAD) {                                                                               \
        _mm_prefetch(next##p, _MM_HINT_T1);                                                        \
        next##p += next.step;                                                                      \
    }                                                                                              \
    ROWS##N(STEP, p)
#define PANEL_END(p, N) ROWS##N(END, p)

/* P panels from j for N rows. Few rows take several panels, whose sums hide what one addition waits for the
 * one before. */
#define GROUP(N, P)                                                                                 \
    static void tile##N(const struct panel_args *a, const uint16_t *x, int j, float *y,            \
                        struct ahead next)                                                         \
    {                                                                                              \
        GROUP_BODY(N, P)                                                                           \
    }                                                                                              \
    static void tile##N##_last(const struct panel_args *a, const uint16_t *x, int j, float *y,     \
                               struct ahead next)                                                  \
    {                                                                                              \
        GROUP_BODY(N, 1)                                                                           \
    }

#define GROUP_BODY(N, P)                                                                           \
    enum { P_PANELS = P, HAS_AHEAD = P < 4 }; /* four streams the CPU follows by itself */         \
    size_t ldy = a->ldy, left = (size_t)a->K, len = (size_t)a->part_len;                           \
    COLS##P(PANEL_BEGIN, N)                                                                        \
    for (int t = 0; left > 0; t++) {                                                               \
        size_t n = left < len ? left : len;                                                        \
        COLS##P(PANEL_PART, N)                                                                     \
        for (size_t at = 0; at < n * 16; at += 32, x += 2 * N) {                                   \
            COLS##P(PANEL_STEP, N)                                                                 \
        }                                                                                          \
        left -= n;                                                                                 \
    }                                                                                              \
    COLS##P(PANEL_END, N)

static inline const uint16_t *panel_part(const struct panel_args *a, int j, int t)
{
    if (a->is_scattered)
        return a->w[j + t];
    return (const uint16_t *)a->w[t] + (size_t)j * a->panel_step;
}

GROUP(1, 4)
GROUP(2, 4)
GROUP(3, 4)
GROUP(4, 2)
GROUP(5, 2)
GROUP(6, 2)
GROUP(7, 2)
GROUP(8, 2)
GROUP(9, 1)
GROUP(10, 1)
GROUP(11, 1)
GROUP(12, 1)
GROUP(13, 1)
GROUP(14, 1)
GROUP(15, 1)
GROUP(16, 1)

#define ROW_OF_TABLE(N, P) {tile##N, tile##N##_last, P}

typedef void (*tile_fn)(const struct panel_args *a, const uint16_t *x, int j, float *y,
                        struct ahead next);

static const struct {
    tile_fn tile, last; /* last: of one panel */
    int n_panels;
} tiles[CAST_GROUP + 1] = {
    {NULL, NULL, 0},     ROW_OF_TABLE(1, 4),  ROW_OF_TABLE(2, 4),  ROW_OF_TABLE(3, 4),
    ROW_OF_TABLE(4, 2),  ROW_OF_TABLE(5, 2),  ROW_OF_TABLE(6, 2),  ROW_OF_TABLE(7, 2),
    ROW_OF_TABLE(8, 2),  ROW_OF_TABLE(9, 1),  ROW_OF_TABLE(10, 1), ROW_OF_TABLE(11, 1),
    ROW_OF_TABLE(12, 1), ROW_OF_TABLE(13, 1), ROW_OF_TABLE(14, 1), ROW_OF_TABLE(15, 1),
    ROW_OF_TABLE(16, 1),
};

static int group_of(int left)
{
    return left < CAST_GROUP ? left : CAST_GROUP;
}

/* Pass `pass` of n_passes, before panel j. */
static struct ahead ahead_of(const struct panel_args *a, int j, int pass, int n_passes)
{
    const char *at = j < a->n_panels ? (const char *)panel_part(a, j, 0)
                                     : a->after ? a->after : a->w[0];
    size_t step = 64 / (size_t)n_passes;
    return (struct ahead){at + (size_t)pass * step * (size_t)a->K / 2, step};
}

/* Full groups, panel by panel: each panel meets all rows while it is in the cache. */
static void full_groups(const struct panel_args *a, int n_full)
{
    for (int j = 0; j < a->n_panels; j++)
        for (int r = 0; r < n_full; r += CAST_GROUP)
            tile16(a, (const uint16_t *)a->x + (size_t)r * a->ldx, j,
                   a->y + (size_t)r * a->ldy + j * 16,
                   ahead_of(a, j + 1, r / CAST_GROUP, n_full / CAST_GROUP));
}

static void last_group(const struct panel_args *a, int r)
{
    const uint16_t *x = (const uint16_t *)a->x + (size_t)r * a->ldx;
    float *y = a->y + (size_t)r * a->ldy;
    int n = a->n_rows - r, per = tiles[n].n_panels, j = 0;
    for (; j + per <= a->n_panels; j += per)
        tiles[n].tile(a, x, j, y + j * 16, ahead_of(a, j + per, 0, 1));
    for (; j < a->n_panels; j++)
        tiles[n].last(a, x, j, y + j * 16, ahead_of(a, j + 1, 0, 1));
}

static void pair_panels(const struct panel_args *a)
{
    int n_full = a->n_rows / CAST_GROUP * CAST_GROUP;
    if (n_full)
        full_groups(a, n_full);
    if (n_full < a->n_rows)
        last_group(a, n_full);
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

/* Sixteen inputs of rows a and b, as bf16. */
static inline __m512i two_rows(const float *a, const float *b)
{
    __m256i lo = (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(a));
    __m256i hi = (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(b));
    return _mm512_inserti64x4(_mm512_castsi256_si512(lo), hi, 1);
}

/* Pairs 0 to 7 of rows i and i + 4 for i < 4, to t[j]: pair j of rows 0 to 3, pair j + 4 of them, the same of rows
 * 4 to 7. */
static inline void transpose_eight(const float *x, size_t ldx, __m512i t[4])
{
    __m512i r0 = two_rows(x, x + 4 * ldx), r1 = two_rows(x + ldx, x + 5 * ldx);
    __m512i r2 = two_rows(x + 2 * ldx, x + 6 * ldx), r3 = two_rows(x + 3 * ldx, x + 7 * ldx);
    __m512i a = _mm512_unpacklo_epi32(r0, r1), b = _mm512_unpackhi_epi32(r0, r1);
    __m512i c = _mm512_unpacklo_epi32(r2, r3), d = _mm512_unpackhi_epi32(r2, r3);
    t[0] = _mm512_unpacklo_epi64(a, c);
    t[1] = _mm512_unpackhi_epi64(a, c);
    t[2] = _mm512_unpacklo_epi64(b, d);
    t[3] = _mm512_unpackhi_epi64(b, d);
}

/* Sixteen inputs of sixteen rows. */
static void cast_block(uint32_t *out, const float *x, size_t ldx)
{
    __m512i t[4], u[4];
    transpose_eight(x, ldx, t);
    transpose_eight(x + 8 * ldx, ldx, u);
    for (int j = 0; j < 4; j++) {
        _mm512_storeu_si512(out + 16 * j, _mm512_shuffle_i32x4(t[j], u[j], 0x88)); /* lanes 0 and 2 of each */
        _mm512_storeu_si512(out + 16 * (j + 4), _mm512_shuffle_i32x4(t[j], u[j], 0xdd));
    }
}

static int cast(uint16_t *out, size_t ldo, const float *x, size_t ldx, int row, int n_rows, int K)
{
    int n = group_of(n_rows - row), in_blocks = n == 16 ? K / 16 * 16 : 0;
    uint32_t *group = (uint32_t *)(void *)(out + (size_t)row * ldo);
    x += (size_t)row * ldx;
    for (int k = 0; k < in_blocks; k += 16, group += 8 * 16)
        cast_block(group, x + k, ldx);
    for (int r = 0; r < n; r++)
        cast_row(group + r, n, x + (size_t)r * ldx + in_blocks, K - in_blocks);
    return n;
}

#define VW 16
#define NAME kernels_avx512bf16
#define ISA "avx512bf16"
#define QUANT quant_vnni
#define PANELS_BF16 pair_panels
#define CAST cast
#include "core/kernels/body.h"
#endif
