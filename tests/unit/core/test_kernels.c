/* Every kernel table of this CPU against OpenBLAS and double-precision references, and rows
 * that do not depend on their neighbours. */
#include "tests/support/rng.h"
#include "tests/test.h"

#include "core/base/mem.h"
#include "core/kernels/kernels.h"

#include <cblas.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>

typedef void (*table_fn)(const struct kernels *k);

/* Runs fn with every table that this CPU can run. */
static void with_tables(table_fn fn)
{
    static const char *const names[] = {"generic", "avx2", "avx512", "avx512vnni", "avx512bf16"};
    for (int i = 0; i < 5; i++) {
        setenv("PREFIXD_ISA", names[i], 1);
        const struct kernels *k = kernels_get();
        unsetenv("PREFIXD_ISA");
        if (strcmp(k->name, names[i]) == 0)
            fn(k);
    }
}

/* ---- matrix products
 * ----------------------------------------------------------------------------- */

enum { MAX_ROWS = 37, CANARY = 12345 };

struct product { /* y[R, N] = x[R, K] w[N, K]^T, w packed in panels of sixteen outputs */
    int R, K, n_panels;
    float *x, *w, *packed, *y, *expected,
        *size; /* size: sum of |x| |w|, for the tolerance */
    uint16_t *packed16;
};

static size_t panel_elems(const struct product *p, enum dtype t)
{
    size_t K = (size_t)p->K;
    return (t == DTYPE_F32 ? K : (K + 1) / 2 * 2) * 16;
}

static size_t packed_at(const struct product *p, int n, int k)
{
    return (size_t)(n / 16) * panel_elems(p, DTYPE_F32) + (size_t)k * 16 + (size_t)(n % 16);
}

static size_t packed16_at(const struct product *p, int n, int k)
{
    return (size_t)(n / 16) * panel_elems(p, DTYPE_BF16) +
           (size_t)(k / 2 * 32 + n % 16 * 2 + k % 2);
}

static float abs_of(float x)
{
    return fabsf(x);
}

static float same_of(float x)
{
    return x;
}

static void blas(const struct product *p, float *out, float (*fn)(float))
{
    openblas_set_num_threads(1); /* the sanitizers do not see how its threads wait */
    size_t N = (size_t)p->n_panels * 16, R = (size_t)p->R, K = (size_t)p->K;
    float *x = xcalloc(R * K, sizeof *x), *w = xcalloc(N * K, sizeof *w);
    for (size_t i = 0; i < R * K; i++)
        x[i] = fn(p->x[i]);
    for (size_t i = 0; i < N * K; i++)
        w[i] = fn(p->w[i]);
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, p->R, (int)N, p->K, 1, x, p->K, w,
                p->K, 0, out, (int)N);
    free(x);
    free(w);
}

static void product_init(struct product *p, struct rng *r, int R, int K, int n_panels)
{
    size_t N = (size_t)n_panels * 16, k = (size_t)K, rows = (size_t)R;
    *p = (struct product){.R = R, .K = K, .n_panels = n_panels};
    p->x = xcalloc(rows * k, sizeof *p->x);
    p->w = xcalloc(N * k, sizeof *p->w);
    p->packed = xcalloc(N * k, sizeof *p->packed);
    p->packed16 = xcalloc(N * (k + 1), sizeof *p->packed16);
    p->y = xcalloc((rows + 1) * N, sizeof *p->y);
    p->expected = xcalloc(rows * N, sizeof *p->expected);
    p->size = xcalloc(rows * N, sizeof *p->size);
    rng_fill(r, p->x, rows * k, 1);
    rng_fill(r, p->w, N * k, 1);
    for (size_t i = 0; i < rows * k; i++)
        p->x[i] = bf16_to_f32(f32_to_bf16(p->x[i])); /* a cast changes nothing */
    for (int n = 0; n < (int)N; n++)
        for (int i = 0; i < K; i++) {
            float *w = &p->w[(size_t)n * k + (size_t)i];
            uint16_t h = f32_to_bf16(*w);
            *w = bf16_to_f32(h); /* so that both types hold the same numbers */
            p->packed16[packed16_at(p, n, i)] = h;
            p->packed[packed_at(p, n, i)] = *w;
        }
    blas(p, p->expected, same_of);
    blas(p, p->size, abs_of);
}

