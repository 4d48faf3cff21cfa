/* Rotary positions against the definition by complex numbers, and tokens into tiles. */
#include "core/rope.h"

#include <complex.h>
#include <math.h>

#include "core/engine.h"
#include "tests/support/rng.h"
#include "tests/test.h"

enum { HALF = 5, HEADS = 3, DH = 2 * HALF };

/* Dimensions d and d + Dh/2 are one complex number, turned by position times frequency. */
TEST(rope_turns_pairs)
{
    struct rng r = {91};
    float inv_freq[HALF], c[HALF], s[HALF], x[HEADS * DH], was[HEADS * DH];
    for (int i = 0; i < HALF; i++)
        inv_freq[i] = powf(10000, -(float)i / HALF);
    for (int pos = 0; pos < 3000; pos += 1 + pos / 3) {
        rng_fill(&r, x, HEADS * DH, 1);
        memcpy(was, x, sizeof x);
        rope_angles(inv_freq, HALF, pos, c, s);
        rope_rotate(x, HEADS, HALF, c, s);
        for (int h = 0; h < HEADS; h++)
            for (int i = 0; i < HALF; i++) {
                const float *a = was + h * DH + i, *b = x + h * DH + i;
                double complex turned = ((double)a[0] + (double)a[HALF] * I) *
                                        cexp(I * (double)(inv_freq[i] * (float)pos));
                EXPECT(fabs(creal(turned) - (double)b[0]) < 1e-6);
                EXPECT(fabs(cimag(turned) - (double)b[HALF]) < 1e-6);
            }
    }
}

TEST(rope_position_zero_changes_nothing)
{
    float inv_freq[HALF] = {1, 0.5f, 0.1f, 0.01f, 0.001f}, c[HALF], s[HALF], x[DH], was[DH];
    struct rng r = {92};
    rng_fill(&r, x, DH, 1);
    memcpy(was, x, sizeof x);
    rope_angles(inv_freq, HALF, 0, c, s);
    rope_rotate(x, 1, HALF, c, s);
    EXPECT(memcmp(x, was, sizeof x) == 0);
}

TEST(rope_store_writes_one_slot_of_each_tile)
{
    float k[DH], v[DH], kt[DH * KV_TILE], vt[DH * KV_TILE];
    uint16_t kh[DH * KV_TILE], vh[DH * KV_TILE];
    for (int d = 0; d < DH; d++)
        k[d] = (float)d + 1, v[d] = -(float)d - 1;
    for (int slot = 0; slot < KV_TILE; slot++) {
        memset(kt, 0, sizeof kt), memset(vt, 0, sizeof vt);
        memset(kh, 0, sizeof kh), memset(vh, 0, sizeof vh);
        rope_store(k, v, DH, slot, DTYPE_F32, kt, vt);
        rope_store(k, v, DH, slot, DTYPE_BF16, kh, vh);
        for (int i = 0; i < DH * KV_TILE; i++) {
            EXPECT(kt[i] == (i % KV_TILE == slot ? k[i / KV_TILE] : 0));
            EXPECT(vt[i] == (i / DH == slot ? v[i % DH] : 0));
            EXPECT(bf16_to_f32(kh[i]) == kt[i] && bf16_to_f32(vh[i]) == vt[i]);
        }
    }
}
