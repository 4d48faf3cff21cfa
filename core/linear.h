/* y = W x + b for the rows of a step, shared out over the compute pool by panels of sixteen outputs.
 *
 * Thread: engine, or the one thread of a serial pool.
 *
 *     struct linear_in in = linear_in(&l.w, x, ldx, n_rows, cast, k, par);      once for all that read x
 *     linear(&l, &in, y, ldy, k, par);
 */
#ifndef PREFIXD_LINEAR_H
#define PREFIXD_LINEAR_H

#include "core/kernels/kernels.h"
#include "core/model/model.h"
#include "core/par.h"

static inline int linear_padded(int n_out)
{
    return (n_out + PANEL - 1) / PANEL * PANEL;
}

/* The rows that matrices of one type and n_in read, in the form that their kernels want. */
struct linear_in {
    const void *x; /* [n_rows, n_in] f32, or bf16 where weights are bf16 and the kernels cast */
    size_t ldx;
    int n_rows;
};

/* Elements of a row of cast. */
static inline size_t linear_cast_len(int n_in)
{
    return ((size_t)n_in + 1) / 2 * 2;
}

/* x: [n_rows, n_in], row stride ldx. cast: [n_rows, linear_cast_len(n_in)], written if it is needed, and lent to the
 * result. */
struct linear_in linear_in(const struct matrix *like, const float *x, size_t ldx, int n_rows,
                           uint16_t *cast, const struct kernels *k, struct par *par);

/* y: [n_rows, linear_padded(n_out)], row stride ldy; what lies beyond n_out comes out as zeros (the
 * matrix's padding). */
void linear(const struct linear *l, const struct linear_in *in, float *y, size_t ldy,
            const struct kernels *k, struct par *par);

/* The row of token `id` of an embedding matrix [vocab, dim], gathered from its panels into out[dim]. */
void linear_row(const struct matrix *m, int id, float *out);

#endif
