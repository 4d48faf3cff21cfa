/* The kernels, written once over vectors of VW floats; each ISA file includes this with its own VW,
 * NAME and compiler flags.
 *
 * Accumulators are named variables because gcc 12 keeps arrays of them in memory. A lane holds one
 * output, so vector width changes nothing in the order of additions. */
#include "core/kernels/kernels.h"

#ifndef PAIRS /* a file may bring its own */
#define PAIRS pairs
#define CAST NULL
#define OWN_PAIRS
#endif

#include <math.h>
#include <stdint.h>

typedef float vf __attribute__((vector_size(VW * 4)));
typedef int32_t vi __attribute__((vector_size(VW * 4)));
typedef uint32_t vu __attribute__((vector_size(VW * 4)));
typedef uint16_t vh __attribute__((vector_size(VW * 2)));

static inline vf load(const float *p)
{
    vf v;
    memcpy(&v, p, sizeof v);
    return v;
}

static inline void store(float *p, vf v)
{
    memcpy(p, &v, sizeof v);
}

static inline vf load_f32(const void *w, size_t at)
{
    return load((const float *)w + at);
}

static inline vf load_bf16(const void *w, size_t at)
{
    vh h;
    memcpy(&h, (const uint16_t *)w + at, sizeof h);
    vu bits = __builtin_convertvector(h, vu) << 16;
    vf v;
    memcpy(&v, &bits, sizeof v);
    return v;
}

/* a where the lanes of mask are set, else b. */
static inline vf pick(vi mask, vf a, vf b)
{
    vi ia, ib;
    memcpy(&ia, &a, sizeof ia);
    memcpy(&ib, &b, sizeof ib);
    ia = (mask & ia) | (~mask & ib);
    memcpy(&a, &ia, sizeof a);
    return a;
}

/* exp(x) for x <= 0 (attention, sums relative to a maximum) and moderate x > 0 (silu); about 1 ulp.
 * Range reduction by log 2 in two parts, polynomial of degree 6 (coefficients: Cephes expf). */
static inline vf vexp(vf x)
{
    vf lo = (vf){0} - 87.3f, hi = (vf){0} + 88.0f;
    x = pick(x < lo, lo, x); /* NaN stays NaN */
    x = pick(x > hi, hi, x);
    vf n = x * 1.44269504088896341f + 12582912.0f; /* 1.5 * 2^23: rounds to an integer */
    vi e;
    memcpy(&e, &n, sizeof e);
    n -= 12582912.0f;
    vf r = x - n * 0.693359375f + n * 2.12194440e-4f;
    vf p = 1.9875691500e-4f * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    vi bits = (e - 0x4b400000 + 127) << 23;
    vf two_n;
    memcpy(&two_n, &bits, sizeof two_n);
    return p * two_n;
}

/* Adds the lanes pairwise in a fixed order. */
static inline float lanes_sum(const float *v, int n)
{
    float t[16];
    memcpy(t, v, (size_t)n * sizeof *t);
    for (int half = n / 2; half; half /= 2)
        for (int i = 0; i < half; i++)
            t[i] += t[i + half];
    return t[0];
}

/* One column of VW outputs for eight, four or one rows; or four columns for one row. */
#define TILE8(SUFFIX)                                                                             \
    static inline void tile8_##SUFFIX(const struct panel_args *a, const float *x, const void *w,  \
                                      size_t at, float *y)                                        \
    {                                                                                             \
        size_t lx = a->ldx, ly = a->ldy, ldw = a->ldw;                                            \
        vf c0 = {0}, c1 = c0, c2 = c0, c3 = c0, c4 = c0, c5 = c0, c6 = c0, c7 = c0;               \
        if (a->accumulate) {                                                                      \
            c0 = load(y), c1 = load(y + ly), c2 = load(y + 2 * ly), c3 = load(y + 3 * ly);        \
            c4 = load(y + 4 * ly), c5 = load(y + 5 * ly), c6 = load(y + 6 * ly);                  \
            c7 = load(y + 7 * ly);                                                                \
        }                                                                                         \
        const float *x4 = x + 4 * lx;                                                             \
        for (int k = 0; k < a->K; k++, at += ldw) {                                               \
            vf b = load_##SUFFIX(w, at);                                                          \
            c0 += b * x[k];                                                                       \
            c1 += b * x[lx + (size_t)k];                                                          \
            c2 += b * x[2 * lx + (size_t)k];                                                      \
            c3 += b * x[3 * lx + (size_t)k];                                                      \
            c4 += b * x4[k];                                                                      \
            c5 += b * x4[lx + (size_t)k];                                                         \
            c6 += b * x4[2 * lx + (size_t)k];                                                     \
            c7 += b * x4[3 * lx + (size_t)k];                                                     \
        }                                                                                         \
        store(y, c0), store(y + ly, c1), store(y + 2 * ly, c2), store(y + 3 * ly, c3);            \
        store(y + 4 * ly, c4), store(y + 5 * ly, c5), store(y + 6 * ly, c6);                      \
        store(y + 7 * ly, c7);                                                                    \
    }

