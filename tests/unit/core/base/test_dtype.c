/* Conversions of every half-width number, against their definitions. */
#include "core/base/dtype.h"

#include <math.h>
#include <stdbool.h>

#include "tests/support/rng.h"
#include "tests/test.h"

/* IEEE 754 binary16 by its formula. */
static double half_value(uint16_t h)
{
    int exp = h >> 10 & 31, man = h & 1023;
    double sign = h & 0x8000 ? -1 : 1;
    if (exp == 31)
        return man ? NAN : sign * INFINITY;
    return sign * (exp ? ldexp(1 + man / 1024.0, exp - 15) : ldexp(man / 1024.0, -14));
}

static bool is_same(double a, double b)
{
    return a == b ? signbit(a) == signbit(b) : a != a && b != b;
}

TEST(dtype_f16_of_all_values)
{
    for (uint32_t h = 0; h < 65536; h++)
        if (!is_same((double)f16_to_f32((uint16_t)h), half_value((uint16_t)h)))
            test_fail(__FILE__, __LINE__, "f16 %04x gives %g", h,
                      (double)f16_to_f32((uint16_t)h));
}

TEST(dtype_bf16_comes_back)
{
    for (uint32_t h = 0; h < 65536; h++) {
        float f = bf16_to_f32((uint16_t)h);
        uint16_t back = f32_to_bf16(f);
        EXPECT(f != f ? (back & 0x7f80) == 0x7f80 && (back & 0x7f) : back == h);
    }
}

/* Nearest, ties to even: never further than either neighbour, and on a tie the even one. */
TEST(dtype_bf16_rounds_to_nearest_even)
{
    struct rng r = {71};
    for (int i = 0; i < 300000; i++) {
        uint32_t bits = (uint32_t)rng_next(&r);
        if (i % 3 == 0)
            bits = (bits & 0xffff0000u) | 0x8000u; /* a tie */
        float f;
        memcpy(&f, &bits, sizeof f);
        if (!isfinite(f))
            continue;
        uint16_t down = (uint16_t)(bits >> 16), up = (uint16_t)(down + 1),
                 got = f32_to_bf16(f);
        uint32_t rest = bits & 0xffffu;
        uint16_t expected = rest > 0x8000u || (rest == 0x8000u && (down & 1)) ? up : down;
        EXPECT_EQ(got, expected);
    }
}

TEST(dtype_bf16_of_special_values)
{
    uint32_t quiet = 0x7f800001u; /* a NaN whose upper half alone would be infinity */
    float f;
    memcpy(&f, &quiet, sizeof f);
    float back = bf16_to_f32(f32_to_bf16(f));
    EXPECT(back != back);
    EXPECT_EQ(f32_to_bf16(INFINITY), 0x7f80);
    EXPECT_EQ(f32_to_bf16(-INFINITY), 0xff80);
    EXPECT_EQ(f32_to_bf16(3.4e38f),
              0x7f80); /* rounds to infinity: callers look after the cast */
    EXPECT_EQ(f32_to_bf16(-0.0f), 0x8000);
}

TEST(dtype_to_f32_reads_at_any_alignment)
{
    unsigned char bytes[32] = {0};
    uint16_t halves[3] = {0x3c00, 0x4000, 0xbc00}, brains[3] = {0x3f80, 0x4000, 0xbf80};
    float floats[3] = {1, 2, -1}, out[3];
    for (size_t shift = 0; shift < 4; shift++)
        for (int t = DTYPE_F32; t <= DTYPE_F16; t++) {
            const void *src = t == DTYPE_F32   ? (void *)floats
                              : t == DTYPE_F16 ? (void *)halves
                                               : brains;
            memcpy(bytes + shift, src, 3 * dtype_size((enum dtype)t));
            memset(out, 0, sizeof out);
            dtype_to_f32((enum dtype)t, bytes + shift, out, 3);
            EXPECT(out[0] == 1 && out[1] == 2 && out[2] == -1);
        }
    EXPECT_STR(dtype_name(DTYPE_BF16), "bf16");
}
