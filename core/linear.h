/* y = W x + b for the rows of a step, shared out over the compute pool by panels of sixteen
 * outputs.
 *
 * Thread: engine, or the one thread of a serial pool.
 *
 *     struct linear_in in = linear_in(&l.w, x, ldx, n_rows, room, k);      once for all that read x
 *     for (int g = 0; g < linear_in_groups(&in); g++)
 *         linear_in_pack(&in, g, k);      after x is written
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

/* The rows that matrices of one type and n_in read, and the form in which their kernels want them.
 */
struct linear_in {
    const float *x; /* [n_rows, n_in], row stride ldx */
    size_t ldx;
    int n_rows, n_in;
    enum dtype dtype; /* of the matrices */
    void *packed;     /* [n_rows, linear_packed_len(dtype, n_in)] what kernels read instead of x;
                         NULL: they read x */
};

/* Elements, of dtype_size each, of a packed row for matrices of type t. */
static inline size_t linear_packed_len(enum dtype t, int n_in)
{
    return t == DTYPE_INT8 || t == DTYPE_INT4 ? quant_row_bytes(t, (size_t)n_in)
                                              : ((size_t)n_in + 1) / 2 * 2;
}

/* room: n_rows packed rows, lent to the result, which uses it if the kernels do not read f32. */
struct linear_in linear_in(const struct matrix *like, const float *x, size_t ldx, int n_rows,
                           void *room, const struct kernels *k);

/* Rows are packed in groups of CAST_GROUP, in any order and by any thread. */
static inline int linear_in_groups(const struct linear_in *in)
{
    return (in->n_rows + CAST_GROUP - 1) / CAST_GROUP;
}

void linear_in_pack(const struct linear_in *in, int group, const struct kernels *k);

/* All groups, shared out. */
void linear_in_pack_all(const struct linear_in *in, const struct kernels *k, struct par *par);

/* y: [n_rows, linear_padded(n_out)], row stride ldy; what lies beyond n_out comes out as zeros (the
 * matrix's padding). */
void linear(const struct linear *l, const struct linear_in *in, float *y, size_t ldy,
            const struct kernels *k, struct par *par);

/* The same piece by piece, for a caller that shares out more than one product at once. A task
 * computes outputs first .. first + n - 1, padding included. */
struct linear_piece {
    int first, n;
};

int linear_n_tasks(const struct linear *l, const struct linear_in *in);

/* The weights that a task reads, front to back. */
const void *linear_weights(const struct linear *l, const struct linear_in *in, int task);

/* after: the weights that this thread probably reads next, or NULL. */
struct linear_piece linear_task(const struct linear *l, const struct linear_in *in, float *y,
                                size_t ldy, const struct kernels *k, int task, const void *after);

/* The row of token `id` of an embedding matrix [vocab, dim], gathered from its panels into
 * out[dim]. */
void linear_row(const struct matrix *m, int id, float *out);

#endif
