/* The number formats of tensors, and conversions between them that round to nearest even.
 *
 * Thread: any. Bit patterns of bf16 and f16 travel as uint16_t. */
#ifndef PREFIXD_DTYPE_H
#define PREFIXD_DTYPE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* INT8 and INT4 are those of packed matrices alone: whole numbers in groups, each with a scale. */
enum dtype { DTYPE_F32, DTYPE_BF16, DTYPE_F16, DTYPE_INT8, DTYPE_INT4 };

/* Bytes of an element. Whole numbers lie in bytes together with their scales, so there an array's
 * elements are bytes. */
static inline size_t dtype_size(enum dtype t)
{
    return t == DTYPE_F32 ? 4 : t == DTYPE_BF16 || t == DTYPE_F16 ? 2 : 1;
}

const char *dtype_name(enum dtype t);

static inline float bf16_to_f32(uint16_t h)
{
    uint32_t bits = (uint32_t)h << 16;
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

/* NaN stays NaN; a finite value may round to infinity (check after the cast where it matters). */
static inline uint16_t f32_to_bf16(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    if ((bits & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)((bits >> 16) | 0x40u);
    return (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

float f16_to_f32(uint16_t h);

/* n elements of src, of type t at any alignment, to f32. */
void dtype_to_f32(enum dtype t, const void *src, float *dst, size_t n);

/* n elements of src as f32_to_bf16 rounds them. */
void dtype_to_bf16(const float *restrict src, uint16_t *restrict dst, size_t n);

#endif
