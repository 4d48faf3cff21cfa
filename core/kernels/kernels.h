/* The inner loops of the forward pass, one table per instruction set, chosen once at run time.
 *
 * Thread: any; nothing here has state. Every result belongs to one row and is computed by additions
 * in an order that depends on the operand lengths alone: never on how many rows are passed, on a
 * row's place among them, or on alignment. This is what batch invariance rests on.
 *
 * R rows, K inputs, N outputs, Dh head dimension. "Panels" are described in core/model/model.h. */
#ifndef PREFIXD_KERNELS_H
#define PREFIXD_KERNELS_H

#include "core/base/dtype.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Rows times panels of sixteen outputs:
 *     y[r][16*j + o] = (accumulate ? y : 0) + sum over k, in order, of x[r][k] * W[16*j + o][k]
 * for r < n_rows, j < n_panels, o < 16. A panel's inputs may lie in parts of part_len each, the
 * last shorter: part t of panel j begins panel_step * j elements behind w[t]. Or each panel lies in
 * a place of its own: then panel j begins at w[j], and panel_step is only where the next one is to
 * be expected. Inside a part: panels_f32 [part_len, 16]; panels_bf16 [part_len / 2, 16, 2], inputs
 * in pairs, where the second of the last pair of an odd number of inputs is zero. Strides in
 * elements. */
struct panel_args {
    const void *x; /* [n_rows, K], row stride ldx: f32; for panels_bf16 of a table that casts, as
                      cast made it; for panels_int8 and panels_int4 as quantise made it */
    size_t ldx;
    int n_rows;
    const void *const *w;
    bool is_scattered;    /* w: one pointer a panel, instead of one a part */
    size_t panel_step;
    int n_panels, K, part_len; /* part_len is even, or at least K */
    const void *after; /* what this thread probably reads after these panels, to be brought into the
                          cache; NULL: nobody knows */
    float *y;                  /* [n_rows, 16 * n_panels], row stride ldy */
    size_t ldy;
    bool accumulate;
};

/* Products with whole numbers (core/kernels/quant.h), whose panels lie one after the other, without
 * accumulate; strides of x and w in bytes. The same bits on every instruction set. */
struct quant_kernels {
    /* Rows as panels of type t want them. They are taken in groups: packs the group that begins at
     * row, returns how many rows it has. A group has QUANT_ROWS rows, the last one those that are
     * left. out: [n_rows, ldo], ldo = quant_row_bytes. */
    int (*quantise)(enum dtype t, void *out, size_t ldo, const float *x, size_t ldx, int row,
                    int n_rows, int K);
    void (*panels_int8)(const struct panel_args *a);
    void (*panels_int4)(const struct panel_args *a);
};

enum { CAST_GROUP = 16 };
enum { SOFTMAX_SPAN = 128 }; /* keys between two rescalings of a row's running result */

struct kernels {
    const char *name;
    void (*panels_f32)(const struct panel_args *a);
    void (*panels_bf16)(const struct panel_args *a);
    /* Rows as panels_bf16 wants them; NULL: as they are. They are taken in groups: casts the group
     * that begins at row, returns how many rows it has. A group has CAST_GROUP rows, the last one
     * those that are left. out: [n_rows, ldo], ldo even and at least K; behind an odd K comes a
     * zero. */
    int (*cast)(uint16_t *out, size_t ldo, const float *x, size_t ldx, int row, int n_rows, int K);
    const struct quant_kernels *quant;
    /* One row's next n <= SOFTMAX_SPAN scores, n > 0: s[i] becomes exp(scale * s[i] - new maximum),
     * and zero from n up to the next multiple of sixteen, whatever stood there; *m is the running
     * maximum (of scaled scores), *l the running sum; returns the factor that rescales what was
     * accumulated before. */
    float (*softmax_span)(float *s, int n, float scale, float *m, float *l);
    /* y = x / sqrt(mean(x^2) + eps) * w, over n */
    void (*rms_norm)(float *y, const float *x, const float *w, int n, float eps);
    /* a += b, over n */
    void (*add)(float *a, const float *b, int n);
    /* a = silu(a) * b, over n */
    void (*silu_mul)(float *a, const float *b, int n);
    /* The first of the largest, n > 0; -1 if one is NaN or the largest is infinite. */
    int (*argmax)(const float *x, int n);
    /* y[i] = exp((x[i] - max) * scale), over n; never 0, not even for -inf */
    void (*exp_scaled)(float *y, const float *x, int n, float max, float scale);
    /* sum over i of exp((x[i] - max) * scale), in fixed groups, in double */
    double (*sum_exp)(const float *x, int n, float max, float scale);
};

/* The best table for this CPU, or the one that PREFIXD_ISA (generic, avx2, avx512, avx512vnni,
 * avx512bf16) forces. */
const struct kernels *kernels_get(void);

extern const struct kernels kernels_generic;
#if defined(__x86_64__)
extern const struct kernels kernels_avx2, kernels_avx512, kernels_avx512vnni, kernels_avx512bf16;
#endif

/* What they are made of. */
extern const struct quant_kernels quant_generic;
#if defined(__x86_64__)
extern const struct quant_kernels quant_avx2, quant_avx512, quant_vnni;
#endif

#endif
