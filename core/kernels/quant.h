/* How whole-number weights, and the rows that meet them, lie in memory.
 *
 * Thread: any; pure functions. A weight is scale * (code - zero), with a scale for each output and
 * group of 32 inputs. An activation is scale * code, with a scale for each row and half a group:
 * rows have single inputs far larger than the rest, which cost those that share their scale their
 * precision. Sums of products of codes are exact, so what an output is depends on no order but that
 * of its groups.
 *
 * A panel of sixteen outputs (core/model/model.h) is read front to back. Inputs lie in fours
 * ("quads"), because the CPU's instruction multiplies four neighbouring bytes and adds the products;
 * they are padded with zeros to blocks of two groups:
 *
 *     bf16 scale [16, 2]    of the first and of the second group, then
 *     int8: u8 code [16 quads, 16, 4]    zero 128
 *     int4: u8 [8, 16, 4]    zero 8; the low half of each byte is the code of a quad, the high half
 *                            that of the quad after it
 *
 * Rows are packed in groups of QUANT_ROWS, the last one of those that are left (n), with the same
 * padding; for every half of a group of inputs:
 *
 *     f32 scale [n], int32 start [n] = -zero * sum of the codes, int8 code [4 quads, n, 4]
 *
 * A sum that begins at `start` is the product without the weights' zero. */
#ifndef PREFIXD_QUANT_H
#define PREFIXD_QUANT_H

#include "core/base/dtype.h"

enum {
    QUANT_ROWS = 8,
    QUANT_GROUP = 32, /* inputs of an output that share a scale */
    QUANT_HALF = 16,  /* inputs of a row that share one */
    QUANT_BLOCK = 2 * QUANT_GROUP,
    QUANT_LINE = 64, /* bytes: a block's scales, or the codes of sixteen outputs for one quad of
                        int8, two of int4 */
    INT8_ZERO = 128,
    INT4_ZERO = 8,
};

static inline int quant_zero(enum dtype t)
{
    return t == DTYPE_INT8 ? INT8_ZERO : INT4_ZERO;
}

/* Blocks of n_in inputs. */
static inline size_t quant_blocks(size_t n_in)
{
    return (n_in + QUANT_BLOCK - 1) / QUANT_BLOCK;
}

static inline size_t quant_block_bytes(enum dtype t)
{
    return QUANT_LINE + QUANT_BLOCK / (t == DTYPE_INT8 ? 4 : 8) * QUANT_LINE;
}

static inline size_t quant_panel_bytes(enum dtype t, size_t n_in)
{
    return quant_blocks(n_in) * quant_block_bytes(t);
}

/* Bytes of a packed row; a group of rows begins at its first row's number times this. */
static inline size_t quant_row_bytes(size_t n_in)
{
    return quant_blocks(n_in) * (QUANT_BLOCK / QUANT_HALF) * (QUANT_HALF + 8);
}

#endif
