/* The storage formats of weights in files, and their exact expansion to f32.
 *
 * Thread: any. The block formats are those of GGUF: 32 values of a row share an f16
 * scale (and an f16 minimum in Q4_1). Every value is computed with one rounding per
 * operation in the order of the format's reference in Python, so the results are equal
 * bit for bit. */
#ifndef PREFIXD_DEQUANT_H
#define PREFIXD_DEQUANT_H

#include <stdbool.h>
#include <stddef.h>

enum tensor_format {
    FORMAT_F32,
    FORMAT_F16,
    FORMAT_BF16,
    FORMAT_Q8_0,
    FORMAT_Q4_0,
    FORMAT_Q4_1,
};

const char *dequant_name(enum tensor_format f);
bool dequant_is_quantised(enum tensor_format f);

/* Bytes of n consecutive values; false if n is no multiple of the block or the size does
 * not fit. */
bool dequant_bytes(enum tensor_format f, size_t n, size_t *bytes);

/* n values from src (any alignment); n as dequant_bytes accepts it. */
void dequant(enum tensor_format f, const void *src, float *dst, size_t n);

#endif