static void product_fini(struct product *p)
{
    free(p->x);
    free(p->w);
    free(p->packed);
    free(p->packed16);
    free(p->y);
    free(p->expected);
    free(p->size);
}

/* The rows as the kernels of type t read them; freed by the caller. */
static void *rows_for(const struct kernels *k, enum dtype t, const float *x, int n_rows, int K, size_t *ldx)
{
    size_t n = (size_t)n_rows * (size_t)K, ld = ((size_t)K + 1) / 2 * 2;
    void *rows = xcalloc((size_t)n_rows * ld + 1, sizeof(float));
    *ldx = (size_t)K;
    memcpy(rows, x, n * sizeof *x);
    if (t == DTYPE_F32 || !k->cast)
        return rows;
    *ldx = ld;
    for (int r = 0; r < n_rows;)
        r += k->cast(rows, ld, x, (size_t)K, r, n_rows, K);
    return rows;
}

enum form { WHOLE, SCATTERED, N_FORMS };

/* WHOLE: panels one after the other; SCATTERED: a pointer to each, in another order than they lie. */
static void run_form(const struct kernels *k, const struct product *p, enum dtype t,
                     const float *x, int n_rows, float *y, bool accumulate, enum form form)
{
    const char *w = t == DTYPE_F32 ? (const char *)p->packed : (const char *)p->packed16;
    size_t bytes = panel_elems(p, t) * dtype_size(t), ldx;
    const void *each[8], *whole = w;
    char *copy = xcalloc((size_t)p->n_panels, bytes);
    for (int i = 0; i < p->n_panels; i++)
        each[i] = memcpy(copy + (size_t)(p->n_panels - 1 - i) * bytes, w + (size_t)i * bytes, bytes);
    void *rows = rows_for(k, t, x, n_rows, p->K, &ldx);
    struct panel_args a = {.x = rows, .ldx = ldx, .n_rows = n_rows,
                           .w = form == SCATTERED ? each : &whole, .is_scattered = form == SCATTERED,
                           .panel_step = panel_elems(p, t), .n_panels = p->n_panels,
                           .K = p->K, .part_len = p->K, .y = y, .ldy = (size_t)p->n_panels * 16,
                           .accumulate = accumulate};
    (t == DTYPE_F32 ? k->panels_f32 : k->panels_bf16)(&a);
    free(rows);
    free(copy);
}

static void run_panels(const struct kernels *k, const struct product *p, enum dtype t,
                       const float *x, int n_rows, float *y, bool accumulate)
{
    run_form(k, p, t, x, n_rows, y, accumulate, WHOLE);
}

static bool is_close(const struct product *p, float base)
{
    for (int i = 0; i < p->R * p->n_panels * 16; i++) {
        double tolerance =
            4 * sqrt(p->K) * 0x1p-24 * ((double)p->size[i] + fabs((double)base));
        if (!(fabs((double)p->y[i] - (double)p->expected[i] - (double)base) <= tolerance))
            return false;
    }
    return true;
}

static void check_product(const struct kernels *k, struct product *p, enum dtype t, enum form form)
{
    size_t N = (size_t)p->n_panels * 16;
    for (size_t i = 0; i < (size_t)(p->R + 1) * N; i++)
        p->y[i] = CANARY;
    run_form(k, p, t, p->x, p->R, p->y, false, form);
    if (!is_close(p, 0))
        test_fail(__FILE__, __LINE__, "%s %s: %d x %d x %d is off", k->name, dtype_name(t),
                  p->R, p->K, p->n_panels * 16);
    for (size_t i = 0; i < N; i++)
        EXPECT(p->y[(size_t)p->R * N + i] == CANARY);
    for (size_t i = 0; i < (size_t)p->R * N; i++)
        p->y[i] = 3;
    run_form(k, p, t, p->x, p->R, p->y, true, form);
    if (!is_close(p, 3))
        test_fail(__FILE__, __LINE__, "%s %s: accumulating %d x %d x %d is off", k->name,
                  dtype_name(t), p->R, p->K, p->n_panels * 16);
}

