/* Conversions from the storage formats to f32. */
#include "core/base/dtype.h"

const char *dtype_name(enum dtype t)
{
    static const char *const names[] = {"f32", "bf16", "f16", "int8", "int4"};
    return names[t];
}

float f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, exp = (h >> 10) & 0x1fu, man = h & 0x3ffu;
    uint32_t bits;
    float f;
    if (exp == 0x1f) {
        bits = sign | 0x7f800000u | man << 13;
    } else if (exp) {
        bits = sign | (exp + 112) << 23 | man << 13;
    } else { /* zero or subnormal: man * 2^-24, exact in f32 */
        f = (float)man * 0x1p-24f;
        return sign ? -f : f;
    }
    memcpy(&f, &bits, sizeof f);
    return f;
}

void dtype_to_f32(enum dtype t, const void *src, float *dst, size_t n)
{
    const unsigned char *s = src;
    if (t == DTYPE_F32) {
        memcpy(dst, src, n * sizeof *dst);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        uint16_t h;
        memcpy(&h, s + 2 * i, 2);
        dst[i] = t == DTYPE_BF16 ? bf16_to_f32(h) : f16_to_f32(h);
    }
}
