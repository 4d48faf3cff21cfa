/* Expansion of stored weights to f32, format by format. */
#include "core/model/dequant.h"

#include <stdint.h>
#include <string.h>

#include "core/base/dtype.h"
#include "core/base/mem.h"

enum { BLOCK = 32 };

static const struct format_info {
    const char *name;
    size_t block, bytes; /* values and bytes of a block */
} formats[] = {
    [FORMAT_F32] = {"F32", 1, 4},
    [FORMAT_F16] = {"F16", 1, 2},
    [FORMAT_BF16] = {"BF16", 1, 2},
    [FORMAT_Q8_0] = {"Q8_0", BLOCK, 34},
    [FORMAT_Q4_0] = {"Q4_0", BLOCK, 18},
    [FORMAT_Q4_1] = {"Q4_1", BLOCK, 20},
};

const char *dequant_name(enum tensor_format f)
{
    return formats[f].name;
}

bool dequant_is_quantised(enum tensor_format f)
{
    return formats[f].block > 1;
}

bool dequant_bytes(enum tensor_format f, size_t n, size_t *bytes)
{
    if (n % formats[f].block)
        return false;
    return mem_mul(n / formats[f].block, formats[f].bytes, bytes);
}

static float read_f16(const unsigned char *p)
{
    uint16_t h;
    memcpy(&h, p, 2);
    return f16_to_f32(h);
}

/* f16 d, 32 x i8 */
static void block_q8_0(const unsigned char *restrict b, float *restrict dst)
{
    float d = read_f16(b);
    const signed char *q = (const signed char *)(b + 2);
    for (int i = 0; i < BLOCK; i++)
        dst[i] = (float)q[i] * d;
}

/* f16 d, 32 nibbles: the low halves are the first 16 values */
static void block_q4_0(const unsigned char *restrict b, float *restrict dst)
{
    float d = read_f16(b);
    const unsigned char *q = b + 2;
    for (int i = 0; i < BLOCK / 2; i++) {
        dst[i] = d * (float)((q[i] & 15) - 8);
        dst[i + BLOCK / 2] = d * (float)((q[i] >> 4) - 8);
    }
}

/* f16 d, f16 m, 32 nibbles; d * q is exact (11 + 4 bits), so a fused multiply-add rounds no
 * differently */
static void block_q4_1(const unsigned char *restrict b, float *restrict dst)
{
    float d = read_f16(b), m = read_f16(b + 2);
    const unsigned char *q = b + 4;
    for (int i = 0; i < BLOCK / 2; i++) {
        dst[i] = d * (float)(q[i] & 15) + m;
        dst[i + BLOCK / 2] = d * (float)(q[i] >> 4) + m;
    }
}

static void dequant_blocks(void (*block)(const unsigned char *, float *), size_t bytes,
                           const unsigned char *src, float *dst, size_t n)
{
    for (size_t i = 0; i < n; i += BLOCK, src += bytes)
        block(src, dst + i);
}

void dequant(enum tensor_format f, const void *src, float *dst, size_t n)
{
    switch (f) {
    case FORMAT_F32: dtype_to_f32(DTYPE_F32, src, dst, n); break;
    case FORMAT_F16: dtype_to_f32(DTYPE_F16, src, dst, n); break;
    case FORMAT_BF16: dtype_to_f32(DTYPE_BF16, src, dst, n); break;
    case FORMAT_Q8_0: dequant_blocks(block_q8_0, 34, src, dst, n); break;
    case FORMAT_Q4_0: dequant_blocks(block_q4_0, 18, src, dst, n); break;
    case FORMAT_Q4_1: dequant_blocks(block_q4_1, 20, src, dst, n); break;
    }
}