static void check_products(const struct kernels *k)
{
    static const int inputs[] = {1, 2, 7, 10, 16, 33, 64, 129, 576};
    struct rng r = {5};
    for (size_t i = 0; i < sizeof inputs / sizeof inputs[0]; i++)
        for (int rows = 1; rows <= MAX_ROWS; rows += rows < 17 ? 1 : 4) {
            struct product p;
            product_init(&p, &r, rows, inputs[i], 1 + (rows + (int)i) % 5);
            for (int form = 0; form < N_FORMS; form++) {
                check_product(k, &p, DTYPE_F32, (enum form)form);
                check_product(k, &p, DTYPE_BF16, (enum form)form);
            }
            product_fini(&p);
        }
}

TEST(kernels_panels_equal_openblas)
{
    with_tables(check_products);
}

/* Any run of the rows, copied to any place, gives the same bits as all of them together. */
static void check_rows_alone(const struct kernels *k, const struct product *p, enum dtype t,
                             struct rng *r)
{
    size_t N = (size_t)p->n_panels * 16, K = (size_t)p->K;
    run_panels(k, p, t, p->x, p->R, p->y, false);
    float *x = xcalloc((size_t)p->R * K + 16, sizeof *x),
          *y = xcalloc((size_t)p->R * N, sizeof *y);
    for (int i = 0; i < 40; i++) {
        int from = rng_below(r, p->R), n = rng_between(r, 1, p->R - from),
            shift = rng_below(r, 16);
        memcpy(x + shift, p->x + (size_t)from * K,
               (size_t)n * K * sizeof *x); /* other alignment too */
        run_panels(k, p, t, x + shift, n, y, false);
        if (memcmp(y, p->y + (size_t)from * N, (size_t)n * N * sizeof *y) != 0)
            test_fail(__FILE__, __LINE__,
                      "%s %s: rows %d to %d of %d differ alone (K %d, N %zu)", k->name,
                      dtype_name(t), from, from + n - 1, p->R, p->K, N);
    }
    free(x);
    free(y);
}

static void check_all_alone(const struct kernels *k)
{
    struct rng r = {6};
    for (int i = 0; i < 30; i++) {
        struct product p;
        product_init(&p, &r, rng_between(&r, 1, MAX_ROWS), rng_between(&r, 1, 150),
                     rng_between(&r, 1, 6));
        check_rows_alone(k, &p, DTYPE_F32, &r);
        check_rows_alone(k, &p, DTYPE_BF16, &r);
        product_fini(&p);
    }
}

TEST(kernels_rows_do_not_depend_on_their_neighbours)
{
    with_tables(check_all_alone);
}

static bool only_nan(const struct product *p, int row, int col)
{
    int N = p->n_panels * 16;
    for (int i = 0; i < p->R * N; i++)
        if ((p->y[i] != p->y[i]) != (i / N == row || i % N == col))
            return false;
    return true;
}

static void check_nan_products(const struct kernels *k)
{
    struct rng r = {7};
    for (int i = 0; i < 2; i++) {
        enum dtype t = i ? DTYPE_BF16 : DTYPE_F32;
        struct product p;
        product_init(&p, &r, 11, 33, 3);
        p.x[4 * 33 + 20] = NAN;
        run_panels(k, &p, t, p.x, p.R, p.y, false);
        EXPECT(only_nan(&p, 4, -1)); /* a row spoils itself alone */
        p.packed[packed_at(&p, 21, 32)] = NAN;
        p.packed16[packed16_at(&p, 21, 32)] = 0x7fc0;
        run_panels(k, &p, t, p.x, p.R, p.y, false);
        EXPECT(only_nan(&p, 4, 21));
        product_fini(&p);
    }
}

TEST(kernels_panels_carry_nan)
{
    with_tables(check_nan_products);
}

