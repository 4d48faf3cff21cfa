/* The kernels, written once over vectors of VW floats; each ISA file includes this with its own VW,
 * NAME and compiler flags.
 *
 * Accumulators are named variables because gcc 12 keeps arrays of them in memory. A lane holds one
 * output, so vector width changes nothing in the order of additions. */
#include "core/kernels/kernels.h"

#ifndef PANELS_BF16 /* a file may bring its own */
#define PANELS_BF16 panels_bf16
#define CAST NULL
#define NEEDS_BF16
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

/* x in every lane. */
static inline vf splat(float x)
{
    int32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return (vf)((vi){0} + bits);
}

/* a * b + c. A product and an addition become one only where this says so: a compiler that chose
 * would choose otherwise in another copy of the same loop, and a row's bits would depend on how
 * many there are. A file may bring the instruction, which rounds once. */
#ifndef FMADD
#define FMADD(a, b, c) ((a) * (b) + (c))
#endif

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

/* A file may bring its own of these. */
#ifndef LARGER /* a > b ? a : b, as the CPU's instructions have it: b if one is NaN */
#define LARGER(a, b) pick((a) > (b), a, b)
#define SMALLER(a, b) pick((a) < (b), a, b)
#endif
#ifndef TIMES_TWO_TO
#define TIMES_TWO_TO(p, n) times_two_to(p, n)
#define NEAREST(x) nearest(x)

static inline vf nearest(vf x)
{
    x += 12582912.0f; /* 1.5 * 2^23: rounds to an integer */
    return x - 12582912.0f;
}

/* n: whole numbers from -126 to 127 */
static inline vf times_two_to(vf p, vf n)
{
    vi e = (__builtin_convertvector(n, vi) + 127) << 23;
    vf two_n;
    memcpy(&two_n, &e, sizeof two_n);
    return p * two_n;
}
#endif

/* exp(x) for x <= 0 (attention, sums relative to a maximum) and moderate x > 0 (silu); about 1 ulp.
 * Range reduction by log 2 in two parts, polynomial of degree 6 (coefficients: Cephes expf). */
static inline vf vexp(vf x)
{
    vf lo = (vf){0} - 87.3f, hi = (vf){0} + 88.0f;
    x = LARGER(lo, x); /* NaN stays NaN */
    x = SMALLER(hi, x);
    vf n = NEAREST(x * 1.44269504088896341f);
    vf r = FMADD(n, splat(-0.693359375f), x);
    r = FMADD(n, splat(2.12194440e-4f), r);
    vf p = FMADD(splat(1.9875691500e-4f), r, splat(1.3981999507e-3f));
    p = FMADD(p, r, splat(8.3334519073e-3f));
    p = FMADD(p, r, splat(4.1665795894e-2f));
    p = FMADD(p, r, splat(1.6666665459e-1f));
    p = FMADD(p, r, splat(5.0000001201e-1f));
    p = FMADD(p * r, r, r) + 1.0f;
    return TIMES_TWO_TO(p, n);
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

#ifndef LANES_SUM
#define LANES_SUM(v) lanes_sum((const float *)&(v), VW)
#define LANES_MAX(v) lanes_max(v)

static inline float lanes_max(vf v)
{
    float best = v[0];
    for (int i = 1; i < VW; i++)
        best = v[i] > best ? v[i] : best;
    return best;
}
#endif

/* ---- rows times panels ----------------------------------------------------------------------------
 *
 * A column is VW outputs of a panel. */

#define EACH1(XX) XX(0)
#define EACH4(XX) XX(0) XX(1) XX(2) XX(3)
#define EACH8(XX) XX(0) XX(1) XX(2) XX(3) XX(4) XX(5) XX(6) XX(7)

#define START(r)                                                                                  \
    vf c##r = {0};                                                                                \
    if (a->accumulate)                                                                            \
        c##r = load(y + (size_t)r * a->ldy);
#define KEEP(r) store(y + (size_t)r * a->ldy, c##r);
#define MADD(r) c##r = FMADD(w0, splat(x[(size_t)r * ldx + k]), c##r);
#define MADD_PAIR(r)                                                                              \
    c##r = FMADD(w0, splat(x[(size_t)r * ldx + k]), c##r);                                        \
    c##r = FMADD(w1, splat(x[(size_t)r * ldx + k + 1]), c##r);

/* One part: n inputs for N rows. */
#define PART_F32(N)                                                                               \
    for (size_t k = 0; k < n; k++) {                                                              \
        vf w0 = load((const float *)w[t] + at + k * 16);                                          \
        EACH##N(MADD)                                                                             \
    }

#define PART_BF16(N)                                                                              \
    const uint16_t *pair = (const uint16_t *)w[t] + at;                                           \
    vf w0, w1;                                                                                    \
    size_t k = 0;                                                                                 \
    for (; k + 1 < n; k += 2, pair += 32) {                                                       \
        load_pair(pair, &w0, &w1);                                                                \
        EACH##N(MADD_PAIR)                                                                        \
    }                                                                                             \
    if (k < n) {                                                                                  \
        load_pair(pair, &w0, &w1);                                                                \
        EACH##N(MADD)                                                                             \
    }

/* One column for N rows. */
#define TILE(KIND, PART, N)                                                                       \
    static void KIND##_tile##N(const struct panel_args *a, const float *x, const void *const *w,  \
                               size_t at, float *y)                                               \
    {                                                                                             \
        size_t ldx = a->ldx, left = (size_t)a->K, len = (size_t)a->part_len;                      \
        EACH##N(START)                                                                            \
        for (size_t t = 0; left > 0; t++) {                                                       \
            size_t n = left < len ? left : len;                                                   \
            PART(N)                                                                               \
            left -= n;                                                                            \
            x += n;                                                                               \
        }                                                                                         \
        EACH##N(KEEP)                                                                             \
    }

