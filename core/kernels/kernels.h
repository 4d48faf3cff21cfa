/* The inner loops of the forward pass, one table per instruction set, chosen once at run time.
 *
 * Thread: any; nothing here has state. Every result belongs to one row and is computed by additions in
 * an order that depends on the operand lengths alone: never on how many rows are passed, on a row's
 * place among them, or on alignment. This is what batch invariance rests on.
 *
 * R rows, K inputs, N outputs, Dh head dimension. "Panels" are described in core/model/model.h. */
#ifndef PREFIXD_KERNELS_H
#define PREFIXD_KERNELS_H

#include "core/base/dtype.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* y[r][16*j + o] = (accumulate ? y : 0) + sum over k, in order, of x[r][k] * w[j*panel_step + k*ldw + o]
 * for r < n_rows, j < n_panels, o < 16. Strides in elements. */
struct panel_args {
    const float *x; /* [n_rows, K], row stride ldx */
    size_t ldx;
    int n_rows;
    const void *w; /* f32 or bf16 */
    size_t panel_step, ldw;
    int n_panels, K;
    float *y; /* [n_rows, 16 * n_panels], row stride ldy */
    size_t ldy;
    bool accumulate;
};

/* The same with bf16 weights whose inputs lie in pairs: sixteen outputs side by side, of each two inputs. y[r][16*j + o] =
 * sum over k, in order, of x[r][k] * w[j*panel_step + (k/2*16 + o)*2 + k%2]. An odd K is padded with zero
 * weights. */
struct pairs_args {
    const void *x; /* [n_rows, K], row stride ldx elements: bf16 if the table casts (zero behind an odd K), else f32 */
    size_t ldx;
    int n_rows;
    const uint16_t *w;
    size_t panel_step;
    int n_panels, K;
    float *y; /* [n_rows, 16 * n_panels], row stride ldy */
    size_t ldy;
};

enum { SOFTMAX_SPAN = 128 }; /* keys between two rescalings of a row's running result */

struct kernels {
    const char *name;
    void (*panels_f32)(const struct panel_args *a);
    void (*panels_bf16)(const struct panel_args *a);
    void (*pairs)(const struct pairs_args *a);
    /* Rows as pairs wants them; NULL: as they are. They are taken in groups: casts the group that begins at
     * row, returns how many rows it has. out: [n_rows, ldo], ldo even and at least K. */
    int (*cast)(uint16_t *out, size_t ldo, const float *x, size_t ldx, int row, int n_rows, int K);
    /* One row's next n <= SOFTMAX_SPAN scores: s[i] becomes exp(scale * s[i] - new maximum); *m is the
     * running maximum (of scaled scores), *l the running sum; returns the factor that rescales what was
     * accumulated before. */
    float (*softmax_span)(float *s, int n, float scale, float *m, float *l);
    /* y = x / sqrt(mean(x^2) + eps) * w, over n */
    void (*rms_norm)(float *y, const float *x, const float *w, int n, float eps);
    /* a = silu(a) * b, over n */
    void (*silu_mul)(float *a, const float *b, int n);
    /* y[i] = exp((x[i] - max) * scale), over n; never 0, not even for -inf */
    void (*exp_scaled)(float *y, const float *x, int n, float max, float scale);
    /* sum over i of exp((x[i] - max) * scale), in fixed groups, in double */
    double (*sum_exp)(const float *x, int n, float max, float scale);
};

/* The best table for this CPU, or the one that PREFIXD_ISA (generic, avx2, avx512, avx512bf16)
 * forces. */
const struct kernels *kernels_get(void);

extern const struct kernels kernels_generic;
#if defined(__x86_64__)
extern const struct kernels kernels_avx2, kernels_avx512, kernels_avx512bf16;
#endif

#endif
