/* Matrix products of a step: padding, biases, shares of the compute pool. */
#include "core/linear.h"

#include <math.h>
#include <stdlib.h>

#include "core/base/mem.h"
#include "core/model/quant_panel.h"
#include "tests/support/rng.h"
#include "tests/test.h"

struct layer { /* W [n_out, n_in] as rows, and packed */
    struct linear l;
    float *w, *bias;
    void *panels;
};

static float rounded(float x)
{
    return bf16_to_f32(f32_to_bf16(x));
}

/* The layer's own rows become what the panels hold. */
static void pack_whole(const struct layer *y, enum dtype t, size_t O, size_t I)
{
    float *rows = xcalloc(PANEL * I, sizeof *rows);
    for (size_t o = 0; o < O; o += PANEL) {
        char *panel = (char *)y->panels + o / PANEL * matrix_panel_elems(t, I);
        size_t n = O - o < PANEL ? O - o : PANEL;
        memset(rows, 0, PANEL * I * sizeof *rows);
        memcpy(rows, y->w + o * I, n * I * sizeof *rows);
        quant_panel_pack(t, rows, I, panel);
        for (size_t r = 0; r < n; r++)
            quant_panel_row(t, panel, r, I, y->w + (o + r) * I);
    }
    free(rows);
}

static void pack(const struct layer *y, enum dtype t, size_t O, size_t I)
{
    size_t panel = matrix_panel_elems(t, I);
    if (t != DTYPE_F32 && t != DTYPE_BF16) {
        pack_whole(y, t, O, I);
        return;
    }
    for (size_t o = 0; o < O; o++)
        for (size_t i = 0; i < I; i++) {
            size_t at = o / PANEL * panel;
            if (t == DTYPE_F32)
                ((float *)y->panels)[at + i * PANEL + o % PANEL] = y->w[o * I + i];
            else
                ((uint16_t *)y->panels)[at + (i / 2 * PANEL + o % PANEL) * 2 + i % 2] =
                    f32_to_bf16(y->w[o * I + i]);
        }
}

static void layer_init(struct layer *y, struct rng *r, enum dtype t, int n_out, int n_in,
                       bool has_bias)
{
    size_t O = (size_t)n_out, I = (size_t)n_in, padded = (size_t)linear_padded(n_out);
    size_t n = padded / PANEL * matrix_panel_elems(t, I);
    y->w = xcalloc(O * I, sizeof *y->w);
    y->bias = xcalloc(O, sizeof *y->bias);
    y->panels = mem_try_aligned(n, sizeof(float));
    memset(y->panels, 0, n * sizeof(float));
    rng_fill(r, y->w, O * I, 1);
    rng_fill(r, y->bias, O, 1);
    for (size_t i = 0; i < O * I && t == DTYPE_BF16; i++)
        y->w[i] = rounded(y->w[i]);
    pack(y, t, O, I);
    y->l = (struct linear){{t, n_out, n_in, y->panels}, has_bias ? y->bias : NULL};
}

static void layer_fini(struct layer *y)
{
    free(y->w);
    free(y->bias);
    free(y->panels);
}

static void check_linear(struct rng *r, enum dtype type, int n_out, int n_in, int n_rows,
                         int n_threads)
{
    const struct kernels *k = kernels_get();
    bool casts = type == DTYPE_BF16 && k->cast, is_whole = type == DTYPE_INT8 || type == DTYPE_INT4;
    struct layer y;
    size_t I = (size_t)n_in, ld = (size_t)linear_padded(n_out), ldx = I + 3;
    layer_init(&y, r, type, n_out, n_in, n_out % 2);
    float *x = xcalloc((size_t)n_rows * ldx, sizeof *x);
    float *out = xcalloc((size_t)n_rows * ld, sizeof *out);
    rng_fill(r, x, (size_t)n_rows * ldx, 1);
    rng_fill(r, out, (size_t)n_rows * ld, 1);
    struct par *par = par_new(n_threads);
    void *room = xcalloc((size_t)n_rows * linear_packed_len(type, n_in), dtype_size(type));
    struct linear_in in = linear_in(&y.l.w, x, ldx, n_rows, room, k);
    linear_in_pack_all(&in, k, par);
    linear(&y.l, &in, out, ld, k, par);
    par_free(par);
    free(room);
    for (size_t t = 0; t < (size_t)n_rows; t++)
        for (size_t o = 0; o < ld; o++) {
            double sum = y.l.bias && o < (size_t)n_out ? (double)y.bias[o] : 0;
            for (size_t i = 0; i < I && o < (size_t)n_out; i++)
                sum += (double)(casts ? rounded(x[t * ldx + i]) : x[t * ldx + i]) *
                       (double)y.w[o * I + i];
            /* of whole numbers x has 8 bits */
            EXPECT(fabs(sum - (double)out[t * ld + o]) < (is_whole ? 0.3 : 2e-5));
        }
    free(x);
    free(out);
    layer_fini(&y);
}

static void check_sizes(enum dtype type)
{
    struct rng r = {81};
    for (int i = 0; i < 60; i++)
        check_linear(&r, type, rng_between(&r, 1, 150), rng_between(&r, 1, 90),
                     rng_between(&r, 1, 40), 1 + i % 3);
}

TEST(linear_equals_its_definition_at_odd_sizes)
{
    static const char *const isas[] = {"generic", "avx2", "avx512", "avx512vnni", "avx512bf16"};
    for (size_t i = 0; i < sizeof isas / sizeof *isas; i++) {
        setenv("PREFIXD_ISA", isas[i], 1);
        check_sizes(DTYPE_F32);
        check_sizes(DTYPE_BF16);
        check_sizes(DTYPE_INT8);
        check_sizes(DTYPE_INT4);
    }
    unsetenv("PREFIXD_ISA");
}

TEST(linear_row_gathers_an_embedding)
{
    struct rng r = {82};
    struct layer y;
    float out[9];
    for (int t = DTYPE_F32; t <= DTYPE_INT4; t++) {
        if (t == DTYPE_F16)
            continue;
        layer_init(&y, &r, (enum dtype)t, 37, 9, false);
        for (int id = 0; id < 37; id++) {
            linear_row(&y.l.w, id, out);
            EXPECT(memcmp(out, y.w + 9 * id, sizeof out) == 0);
        }
        layer_fini(&y);
    }
}