/* The values of attention: keys as inputs, in tiles that lie anywhere, of each a panel to sixteen head
 * dimensions; a row of keys far apart. Nothing behind the last key is read, or, of bf16, multiplied with
 * anything but zero. */
static void check_values(const struct kernels *k, enum dtype t, struct rng *r, int n_rows, int n_keys)
{
    enum { R = 40, KEYS = 128, DH = 48, LDX = 128, TILE = 16 * DH };
    static float p[R * LDX], v[KEYS][DH], y[R * DH], cast[R * LDX];
    static float tiles[KEYS / 16][TILE];
    static uint16_t tiles16[KEYS / 16][TILE];
    const void *w[KEYS / 16];
    bool is_cast = t == DTYPE_BF16 && k->cast;
    memset(tiles, 0xff, sizeof tiles); /* NaN */
    memset(tiles16, 0xff, sizeof tiles16);
    memset(p, 0xff, sizeof p);
    rng_fill(r, y, R * DH, 1);
    rng_fill(r, v[0], KEYS * DH, 1);
    for (int i = 0; i < n_rows; i++)
        rng_fill(r, p + i * LDX, (size_t)n_keys, 1);
    for (int i = 0; i < R * LDX; i++)
        p[i] = bf16_to_f32(f32_to_bf16(p[i]));
    for (int i = 0; i < KEYS / 16; i++)
        w[i] = t == DTYPE_F32 ? (const void *)tiles[KEYS / 16 - 1 - i] : tiles16[KEYS / 16 - 1 - i];
    for (int key = 0; key < n_keys; key++)
        for (int d = 0; d < DH; d++) {
            int tile = KEYS / 16 - 1 - key / 16, in = key % 16;
            uint16_t *pair = &tiles16[tile][d / 16 * 256 + in / 2 * 32 + d % 16 * 2];
            v[key][d] = bf16_to_f32(f32_to_bf16(v[key][d]));
            tiles[tile][d / 16 * 256 + in * 16 + d % 16] = v[key][d];
            pair[in % 2] = f32_to_bf16(v[key][d]);
            if (in % 2 == 0)
                pair[1] = 0;
        }
    for (int i = 0; i < n_rows && is_cast;)
        i += k->cast((uint16_t *)(void *)cast, LDX, p, LDX, i, n_rows, n_keys);
    static float was[R * DH];
    memcpy(was, y, sizeof y);
    struct panel_args a = {.x = is_cast ? cast : p, .ldx = LDX, .n_rows = n_rows, .w = w, .panel_step = 256,
                           .n_panels = DH / 16, .K = n_keys, .part_len = 16, .y = y, .ldy = DH,
                           .accumulate = true};
    (t == DTYPE_F32 ? k->panels_f32 : k->panels_bf16)(&a);
    for (int i = 0; i < n_rows; i++)
        for (int d = 0; d < DH; d++) {
            double sum = (double)was[i * DH + d];
            for (int key = 0; key < n_keys; key++)
                sum += (double)p[i * LDX + key] * (double)v[key][d];
            if (!(fabs(sum - (double)y[i * DH + d]) < 1e-5))
                test_fail(__FILE__, __LINE__, "%s %s: row %d of %d, %d keys: %g, not %g", k->name,
                          dtype_name(t), i, n_rows, n_keys, (double)y[i * DH + d], sum);
        }
}

static void check_value_tiles(const struct kernels *k)
{
    struct rng r = {8};
    for (int n_rows = 1; n_rows <= 40; n_rows += n_rows < 18 ? 1 : 11)
        for (int n_keys = 1; n_keys <= 128; n_keys += n_keys < 35 ? 3 : 31) {
            check_values(k, DTYPE_F32, &r, n_rows, n_keys);
            check_values(k, DTYPE_BF16, &r, n_rows, n_keys);
        }
}

TEST(kernels_panels_of_values_in_tiles)
{
    with_tables(check_value_tiles);
}

