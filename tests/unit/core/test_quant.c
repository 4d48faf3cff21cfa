/* Products with int8 and int4: packing and its way back, products against a definition in double
 * over the same whole numbers, the same bits on every instruction set and for rows alone. */
#include "core/kernels/quant.h"

#include "tests/support/rng.h"
#include "tests/test.h"

#include "core/base/mem.h"
#include "core/kernels/kernels.h"
#include "core/model/quant_panel.h"

#include <math.h>
#include <stdlib.h>

enum { MAX_ROWS = 37 };

static const char *const isas[] = {"generic", "avx2", "avx512", "avx512vnni", "avx512bf16"};
enum { N_ISAS = sizeof isas / sizeof *isas };

/* NULL: not on this CPU. */
static const struct kernels *table_of(const char *isa)
{
    setenv("PREFIXD_ISA", isa, 1);
    const struct kernels *k = kernels_get();
    unsetenv("PREFIXD_ISA");
    return strcmp(k->name, isa) == 0 ? k : NULL;
}

struct product { /* y[R, N] = x[R, K] w[N, K]^T */
    enum dtype t;
    int R, K, n_panels;
    float *x, *w, *y;
    char *panels;
};

/* Inputs are multiples of 1/1024, whose sums over a block are exact in any order. */
static void product_init(struct product *p, struct rng *r, enum dtype t, int R, int K, int n_panels)
{
    size_t N = (size_t)n_panels * 16, k = (size_t)K, bytes = quant_panel_bytes(t, k);
    *p = (struct product){.t = t, .R = R, .K = K, .n_panels = n_panels};
    p->x = xcalloc((size_t)R * k, sizeof *p->x);
    p->w = xcalloc(N * k, sizeof *p->w);
    p->y = xcalloc((size_t)(R + 1) * N, sizeof *p->y);
    p->panels = mem_try_aligned((size_t)n_panels * bytes, 1);
    rng_fill(r, p->x, (size_t)R * k, 3);
    for (size_t i = 0; i < (size_t)R * k; i++)
        p->x[i] = rintf(p->x[i] * 1024) / 1024;
    rng_fill(r, p->w, N * k, 1);
    for (int j = 0; j < n_panels; j++)
        quant_panel_pack(t, p->w + (size_t)j * 16 * k, k, p->panels + (size_t)j * bytes);
}

static void product_fini(struct product *p)
{
    free(p->x);
    free(p->w);
    free(p->y);
    free(p->panels);
}

/* The rows packed, in memory of exactly their size; freed by the caller. */
static char *packed_rows(const struct kernels *k, const struct product *p, const float *x,
                         int n_rows)
{
    size_t len = quant_row_bytes(p->t, (size_t)p->K);
    char *rows = xcalloc((size_t)n_rows, len);
    for (int r = 0; r < n_rows;)
        r += k->quant->quantise(p->t, rows, len, x, (size_t)p->K, r, n_rows, p->K);
    return rows;
}

static void run(const struct kernels *k, const struct product *p, const float *x, int n_rows,
                float *y)
{
    const void *w = p->panels;
    char *rows = packed_rows(k, p, x, n_rows);
    struct panel_args a = {.x = rows,
                           .ldx = quant_row_bytes(p->t, (size_t)p->K),
                           .n_rows = n_rows,
                           .w = &w,
                           .panel_step = quant_panel_bytes(p->t, (size_t)p->K),
                           .n_panels = p->n_panels,
                           .K = p->K,
                           .part_len = p->K,
                           .y = y,
                           .ldy = (size_t)p->n_panels * 16};
    (p->t == DTYPE_INT8 ? k->quant->panels_int8 : k->quant->panels_int4)(&a);
    free(rows);
}

/* ---- packing ---- */

static int min_int(int a, int b)
{
    return a < b ? a : b;
}

/* 8 Hx of a block that begins with n inputs: the sign of an input in an output is the parity of the
 * bits that both their numbers have. */
static void rotated(const float *x, int n, double out[QUANT_BLOCK])
{
    for (int o = 0; o < QUANT_BLOCK; o++) {
        out[o] = 0;
        for (int i = 0; i < n; i++)
            out[o] += __builtin_parity((unsigned)(i & o)) ? -(double)x[i] : (double)x[i];
    }
}

