/* y = W x + b for the rows of a step, shared out over the compute pool by panels of sixteen outputs.
 *
 * Thread: engine, or the one thread of a serial pool. */
#ifndef PREFIXD_LINEAR_H
#define PREFIXD_LINEAR_H

#include "core/kernels/kernels.h"
#include "core/model/model.h"
#include "core/par.h"

static inline int linear_padded(int n_out)
{
    return (n_out + PANEL - 1) / PANEL * PANEL;
}

/* x: [n_rows, n_in], row stride ldx. y: [n_rows, linear_padded(n_out)], row stride ldy; what lies beyond
 * n_out comes out as zeros (the matrix's padding). */
void linear(const struct linear *l, const float *x, size_t ldx, int n_rows, float *y, size_t ldy,
            const struct kernels *k, struct par *par);

/* The row of token `id` of an embedding matrix [vocab, dim], gathered from its panels into out[dim]. */
void linear_row(const struct matrix *m, int id, float *out);

#endif