#define TILE4(SUFFIX)                                                                             \
    static inline void tile4_##SUFFIX(const struct panel_args *a, const float *x, const void *w,  \
                                      size_t at, float *y)                                        \
    {                                                                                             \
        size_t lx = a->ldx, ly = a->ldy, ldw = a->ldw;                                            \
        vf c0 = {0}, c1 = c0, c2 = c0, c3 = c0;                                                   \
        if (a->accumulate)                                                                        \
            c0 = load(y), c1 = load(y + ly), c2 = load(y + 2 * ly), c3 = load(y + 3 * ly);        \
        for (int k = 0; k < a->K; k++, at += ldw) {                                               \
            vf b = load_##SUFFIX(w, at);                                                          \
            c0 += b * x[k];                                                                       \
            c1 += b * x[lx + (size_t)k];                                                          \
            c2 += b * x[2 * lx + (size_t)k];                                                      \
            c3 += b * x[3 * lx + (size_t)k];                                                      \
        }                                                                                         \
        store(y, c0), store(y + ly, c1), store(y + 2 * ly, c2), store(y + 3 * ly, c3);            \
    }

#define TILE1(SUFFIX)                                                                             \
    static inline void tile1_##SUFFIX(const struct panel_args *a, const float *x, const void *w,  \
                                      size_t at, float *y)                                        \
    {                                                                                             \
        vf c = {0};                                                                               \
        if (a->accumulate)                                                                        \
            c = load(y);                                                                          \
        for (int k = 0; k < a->K; k++, at += a->ldw)                                              \
            c += load_##SUFFIX(w, at) * x[k];                                                     \
        store(y, c);                                                                              \
    }                                                                                             \
    static inline void tile1x4_##SUFFIX(const struct panel_args *a, const float *x,               \
                                        const void *w, const size_t *at, float *const *y)         \
    {                                                                                             \
        size_t a0 = at[0], a1 = at[1], a2 = at[2], a3 = at[3], ldw = a->ldw;                      \
        vf c0 = {0}, c1 = c0, c2 = c0, c3 = c0;                                                   \
        if (a->accumulate)                                                                        \
            c0 = load(y[0]), c1 = load(y[1]), c2 = load(y[2]), c3 = load(y[3]);                   \
        for (int k = 0; k < a->K; k++) {                                                          \
            size_t step = (size_t)k * ldw;                                                        \
            c0 += load_##SUFFIX(w, a0 + step) * x[k];                                             \
            c1 += load_##SUFFIX(w, a1 + step) * x[k];                                             \
            c2 += load_##SUFFIX(w, a2 + step) * x[k];                                             \
            c3 += load_##SUFFIX(w, a3 + step) * x[k];                                             \
        }                                                                                         \
        store(y[0], c0), store(y[1], c1), store(y[2], c2), store(y[3], c3);                       \
    }

