/* How whole-number weights, and the rows that meet them, lie in memory.
 *
 * Thread: any; pure functions. A weight is scale * (code - zero), an activation scale * code. Sums
 * of products of codes are exact, so what an output is depends on no order but that of its blocks
 * of 64 inputs, to which inputs are padded with zeros.
 *
 * Rows have single inputs far larger than the rest, which cost those that share their scale their
 * precision. For int8 weights every block is therefore rotated, x to Hx and w to Hw, with H the
 * orthonormal Walsh-Hadamard matrix (after QuaRot, arXiv 2404.00456): products are the same, since
 * x.w = (Hx).(Hw), a large input is spread over its block, and one scale does for a block of a row
 * or of an output. For int4 the grid of the weights costs more than the rows do, most of all where a
 * checkpoint was quantised before: its weights stay unrotated, with a scale for each output and
 * group of 32 inputs, and rows have one for half a group.
 *
 * A panel of sixteen outputs (core/model/model.h) is read front to back. Inputs lie in fours
 * ("quads"), because the CPU's instruction multiplies four neighbouring bytes and adds the products.
 * A block is
 *
 *     int8: f32 scale [16], u8 code [16 quads, 16, 4]    zero 128
 *     int4: bf16 scale [16, 2]    of the first and of the second group, then
 *           u8 [8, 16, 4]    zero 8; the low half of each byte is the code of a quad, the high half
 *                            that of the quad after it
 *
 * Rows are packed in groups of QUANT_ROWS, the last one of those that are left (n). For every block
 * that int8 weights meet, for every half of a group that int4 weights meet:
 *
 *     f32 scale [n], int32 start [n] = -zero * sum of the codes, int8 code [quads, n, 4]
 *
 * A sum that begins at `start` is the product without the weights' zero. */
#ifndef PREFIXD_QUANT_H
#define PREFIXD_QUANT_H

#include "core/base/dtype.h"

enum {
    QUANT_ROWS = 8,
    QUANT_BLOCK = 64,
    QUANT_GROUP = 32, /* int4: inputs of an output that share a scale */
    QUANT_HALF = 16,  /* inputs of a row that share one */
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

/* Inputs of a row that share a scale. */
static inline size_t quant_row_part(enum dtype t)
{
    return t == DTYPE_INT8 ? QUANT_BLOCK : QUANT_HALF;
}

/* Bytes of a packed row; a group of rows begins at its first row's number times this. */
static inline size_t quant_row_bytes(enum dtype t, size_t n_in)
{
    size_t part = quant_row_part(t);
    return quant_blocks(n_in) * (QUANT_BLOCK / part) * (part + 8);
}

/* v becomes 8 Hv, and twice rotated 64 v. Partners at a distance of 1, 2, 4, .. 32 become their sum
 * and their difference, in this order everywhere; the 1/8 belongs to the scale. */
static inline void quant_rotate(float v[QUANT_BLOCK])
{
    for (int distance = 1; distance < QUANT_BLOCK; distance *= 2)
        for (int first = 0; first < QUANT_BLOCK; first += 2 * distance)
            for (int i = first; i < first + distance; i++) {
                float a = v[i], b = v[i + distance];
                v[i] = a + b;
                v[i + distance] = a - b;
            }
}

#endif
