/* Conversions from the storage formats to f32. */
#include "core/base/dtype.h"

const char *dtype_name(enum dtype t)
{
    static const char *const names[] = {"f32", "bf16", "f16", "int8", "int4"};
    return names[t];
}

/* Without a branch, so that a loop over it goes by vectors. Exponents differ by 112; what is no
 * normal number comes out right too: a subnormal one is normalised by the product, and an infinite
 * one or NaN gets all bits of the exponent. */
static inline float widen_f16(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, rest = (uint32_t)(h & 0x7fffu) << 13, bits;
    float f;
    memcpy(&f, &rest, sizeof f);
    f *= 0x1p112f;
    memcpy(&bits, &f, sizeof bits);
    bits |= sign | (-(uint32_t)(rest >= 0x1fu << 23) & 0x7f800000u);
    memcpy(&f, &bits, sizeof f);
    return f;
}

float f16_to_f32(uint16_t h)
{
    return widen_f16(h);
}

static void f16_all(const unsigned char *restrict src, float *restrict dst, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint16_t h;
        memcpy(&h, src + 2 * i, 2);
        dst[i] = widen_f16(h);
    }
}

static void bf16_all(const unsigned char *restrict src, float *restrict dst, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint16_t h;
        memcpy(&h, src + 2 * i, 2);
        dst[i] = bf16_to_f32(h);
    }
}

void dtype_to_f32(enum dtype t, const void *src, float *dst, size_t n)
{
    switch (t) {
    case DTYPE_F32: memcpy(dst, src, n * sizeof *dst); break;
    case DTYPE_F16: f16_all(src, dst, n); break;
    default: bf16_all(src, dst, n); /* no others are in files */
    }
}

void dtype_to_bf16(const float *restrict src, uint16_t *restrict dst, size_t n)
{
    for (size_t i = 0; i < n; i++)
        dst[i] = f32_to_bf16(src[i]);
}