/* Scale and codes of n inputs, zeros behind them, that share a scale in a row, from what they should
 * be: no look at the packed bytes. */
static float row_part(enum dtype t, const float *x, int n, int code[QUANT_BLOCK])
{
    double v[QUANT_BLOCK] = {0};
    float most = 0;
    for (int i = 0; i < n; i++)
        v[i] = (double)x[i];
    if (t == DTYPE_INT8)
        rotated(x, n, v);
    for (int i = 0; i < QUANT_BLOCK; i++)
        most = fmaxf(most, (float)fabs(v[i]));
    for (int i = 0; i < QUANT_BLOCK; i++)
        code[i] = most > 0 ? (int)lrintf((float)v[i] * (127 / most)) : 0;
    return most / 127 * (t == DTYPE_INT8 ? 0.125f : 1);
}

/* Checks the bytes of the inputs from `first` on that share a scale in row r of its packed group of
 * n rows; returns where the next begins. */
static const char *check_part(const char *at, const float *x, enum dtype t, int first, int K, int r,
                              int n)
{
    int code[QUANT_BLOCK], sum = 0, len = (int)quant_row_part(t), left = K - first;
    float scale = row_part(t, x + first, min_int(len, left < 0 ? 0 : left), code), got_scale;
    int32_t start;
    memcpy(&got_scale, at + 4 * r, 4);
    memcpy(&start, at + 4 * n + 4 * r, 4);
    at += 8 * n;
    EXPECT(got_scale == scale);
    for (int i = 0; i < len; i++) {
        EXPECT_EQ((signed char)at[i / 4 * 4 * n + 4 * r + i % 4], code[i]);
        sum += code[i];
    }
    EXPECT_EQ(start, -quant_zero(t) * sum);
    return at + len * n;
}

static void check_rows(const struct kernels *k, struct rng *rng, enum dtype t, int R, int K)
{
    struct product p;
    product_init(&p, rng, t, R, K, 1);
    size_t len = quant_row_bytes(t, (size_t)K);
    char *rows = packed_rows(k, &p, p.x, R);
    for (int r = 0; r < R; r++) {
        int first = r / QUANT_ROWS * QUANT_ROWS, n = min_int(QUANT_ROWS, R - first);
        const char *at = rows + (size_t)first * len;
        for (int i = 0; i < (int)quant_blocks((size_t)K) * QUANT_BLOCK; i += (int)quant_row_part(t))
            at = check_part(at, p.x + r * K, t, i, K, r - first, n);
        EXPECT(at == rows + (size_t)(first + n) * len);
    }
    free(rows);
    product_fini(&p);
}

TEST(quant_rows_are_packed_in_groups)
{
    struct rng r = {21};
    for (int i = 0; i < N_ISAS; i++) {
        const struct kernels *k = table_of(isas[i]);
        for (int j = 0; k && j < 60; j++)
            check_rows(k, &r, j % 2 ? DTYPE_INT8 : DTYPE_INT4, rng_between(&r, 1, MAX_ROWS),
                       rng_between(&r, 1, 300));
    }
}

/* Inputs whose sums are rounded: the order of additions shows. */
TEST(quant_rows_have_the_same_bytes_on_every_isa)
{
    struct rng r = {29};
    for (int j = 0; j < 20; j++) {
        struct product p;
        product_init(&p, &r, j % 2 ? DTYPE_INT4 : DTYPE_INT8, 9, 300, 1);
        rng_fill(&r, p.x, 9 * 300, 3);
        char *want = packed_rows(table_of("generic"), &p, p.x, 9);
        for (int i = 1; i < N_ISAS; i++) {
            const struct kernels *k = table_of(isas[i]);
            char *got = k ? packed_rows(k, &p, p.x, 9) : NULL;
            EXPECT(!k || memcmp(got, want, 9 * quant_row_bytes(p.t, 300)) == 0);
            free(got);
        }
        free(want);
        product_fini(&p);
    }
}

/* Rotation keeps the sum of squares: together the errors of a block of int8 are no larger than those
 * of its codes, half a scale each. */