/* Rows in eights, then four, the rest one by one over four columns at a time. */
#define PANELS(SUFFIX)                                                                            \
    TILE8(SUFFIX)                                                                                 \
    TILE4(SUFFIX)                                                                                 \
    TILE1(SUFFIX)                                                                                 \
    static void panels_##SUFFIX(const struct panel_args *a)                                       \
    {                                                                                             \
        enum { PER = 16 / VW };                                                                   \
        int n_cols = a->n_panels * PER, n_eights = a->n_rows / 8 * 8;                             \
        int n_fours = a->n_rows / 4 * 4;                                                          \
        for (int c = 0; c < n_cols; c++) {                                                        \
            size_t in = (size_t)(c % PER * VW), at = (size_t)(c / PER) * a->panel_step + in;      \
            for (int r = 0; r < n_eights; r += 8)                                                 \
                tile8_##SUFFIX(a, a->x + (size_t)r * a->ldx, a->w, at,                            \
                               a->y + (size_t)r * a->ldy + (size_t)c * VW);                       \
            if (n_fours > n_eights)                                                               \
                tile4_##SUFFIX(a, a->x + (size_t)n_eights * a->ldx, a->w, at,                     \
                               a->y + (size_t)n_eights * a->ldy + (size_t)c * VW);                \
        }                                                                                         \
        for (int r = n_fours; r < a->n_rows; r++) {                                               \
            const float *x = a->x + (size_t)r * a->ldx;                                           \
            float *y = a->y + (size_t)r * a->ldy;                                                 \
            int c = 0;                                                                            \
            for (; c + 4 <= n_cols; c += 4) {                                                     \
                size_t at[4];                                                                     \
                float *out[4];                                                                    \
                for (int i = 0; i < 4; i++) {                                                     \
                    at[i] = (size_t)((c + i) / PER) * a->panel_step +                             \
                            (size_t)((c + i) % PER * VW);                                         \
                    out[i] = y + (size_t)(c + i) * VW;                                            \
                }                                                                                 \
                tile1x4_##SUFFIX(a, x, a->w, at, out);                                            \
            }                                                                                     \
            for (; c < n_cols; c++)                                                               \
                tile1_##SUFFIX(a, x, a->w,                                                        \
                               (size_t)(c / PER) * a->panel_step + (size_t)(c % PER * VW),        \
                               y + (size_t)c * VW);                                               \
        }                                                                                         \
    }

PANELS(f32)
PANELS(bf16)

#ifdef OWN_PAIRS
/* ---- bf16 weights in pairs of inputs -------------------------------------------------------------- */

/* VW outputs' first and second inputs of a pair, as f32: the halves of their 32 bits. */
static inline void load_pair(const uint16_t *w, vf *first, vf *second)
{
    vu both;
    memcpy(&both, w, sizeof both);
    vu lo = both << 16, hi = both & 0xffff0000u;
    memcpy(first, &lo, sizeof lo);
    memcpy(second, &hi, sizeof hi);
}

#define PAIR_ZERO(r) vf c##r = {0};
#define PAIR_MADD(r)                                                                              \
    c##r += w0 * x[(size_t)r * ldx + k];                                                          \
    c##r += w1 * x[(size_t)r * ldx + k + 1];
#define PAIR_LAST(r) c##r += w0 * x[(size_t)r * ldx + k];
#define PAIR_KEEP(r) store(y + (size_t)r * a->ldy, c##r);
#define EACH8(XX) XX(0) XX(1) XX(2) XX(3) XX(4) XX(5) XX(6) XX(7)
#define EACH4(XX) XX(0) XX(1) XX(2) XX(3)
#define EACH1(XX) XX(0)

/* VW outputs of N rows. */
#define PAIR_TILE(N)                                                                              \
    static void pair_tile##N(const struct pairs_args *a, const float *x, const uint16_t *w,       \
                             float *y)                                                            \
    {                                                                                             \
        size_t ldx = a->ldx, k = 0, even = (size_t)a->K / 2 * 2;                                  \
        vf w0, w1;                                                                                \
        EACH##N(PAIR_ZERO)                                                                        \
        for (; k < even; k += 2, w += 32) {                                                       \
            load_pair(w, &w0, &w1);                                                               \
            EACH##N(PAIR_MADD)                                                                    \
        }                                                                                         \
        if (k < (size_t)a->K) {                                                                   \
            load_pair(w, &w0, &w1);                                                               \
            EACH##N(PAIR_LAST)                                                                    \
        }                                                                                         \
        EACH##N(PAIR_KEEP)                                                                        \
    }

PAIR_TILE(8)
PAIR_TILE(4)
PAIR_TILE(1)