/* Four columns for one row: several sums at once hide what one addition waits for the one before. */
#define MADD_F32_4(i)                                                                             \
    c##i = FMADD(load((const float *)col[i].w[t] + col[i].at + k * 16), splat(x[k]), c##i);
#define PART_F32_4                                                                                \
    for (size_t k = 0; k < n; k++) {                                                              \
        EACH4(MADD_F32_4)                                                                         \
    }

#define MADD_BF16_4(i)                                                                            \
    load_pair((const uint16_t *)col[i].w[t] + col[i].at + k * 16, &w0, &w1);                      \
    c##i = FMADD(w0, splat(x[k]), c##i);                                                          \
    if (k + 1 < n)                                                                                \
        c##i = FMADD(w1, splat(x[k + 1]), c##i);
#define PART_BF16_4                                                                               \
    for (size_t k = 0; k < n; k += 2) {                                                           \
        vf w0, w1;                                                                                \
        EACH4(MADD_BF16_4)                                                                        \
    }

struct column { /* begins at elements behind each pointer of w */
    const void *const *w;
    size_t at;
};

#define START4(i)                                                                                 \
    vf c##i = {0};                                                                                \
    if (a->accumulate)                                                                            \
        c##i = load(y + i * VW);
#define KEEP4(i) store(y + i * VW, c##i);

#define ROW4(KIND, PART)                                                                          \
    static void KIND##_row4(const struct panel_args *a, const float *x,                           \
                            const struct column *col, float *y)                                   \
    {                                                                                             \
        size_t left = (size_t)a->K, len = (size_t)a->part_len;                                    \
        EACH4(START4)                                                                             \
        for (size_t t = 0; left > 0; t++) {                                                       \
            size_t n = left < len ? left : len;                                                   \
            PART                                                                                  \
            left -= n;                                                                            \
            x += n;                                                                               \
        }                                                                                         \
        EACH4(KEEP4)                                                                              \
    }

/* lane: elements that a lane takes of a row of a panel */
static inline struct column column_of(const struct panel_args *a, int c, size_t lane)
{
    enum { PER = 16 / VW };
    size_t panel = (size_t)(c / PER), in = (size_t)(c % PER * VW) * lane;
    if (a->is_scattered)
        return (struct column){a->w + panel, in};
    return (struct column){a->w, in + panel * a->panel_step};
}