static void check_int8(const float *w, const float *back, int n)
{
    double v[QUANT_BLOCK], most = 0, squares = 0;
    rotated(w, n, v);
    for (int i = 0; i < QUANT_BLOCK; i++)
        most = fmax(most, fabs(v[i]) / 8);
    for (int i = 0; i < n; i++)
        squares += ((double)back[i] - (double)w[i]) * ((double)back[i] - (double)w[i]);
    EXPECT(sqrt(squares / QUANT_BLOCK) <= most / 127 / 2 * 1.0001);
}

static void check_int4(const float *w, const float *back, int n)
{
    float most = 0;
    for (int i = 0; i < n; i++)
        most = fmaxf(most, fabsf(w[i]));
    for (int i = 0; i < n; i++)
        EXPECT(fabsf(back[i] - w[i]) <= most / 6.5f);
}

/* Back from the panel: nearest to what was packed. */
static void check_panel(struct rng *r, enum dtype t, int K)
{
    float back[300];
    struct product p;
    product_init(&p, r, t, 1, K, 2);
    size_t bytes = quant_panel_bytes(t, (size_t)K);
    int part = t == DTYPE_INT8 ? QUANT_BLOCK : QUANT_GROUP;
    for (int o = 0; o < 32; o++) {
        quant_panel_row(t, p.panels + (size_t)(o / 16) * bytes, (size_t)(o % 16), (size_t)K, back);
        for (int i = 0; i < K; i += part)
            (t == DTYPE_INT8 ? check_int8 : check_int4)(p.w + o * K + i, back + i,
                                                        min_int(part, K - i));
    }
    product_fini(&p);
}

TEST(quant_panels_come_back)
{
    struct rng r = {22};
    for (int K = 1; K <= 300; K += K < 10 ? 1 : 7) {
        check_panel(&r, DTYPE_INT8, K);
        check_panel(&r, DTYPE_INT4, K);
    }
}

/* A block of weights that a scale of 1/4 can hold. */
static void fill_holdable(struct rng *r, enum dtype t, float w[QUANT_BLOCK])
{
    double v[QUANT_BLOCK];
    int top = t == DTYPE_INT8 ? 127 : 7;
    for (int i = 0; i < QUANT_BLOCK; i++)
        w[i] = (float)rng_between(r, -top, top) * 0.25f;
    for (int i = 0; i < QUANT_BLOCK; i += QUANT_GROUP)
        w[i] = t == DTYPE_INT8 ? 127 * 0.25f : -8 * 0.25f;
    rotated(w, QUANT_BLOCK, v);
    for (int i = 0; i < QUANT_BLOCK && t == DTYPE_INT8; i++)
        w[i] = (float)v[i] / 8;
}

TEST(quant_panels_keep_what_they_can_hold)
{
    enum { K = 192 };
    static float w[16 * K], back[K];
    static char panel[16 * K + 3 * QUANT_LINE];
    struct rng r = {23};
    for (int t = DTYPE_INT8; t <= DTYPE_INT4; t++) {
        EXPECT(quant_panel_bytes((enum dtype)t, K) <= sizeof panel);
        for (int i = 0; i < 16 * K; i += QUANT_BLOCK)
            fill_holdable(&r, (enum dtype)t, w + i);
        quant_panel_pack((enum dtype)t, w, K, panel);
        for (size_t o = 0; o < 16; o++) {
            quant_panel_row((enum dtype)t, panel, o, K, back);
            EXPECT(memcmp(back, w + o * K, sizeof back) == 0);
        }
    }
}

/* ---- products ---- */

/* Output o's weights as rows meet them, padded: those of int8 are rotated. */
static void weights_of(const struct product *p, int o, float *out)
{
    size_t lane = (size_t)(o % 16);
    const unsigned char *block = (const unsigned char *)p->panels +
                                 (size_t)(o / 16) * quant_panel_bytes(p->t, (size_t)p->K);
    if (p->t == DTYPE_INT4)
        quant_panel_row(p->t, block, lane, (size_t)p->K, out);
    for (int k = 0; k < p->K && p->t == DTYPE_INT8; k += QUANT_BLOCK) {
        float scale;
        memcpy(&scale, block + 4 * lane, 4);
        for (size_t i = 0; i < QUANT_BLOCK; i++)
            out[k + (int)i] =
                scale * (float)(block[QUANT_LINE * (1 + i / 4) + 4 * lane + i % 4] - INT8_ZERO);
        block += quant_block_bytes(DTYPE_INT8);
    }
}