static void check_cast(const struct kernels *k)
{
    struct rng r = {13};
    enum { R = 37, MAX_K = 70, LD = 72 };
    static float x[R * MAX_K];
    static uint16_t out[R * LD];
    if (!k->cast)
        return;
    for (int K = 1; K <= MAX_K; K += 1 + K / 9)
        for (int n_rows = 1; n_rows <= R; n_rows++) {
            rng_fill(&r, x, R * MAX_K, 5);
            int row = 0;
            while (row < n_rows) {
                int n = k->cast(out, LD, x, MAX_K, row, n_rows, K);
                EXPECT_EQ(n, n_rows - row < 16 ? n_rows - row : 16);
                for (int i = 0; i < n; i++)
                    for (int j = 0; j < (K + 1) / 2 * 2; j++) {
                        uint16_t want = j < K ? f32_to_bf16(x[(row + i) * MAX_K + j]) : 0;
                        EXPECT(out[row * LD + (j / 2 * n + i) * 2 + j % 2] == want);
                    }
                row += n;
            }
        }
}

TEST(kernels_cast_packs_groups_of_rows_in_pairs)
{
    with_tables(check_cast);
}

/* ---- softmax
 * ------------------------------------------------------------------------------------- */

enum { MAX_SCORES = 700 };

static double sum_of_exp(const float *s, int n, double scale, double max)
{
    double sum = 0;
    for (int i = 0; i < n; i++)
        sum += exp((double)s[i] * scale - max);
    return sum;
}

/* Spans of every length one after the other; the running sum and the rescaled values must
 * be those of one softmax over all. */
static void check_softmax(const struct kernels *k)
{
    struct rng r = {9};
    for (int round = 0; round < 60; round++) {
        float raw[MAX_SCORES], p[SOFTMAX_SPAN + 1], m = -INFINITY, l = 0, scale = 0.25f;
        double max = -INFINITY, weight = 0;
        int n_total = rng_between(&r, 1, MAX_SCORES);
        rng_fill(&r, raw, (size_t)n_total, 20);
        for (int at = 0, n; at < n_total; at += n) {
            n = rng_between(&r, 1,
                            n_total - at < SOFTMAX_SPAN ? n_total - at : SOFTMAX_SPAN);
            memset(p, 0xff, sizeof p); /* NaN behind the scores */
            memcpy(p, raw + at, (size_t)n * sizeof *p);
            double before = max;
            for (int i = at; i < at + n; i++)
                max = fmax(max, (double)raw[i] * (double)scale);
            float f = k->softmax_span(p, n, scale, &m, &l);
            EXPECT(fabs((double)m - max) < 1e-5);
            EXPECT(fabs((double)f - (at ? exp(before - max) : 0)) < 1e-5);
            for (int i = 0; i < n; i++)
                EXPECT(fabs((double)p[i] - exp((double)raw[at + i] * (double)scale - max)) <
                       3e-6);
            for (int i = n; i < (n + 15) / 16 * 16; i++)
                EXPECT(p[i] == 0);
            EXPECT(p[(n + 15) / 16 * 16] != p[(n + 15) / 16 * 16]); /* untouched */
            weight = sum_of_exp(raw, at + n, (double)scale, max);
            EXPECT(fabs((double)l - weight) < 1e-5 * weight);
        }
    }
}

TEST(kernels_softmax_span_is_a_running_softmax)
{
    with_tables(check_softmax);
}

static void check_softmax_edges(const struct kernels *k)
{
    float far[16] = {0, -4000, -INFINITY}, m = -INFINITY, l = 0;
    k->softmax_span(far, 3, 1, &m, &l);
    EXPECT(far[0] == 1 && far[1] < 1e-30f && far[2] < 1e-30f && l == 1 && m == 0);
    for (int place = 0; place < 19; place++) {
        float s[32] = {0};
        s[place] = NAN;
        m = -INFINITY, l = 0;
        k->softmax_span(s, 19, 1, &m, &l);
        EXPECT(l != l);
    }
}

TEST(kernels_softmax_span_of_far_and_broken_scores)
{
    with_tables(check_softmax_edges);
}