static int pair_tile(const struct pairs_args *a, int r, const uint16_t *w, float *y)
{
    const float *x = (const float *)a->x + (size_t)r * a->ldx;
    int left = a->n_rows - r;
    y += (size_t)r * a->ldy;
    if (left >= 8)
        return pair_tile8(a, x, w, y), 8;
    if (left >= 4)
        return pair_tile4(a, x, w, y), 4;
    return pair_tile1(a, x, w, y), 1;
}

static void pairs(const struct pairs_args *a)
{
    enum { PER = 16 / VW };
    for (int c = 0; c < a->n_panels * PER; c++) {
        const uint16_t *w = a->w + (size_t)(c / PER) * a->panel_step + (size_t)(c % PER * VW * 2);
        for (int r = 0; r < a->n_rows;)
            r += pair_tile(a, r, w, a->y + (size_t)c * VW);
    }
}
#endif

/* exp of n values in place; a tail shorter than a vector goes through a padded copy. */
static void exp_inplace(float *s, int n)
{
    int i = 0;
    for (; i + VW <= n; i += VW)
        store(s + i, vexp(load(s + i)));
    if (i < n) {
        float t[VW] = {0};
        memcpy(t, s + i, (size_t)(n - i) * sizeof *t);
        store(t, vexp(load(t)));
        memcpy(s + i, t, (size_t)(n - i) * sizeof *t);
    }
}

static float softmax_span(float *s, int n, float scale, float *m, float *l)
{
    float best = *m, lanes[16] = {0};
    for (int i = 0; i < n; i++) {
        s[i] *= scale;
        best = s[i] > best ? s[i] : best;
    }
    for (int i = 0; i < n; i++)
        s[i] -= best;
    exp_inplace(s, n);
    for (int i = 0; i < n; i++)
        lanes[i % 16] += s[i];
    float rescale = *m == -INFINITY ? 0.0f : expf(*m - best);
    *l = *l * rescale + lanes_sum(lanes, 16);
    *m = best;
    return rescale;
}

static void rms_norm(float *y, const float *x, const float *w, int n, float eps)
{
    float lanes[16] = {0};
    int i = 0;
    for (; i + 16 <= n; i += 16)
        for (int j = 0; j < 16; j++)
            lanes[j] += x[i + j] * x[i + j];
    for (int j = 0; i + j < n; j++)
        lanes[j] += x[i + j] * x[i + j];
    float inv = 1.0f / sqrtf(lanes_sum(lanes, 16) / (float)n + eps);
    for (i = 0; i < n; i++)
        y[i] = x[i] * inv * w[i];
}

static void silu_mul(float *a, const float *b, int n)
{
    int i = 0;
    for (; i + VW <= n; i += VW) {
        vf x = load(a + i);
        store(a + i, x / (1.0f + vexp(-x)) * load(b + i));
    }
    if (i < n) {
        float t[VW] = {0};
        memcpy(t, a + i, (size_t)(n - i) * sizeof *t);
        vf x = load(t);
        store(t, x / (1.0f + vexp(-x)));
        for (int j = 0; i + j < n; j++)
            a[i + j] = t[j] * b[i + j];
    }
}

static void exp_scaled(float *y, const float *x, int n, float max, float scale)
{
    for (int i = 0; i < n; i++)
        y[i] = (x[i] - max) * scale;
    exp_inplace(y, n);
}

static double sum_exp(const float *x, int n, float max, float scale)
{
    double sum = 0;
    float t[256];
    for (int i = 0; i < n; i += 256) {
        int len = n - i < 256 ? n - i : 256;
        float lanes[16] = {0};
        exp_scaled(t, x + i, len, max, scale);
        for (int j = 0; j < len; j++)
            lanes[j % 16] += t[j];
        sum += (double)lanes_sum(lanes, 16);
    }
    return sum;
}

const struct kernels NAME = {
    .name = ISA,
    .panels_f32 = panels_f32,
    .panels_bf16 = panels_bf16,
    .pairs = PAIRS,
    .cast = CAST,
    .softmax_span = softmax_span,
    .rms_norm = rms_norm,
    .silu_mul = silu_mul,
    .exp_scaled = exp_scaled,
    .sum_exp = sum_exp,
};