/* What the output is by definition, from the weights as they come back and the rows' codes. */
static double definition(const struct product *p, int row, const float *weights, double *size)
{
    double sum = 0;
    *size = 0;
    for (int first = 0, part = (int)quant_row_part(p->t); first < p->K; first += part) {
        int code[QUANT_BLOCK];
        double scale = (double)row_part(p->t, p->x + row * p->K + first,
                                        min_int(part, p->K - first), code);
        for (int i = 0; i < part; i++) {
            sum += scale * code[i] * (double)weights[first + i];
            *size += fabs(scale * code[i] * (double)weights[first + i]);
        }
    }
    return sum;
}

static void check_product(const struct kernels *k, struct product *p)
{
    int N = p->n_panels * 16;
    float *weights = xcalloc(quant_blocks((size_t)p->K) * QUANT_BLOCK, sizeof *weights);
    for (int i = 0; i < (p->R + 1) * N; i++)
        p->y[i] = 12345;
    run(k, p, p->x, p->R, p->y);
    for (int o = 0; o < N; o++) {
        weights_of(p, o, weights);
        EXPECT(p->y[p->R * N + o] == 12345);
        for (int r = 0; r < p->R; r++) {
            double size, want = definition(p, r, weights, &size), got = (double)p->y[r * N + o];
            if (!(fabs(got - want) <= 4 * 0x1p-24 * size))
                test_fail(__FILE__, __LINE__, "%s %s: %d x %d: row %d, output %d is %.9g, not %.9g",
                          k->name, dtype_name(p->t), p->R, p->K, r, o, got, want);
        }
    }
    free(weights);
}

static void same_everywhere(struct product *p)
{
    size_t bytes = (size_t)p->R * (size_t)p->n_panels * 16 * sizeof(float);
    float *first = xcalloc(bytes, 1);
    for (int i = 0; i < N_ISAS; i++) {
        const struct kernels *k = table_of(isas[i]);
        if (!k)
            continue;
        check_product(k, p);
        if (i == 0)
            memcpy(first, p->y, bytes);
        else if (memcmp(first, p->y, bytes) != 0)
            test_fail(__FILE__, __LINE__, "%s %s: %d x %d differs from generic", k->name,
                      dtype_name(p->t), p->R, p->K);
    }
    free(first);
}

TEST(quant_products_equal_their_definition_bit_for_bit_on_every_isa)
{
    static const int inputs[] = {1, 2, 5, 31, 33, 64, 127, 128, 129, 200, 256, 576};
    struct rng r = {24};
    for (size_t i = 0; i < sizeof inputs / sizeof *inputs; i++)
        for (int rows = 1; rows <= MAX_ROWS; rows += rows < 17 ? 1 : 7)
            for (int t = DTYPE_INT8; t <= DTYPE_INT4; t++) {
                struct product p;
                product_init(&p, &r, (enum dtype)t, rows, inputs[i], 1 + (rows + (int)i) % 6);
                same_everywhere(&p);
                product_fini(&p);
            }
}

/* Where inputs are not zero, so that all codes have the largest magnitude: a block's first one alone is
 * spread evenly by rotation. */
static bool is_largest(enum dtype t, int input)
{
    return t == DTYPE_INT4 || input % QUANT_BLOCK == 0;
}