static void check_sum_exp(const struct kernels *k)
{
    struct rng r = {10};
    float x[MAX_SCORES];
    for (int n = 1; n <= MAX_SCORES; n += n < 40 ? 1 : 53) {
        rng_fill(&r, x, (size_t)n, 3);
        double expected = 0;
        for (int i = 0; i < n; i++)
            expected += exp(((double)x[i] - 5) * 0.7);
        double sum = k->sum_exp(x, n, 5, 0.7f);
        EXPECT(fabs(sum - expected) < 2e-6 * expected);
        x[n / 2] = NAN;
        sum = k->sum_exp(x, n, 5, 0.7f);
        EXPECT(sum != sum);
    }
}

TEST(kernels_sum_exp)
{
    with_tables(check_sum_exp);
}

static void check_argmax(const struct kernels *k)
{
    struct rng r = {14};
    float x[MAX_SCORES];
    for (int n = 1; n <= MAX_SCORES; n += n < 40 ? 1 : 53) {
        int at = rng_below(&r, n), again = rng_below(&r, n), first = at < again ? at : again;
        rng_fill(&r, x, (size_t)n, 3);
        x[at] = x[again] = 400;
        EXPECT_EQ(k->argmax(x, n), first);
        if (n > 2) {
            x[(again + 1) % n == at ? (again + 2) % n : (again + 1) % n] = -INFINITY;
            EXPECT_EQ(k->argmax(x, n), first);
        }
        x[at] = INFINITY;
        EXPECT_EQ(k->argmax(x, n), -1);
        x[at] = NAN;
        EXPECT_EQ(k->argmax(x, n), -1);
        for (int i = 0; i < n; i++)
            x[i] = -INFINITY;
        EXPECT_EQ(k->argmax(x, n), -1);
        x[at] = -5;
        EXPECT_EQ(k->argmax(x, n), at);
    }
}

TEST(kernels_argmax_is_the_first_of_the_largest)
{
    with_tables(check_argmax);
}

/* ---- rows of the network
 * ------------------------------------------------------------------------- */

static void check_norm(const struct kernels *k)
{
    struct rng r = {11};
    for (int n = 1; n < 200; n += n < 40 ? 1 : 31) {
        float x[200], w[200], y[200];
        double squares = 0;
        rng_fill(&r, x, (size_t)n, 2);
        rng_fill(&r, w, (size_t)n, 1);
        for (int i = 0; i < n; i++)
            squares += (double)x[i] * (double)x[i];
        k->rms_norm(y, x, w, n, 1e-5f);
        double inv = 1 / sqrt(squares / n + 1e-5);
        for (int i = 0; i < n; i++)
            EXPECT(fabs((double)y[i] - (double)x[i] * inv * (double)w[i]) < 2e-6);
        x[n - 1] = NAN;
        k->rms_norm(y, x, w, n, 1e-5f);
        for (int i = 0; i < n; i++)
            EXPECT(y[i] != y[i]);
    }
}

TEST(kernels_rms_norm)
{
    with_tables(check_norm);
}

static void check_silu(const struct kernels *k)
{
    struct rng r = {12};
    for (int n = 1; n < 90; n += n < 40 ? 1 : 13) {
        float a[90], b[90], y[90];
        rng_fill(&r, a, (size_t)n, n % 3 ? 4 : 60);
        rng_fill(&r, b, (size_t)n, 1);
        memcpy(y, a, sizeof y);
        k->silu_mul(y, b, n);
        for (int i = 0; i < n; i++) {
            double expected = (double)a[i] / (1 + exp(-(double)a[i])) * (double)b[i];
            EXPECT(fabs((double)y[i] - expected) < 1e-6 * (1 + fabs(expected)));
        }
        memcpy(y, a, sizeof y);
        y[n / 2] = NAN;
        k->silu_mul(y, b, n);
        for (int i = 0; i < n; i++)
            EXPECT((y[i] != y[i]) == (i == n / 2));
    }
}

TEST(kernels_silu_mul)
{
    with_tables(check_silu);
}

/* ---- choosing
 * ------------------------------------------------------------------------------------ */

TEST(kernels_generic_can_be_forced)
{
    setenv("PREFIXD_ISA", "generic", 1);
    EXPECT_STR(kernels_get()->name, "generic");
    unsetenv("PREFIXD_ISA");
}
