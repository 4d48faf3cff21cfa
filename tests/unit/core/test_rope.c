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

enum { PADDED = 16, ELEMS = PADDED * KV_TILE, UNTOUCHED = 77 };

/* Keys as lanes, dimensions as inputs; values the other way round; of bf16 two inputs side by side. */
static void check_slot(const float *k, const float *v, int slot, enum dtype t, const float *kt, const float *vt)
{
    for (int d = 0; d < PADDED; d++)
        for (int s = 0; s < KV_TILE; s++) {
            float want_k = d < DH ? k[d] : 0, want_v = d < DH ? v[d] : 0;
            int k_at = t == DTYPE_F32 ? d * 16 + s : d / 2 * 32 + s * 2 + d % 2;
            int v_at = t == DTYPE_F32 ? s * 16 + d : s / 2 * 32 + d * 2 + s % 2;
            bool clears = t == DTYPE_BF16 && slot % 2 == 0 && s == slot + 1;
            EXPECT(kt[k_at] == (s == slot ? want_k : UNTOUCHED));
            EXPECT(vt[v_at] == (s == slot ? want_v : clears ? 0 : UNTOUCHED));
        }
}

TEST(rope_store_writes_one_slot_of_each_tile)
{
    float k[DH], v[DH], kt[ELEMS], vt[ELEMS];
    uint16_t kh[ELEMS], vh[ELEMS];
    for (int d = 0; d < DH; d++)
        k[d] = (float)d + 1, v[d] = -(float)d - 1;
    for (int slot = 0; slot < KV_TILE; slot++) {
        for (int i = 0; i < ELEMS; i++) {
            kt[i] = vt[i] = UNTOUCHED;
            kh[i] = vh[i] = f32_to_bf16(UNTOUCHED);
        }
        rope_store(k, v, DH, slot, DTYPE_F32, kt, vt);
        check_slot(k, v, slot, DTYPE_F32, kt, vt);
        rope_store(k, v, DH, slot, DTYPE_BF16, kh, vh);
        for (int i = 0; i < ELEMS; i++)
            kt[i] = bf16_to_f32(kh[i]), vt[i] = bf16_to_f32(vh[i]);
        check_slot(k, v, slot, DTYPE_BF16, kt, vt);
    }
}

/* Head dimensions beyond sixteen go into a panel of their own. */
TEST(rope_store_of_a_wide_head)
{
    enum { WIDE = 40, WIDE_PADDED = 48 };
    float k[WIDE], v[WIDE], kt[WIDE_PADDED * KV_TILE], vt[WIDE_PADDED * KV_TILE];
    for (int d = 0; d < WIDE; d++)
        k[d] = (float)d + 1, v[d] = -(float)d - 1;
    for (int slot = 0; slot < KV_TILE; slot++)
        rope_store(k, v, WIDE, slot, DTYPE_F32, kt, vt);
    for (int d = 0; d < WIDE_PADDED; d++)
        for (int s = 0; s < KV_TILE; s++) {
            EXPECT(kt[d * 16 + s] == (d < WIDE ? k[d] : 0));
            EXPECT(vt[d / 16 * 256 + s * 16 + d % 16] == (d < WIDE ? v[d] : 0));
        }
}