/* Sums of the largest products that there are, whose parts would not fit into 16 bits. */
TEST(quant_products_do_not_saturate)
{
    struct rng r = {25};
    for (int t = DTYPE_INT8; t <= DTYPE_INT4; t++)
        for (int sign = -1; sign <= 1; sign += 2) {
            struct product p;
            product_init(&p, &r, (enum dtype)t, 9, 256, 3);
            for (int i = 0; i < 9 * 256; i++)
                p.x[i] = is_largest((enum dtype)t, i) ? (float)sign : 0;
            for (int i = 0; i < 48 * 256; i++)
                p.w[i] = !is_largest((enum dtype)t, i) ? 0 : i / 256 % 2 ? -1 : 1;
            for (int j = 0; j < 3; j++)
                quant_panel_pack((enum dtype)t, p.w + j * 16 * 256, 256,
                                 p.panels + (size_t)j * quant_panel_bytes((enum dtype)t, 256));
            same_everywhere(&p);
            product_fini(&p);
        }
}

/* Any run of the rows, copied to any place, gives the same bits as all of them together. */
static void check_rows_alone(const struct kernels *k, const struct product *p, struct rng *r)
{
    size_t N = (size_t)p->n_panels * 16, K = (size_t)p->K;
    float *x = xcalloc((size_t)p->R * K + 16, sizeof *x), *y = xcalloc((size_t)p->R * N, sizeof *y);
    run(k, p, p->x, p->R, p->y);
    for (int i = 0; i < 20; i++) {
        int from = rng_below(r, p->R), n = rng_between(r, 1, p->R - from), shift = rng_below(r, 16);
        memcpy(x + shift, p->x + (size_t)from * K, (size_t)n * K * sizeof *x);
        run(k, p, x + shift, n, y);
        if (memcmp(y, p->y + (size_t)from * N, (size_t)n * N * sizeof *y) != 0)
            test_fail(__FILE__, __LINE__, "%s %s: rows %d to %d of %d differ alone (K %zu)",
                      k->name, dtype_name(p->t), from, from + n - 1, p->R, K);
    }
    free(x);
    free(y);
}

TEST(quant_rows_do_not_depend_on_their_neighbours)
{
    struct rng r = {26};
    for (int i = 0; i < N_ISAS; i++) {
        const struct kernels *k = table_of(isas[i]);
        for (int j = 0; k && j < 30; j++) {
            struct product p;
            product_init(&p, &r, j % 2 ? DTYPE_INT8 : DTYPE_INT4, rng_between(&r, 1, MAX_ROWS),
                         rng_between(&r, 1, 300), rng_between(&r, 1, 6));
            check_rows_alone(k, &p, &r);
            product_fini(&p);
        }
    }
}

/* ---- what is no number, or nearly nothing ---- */

static void check_nan(const struct kernels *k, struct rng *r, enum dtype t, float odd)
{
    struct product p;
    product_init(&p, r, t, 11, 150, 3);
    p.x[4 * 150 + 20] = odd;
    p.w[21 * 150 + 149] = odd;
    for (size_t j = 0; j < 3; j++)
        quant_panel_pack(t, p.w + j * 16 * 150, 150, p.panels + j * quant_panel_bytes(t, 150));
    run(k, &p, p.x, p.R, p.y);
    for (int i = 0; i < 11 * 48; i++)
        EXPECT((p.y[i] != p.y[i]) == (i / 48 == 4 || i % 48 == 21));
    product_fini(&p);
}

TEST(quant_products_carry_what_is_not_finite)
{
    struct rng r = {27};
    for (int i = 0; i < N_ISAS; i++) {
        const struct kernels *k = table_of(isas[i]);
        for (int t = DTYPE_INT8; k && t <= DTYPE_INT4; t++) {
            check_nan(k, &r, (enum dtype)t, NAN);
            check_nan(k, &r, (enum dtype)t, -INFINITY);
        }
    }
}

TEST(quant_products_of_almost_nothing_are_zero)
{
    struct rng r = {28};
    for (int i = 0; i < N_ISAS; i++) {
        const struct kernels *k = table_of(isas[i]);
        for (int j = 0; k && j < 4; j++) {
            struct product p;
            product_init(&p, &r, j % 2 ? DTYPE_INT8 : DTYPE_INT4, 3, 140, 1);
            for (int x = 0; x < 3 * 140; x++)
                p.x[x] = j < 2 ? 0 : 1e-40f;
            run(k, &p, p.x, 3, p.y);
            for (int o = 0; o < 3 * 16; o++)
                EXPECT(p.y[o] == 0);
            product_fini(&p);
        }
    }
}
