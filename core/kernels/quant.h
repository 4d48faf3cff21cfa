/* How whole-number weights, and the rows that meet them, lie in memory.
 *
 * Thread: any; pure functions. A weight is scale * (code - zero), with a scale for each output and group of
 * inputs; so is an activation, with a scale for each row and QUANT_GROUP inputs: rows have single inputs far
 * larger than the rest, which cost the others of their group their precision. Sums of products of codes are
 * exact, so what an output is depends on no order but that of its groups.
 *
 * A panel of sixteen outputs (core/model/model.h) is read front to back. Inputs lie in fours ("quads"), because
 * the CPU's instruction multiplies four neighbouring bytes and adds the products; they are padded with zeros.
 *     int8, n_in padded to 32: for every 128 inputs, the last time for those that are left:
 *               f32 scale [16], then u8 code [quads, 16, 4], zero 128
 *     int4, n_in padded to 64: for every 64 inputs:
 *               bf16 scale [16, 2] of the first and of the second 32 inputs, then u8 [8, 16, 4]: in the low half
 *               of each byte the code of a quad, in the high half that of the quad after it, zero 8
 *
 * Rows are packed in groups of QUANT_ROWS, the last one of those that are left (n below), padded as the panels:
 *     for every 32 inputs:
 *         f32 scale [n], int32 start [n] = -zero * sum of the codes, int8 code [8 quads, n, 4]
 * A sum that begins at `start` is the product without the weights' zero. */
#ifndef PREFIXD_QUANT_H
#define PREFIXD_QUANT_H

#include "core/base/dtype.h"

enum {
    QUANT_ROWS = 8,
    QUANT_GROUP = 32, /* inputs of a row that share a scale */
    QUANT_LINE = 64,  /* bytes: sixteen scales, or a quad of sixteen outputs */
    INT8_GROUP = 128, /* inputs of an output that share a scale */
    INT8_ZERO = 128,
    INT4_GROUP = 32,
    INT4_ZERO = 8,
    INT4_BLOCK = 2 * INT4_GROUP,
    INT4_BLOCK_BYTES = QUANT_LINE + INT4_BLOCK * 16 / 2,
};

static inline int quant_zero(enum dtype t)
{
    return t == DTYPE_INT8 ? INT8_ZERO : INT4_ZERO;
}

/* n_in with padding. */
static inline size_t quant_padded(enum dtype t, size_t n_in)
{
    size_t unit = t == DTYPE_INT8 ? QUANT_GROUP : INT4_BLOCK;
    return (n_in + unit - 1) / unit * unit;
}

static inline size_t quant_panel_bytes(enum dtype t, size_t n_in)
{
    size_t n = quant_padded(t, n_in);
    return t == DTYPE_INT8 ? n * 16 + (n + INT8_GROUP - 1) / INT8_GROUP * QUANT_LINE
                           : n / INT4_BLOCK * INT4_BLOCK_BYTES;
}

/* Bytes of a packed row; a group begins at its first row's number times this. */
static inline size_t quant_row_bytes(enum dtype t, size_t n_in)
{
    return quant_padded(t, n_in) / QUANT_GROUP * (QUANT_GROUP + 8);
}

#endif
