/* Matrix products of a step: padding, biases, shares of the compute pool. */
#include "core/linear.h"

#include <math.h>
#include <stdlib.h>

#include "core/base/mem.h"
#include "tests/support/rng.h"
#include "tests/test.h"

struct layer { /* W [n_out, n_in] as rows, and packed */
    struct linear l;
    float *w, *bias, *panels;
};

static void layer_init(struct layer *y, struct rng *r, int n_out, int n_in, bool has_bias)
{
    size_t O = (size_t)n_out, I = (size_t)n_in, padded = (size_t)linear_padded(n_out);
    y->w = xcalloc(O * I, sizeof *y->w);
    y->bias = xcalloc(O, sizeof *y->bias);
    y->panels = mem_try_aligned(padded * I, sizeof *y->panels);
    rng_fill(r, y->w, O * I, 1);
    rng_fill(r, y->bias, O, 1);
    for (size_t o = 0; o < O; o++)
        for (size_t i = 0; i < I; i++)
            y->panels[((o / PANEL) * I + i) * PANEL + o % PANEL] = y->w[o * I + i];
    y->l = (struct linear){{DTYPE_F32, n_out, n_in, y->panels}, has_bias ? y->bias : NULL};
}

static void layer_fini(struct layer *y)
{
    free(y->w);
    free(y->bias);
    free(y->panels);
}

static void check_linear(struct rng *r, int n_out, int n_in, int n_rows, int n_threads)
{
    struct layer y;
    size_t I = (size_t)n_in, ld = (size_t)linear_padded(n_out), ldx = I + 3;
    layer_init(&y, r, n_out, n_in, n_out % 2);
    float *x = xcalloc((size_t)n_rows * ldx, sizeof *x);
    float *out = xcalloc((size_t)n_rows * ld, sizeof *out);
    rng_fill(r, x, (size_t)n_rows * ldx, 1);
    rng_fill(r, out, (size_t)n_rows * ld, 1);
    struct par *par = par_new(n_threads);
    linear(&y.l, x, ldx, n_rows, out, ld, kernels_get(), par);
    par_free(par);
    for (size_t t = 0; t < (size_t)n_rows; t++)
        for (size_t o = 0; o < ld; o++) {
            double sum = y.l.bias && o < (size_t)n_out ? (double)y.bias[o] : 0;
            for (size_t i = 0; i < I && o < (size_t)n_out; i++)
                sum += (double)x[t * ldx + i] * (double)y.w[o * I + i];
            EXPECT(fabs(sum - (double)out[t * ld + o]) < 2e-5);
        }
    free(x);
    free(out);
    layer_fini(&y);
}

TEST(linear_equals_its_definition_at_odd_sizes)
{
    struct rng r = {81};
    for (int i = 0; i < 60; i++)
        check_linear(&r, rng_between(&r, 1, 150), rng_between(&r, 1, 90),
                     rng_between(&r, 1, 12), 1 + i % 3);
}

TEST(linear_row_gathers_an_embedding)
{
    struct rng r = {82};
    struct layer y;
    float out[9];
    layer_init(&y, &r, 37, 9, false);
    for (int id = 0; id < 37; id++) {
        linear_row(&y.l.w, id, out);
        EXPECT(memcmp(out, y.w + 9 * id, sizeof out) == 0);
    }
    layer_fini(&y);
}