/* Rows in eights, then four; the rest one by one, over four columns at a time. */
#define PANELS(KIND, PART, LANE)                                                                  \
    TILE(KIND, PART, 8)                                                                           \
    TILE(KIND, PART, 4)                                                                           \
    TILE(KIND, PART, 1)                                                                           \
    ROW4(KIND, PART##_4)                                                                          \
    static void KIND##_many(const struct panel_args *a, const float *x, int n_rows)               \
    {                                                                                             \
        for (int c = 0; c < a->n_panels * (16 / VW); c++) {                                       \
            struct column col = column_of(a, c, LANE);                                            \
            float *y = a->y + (size_t)c * VW;                                                     \
            int r = 0;                                                                            \
            for (; r + 8 <= n_rows; r += 8)                                                       \
                KIND##_tile8(a, x + (size_t)r * a->ldx, col.w, col.at, y + (size_t)r * a->ldy);   \
            if (r < n_rows)                                                                       \
                KIND##_tile4(a, x + (size_t)r * a->ldx, col.w, col.at, y + (size_t)r * a->ldy);   \
        }                                                                                         \
    }                                                                                             \
    static void KIND##_one(const struct panel_args *a, const float *x, float *y)                  \
    {                                                                                             \
        int c = 0, n = a->n_panels * (16 / VW);                                                   \
        for (; c + 4 <= n; c += 4) {                                                              \
            struct column col[4];                                                                 \
            for (int i = 0; i < 4; i++)                                                           \
                col[i] = column_of(a, c + i, LANE);                                               \
            KIND##_row4(a, x, col, y + (size_t)c * VW);                                           \
        }                                                                                         \
        for (; c < n; c++) {                                                                      \
            struct column col = column_of(a, c, LANE);                                            \
            KIND##_tile1(a, x, col.w, col.at, y + (size_t)c * VW);                                \
        }                                                                                         \
    }                                                                                             \
    static void panels_##KIND(const struct panel_args *a)                                         \
    {                                                                                             \
        int n_fours = a->n_rows / 4 * 4;                                                          \
        if (n_fours)                                                                              \
            KIND##_many(a, a->x, n_fours);                                                        \
        for (int r = n_fours; r < a->n_rows; r++)                                                 \
            KIND##_one(a, (const float *)a->x + (size_t)r * a->ldx, a->y + (size_t)r * a->ldy);   \
    }

PANELS(f32, PART_F32, (size_t)1)

#ifdef NEEDS_BF16
/* VW outputs' first and second inputs of a pair, as f32: the halves of their 32 bits. */
static inline void load_pair(const uint16_t *w, vf *first, vf *second)
{
    vu both;
    memcpy(&both, w, sizeof both);
    vu lo = both << 16, hi = both & 0xffff0000u;
    memcpy(first, &lo, sizeof lo);
    memcpy(second, &hi, sizeof hi);
}

PANELS(bf16, PART_BF16, (size_t)2)
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

/* The lanes i with first + i < n. */
static inline vi lanes_below(int n, int first)
{
    vi lane;
    for (int i = 0; i < VW; i++)
        lane[i] = i;
    return lane < (vi){0} + (n - first);
}

static float largest(const float *s, int n)
{
    vf none = (vf){0} - INFINITY, most = none;
    int i = 0;
    for (; i + VW <= n; i += VW)
        most = LARGER(load(s + i), most);
    if (i < n)
        most = LARGER(pick(lanes_below(n, i), load(s + i), none), most);
    return LANES_MAX(most);
}

static float softmax_span(float *s, int n, float scale, float *m, float *l)
{
    float best = largest(s, n) * scale;
    best = best > *m ? best : *m;
    vf sum = {0};
    int i = 0;
    for (; i + VW <= n; i += VW) {
        vf p = vexp(FMADD(load(s + i), splat(scale), splat(-best)));
        sum += p;
        store(s + i, p);
    }
    if (i < n) {
        vf p = pick(lanes_below(n, i), vexp(FMADD(load(s + i), splat(scale), splat(-best))), (vf){0});
        sum += p;
        store(s + i, p);
        i += VW;
    }
    for (; i % 16; i += VW)
        store(s + i, (vf){0});
    float rescale = *m == best ? 1.0f : *m == -INFINITY ? 0.0f : expf(*m - best);
    *l = FMADD(splat(*l), splat(rescale), splat(LANES_SUM(sum)))[0];
    *m = best;
    return rescale;
}

/* Sixteen sums, whatever VW is. */
static float sum_squares(const float *x, int n)
{
    vf sums[16 / VW] = {0};
    float rest[16] = {0};
    memcpy(rest, x + n / 16 * 16, (size_t)(n % 16) * sizeof *rest);
    for (int i = 0; i < n; i += 16)
        for (int p = 0; p < 16 / VW; p++) {
            vf v = load((i + 16 <= n ? x + i : rest) + p * VW);
            sums[p] = FMADD(v, v, sums[p]);
        }
    return lanes_sum((const float *)sums, 16);
}

static void rms_norm(float *y, const float *x, const float *w, int n, float eps)
{
    float inv = 1.0f / sqrtf(sum_squares(x, n) / (float)n + eps);
    for (int i = 0; i < n; i++)
        y[i] = x[i] * inv * w[i];
}

/* Where not all are finite: -1 if one is NaN or the largest is infinite. */
static int argmax_of_odd(const float *x, int n)
{
    int best = 0;
    for (int i = 0; i < n; i++) {
        if (x[i] != x[i])
            return -1;
        if (x[i] > x[best])
            best = i;
    }
    return isfinite(x[best]) ? best : -1;
}

/* A tail shorter than a vector goes one by one. */
static int argmax(const float *x, int n)
{
    vf most = (vf){0} - INFINITY, odd = {0};
    int i = 0;
    for (; i + VW <= n; i += VW) {
        vf v = load(x + i);
        most = LARGER(v, most);
        odd += v - v; /* NaN for NaN, and for infinities */
    }
    float best = LANES_MAX(most), sum = LANES_SUM(odd);
    for (; i < n; i++) {
        best = x[i] > best ? x[i] : best;
        sum += x[i] - x[i];
    }
    if (sum != sum)
        return argmax_of_odd(x, n);
    for (i = 0; x[i] != best; i++)
        ;
    return i;
}

static void add(float *a, const float *b, int n)
{
    for (int i = 0; i < n; i++)
        a[i] += b[i];
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
    .panels_bf16 = PANELS_BF16,
    .cast = CAST,
    .quant = &QUANT,
    .softmax_span = softmax_span,
    .rms_norm = rms_norm,
    .add = add,
    .silu_mul = silu_mul,
    .argmax = argmax,
    .exp_scaled = exp_scaled,
    .sum_exp = sum_exp,
};
