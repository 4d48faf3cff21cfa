/* The KV pool: blocks are handed out once, and their tiles do not overlap. */
#include "core/kv_pool.h"

#include <stdlib.h>
#include <string.h>

#include "tests/support/rng.h"
#include "tests/test.h"

static const struct model_shape shape = {
    .n_layers = 3, .n_kv_heads = 2, .head_dim = 10, .kv_dtype = DTYPE_BF16};

TEST(kv_pool_block_holds_all_layers_and_heads)
{
    struct model_shape s = shape;
    EXPECT_EQ(kv_pool_block_bytes(&s), 3 * 2 * 2 * 16 * 16 * 2); /* 10 dimensions, padded */
    s.kv_dtype = DTYPE_F32;
    EXPECT_EQ(kv_pool_block_bytes(&s), 3 * 2 * 2 * 16 * 16 * 4);
}

TEST(kv_pool_tiles_do_not_overlap)
{
    struct kv_pool p;
    struct err err = {0};
    ASSERT(kv_pool_init(&p, &shape, 5, &err) == 0);
    unsigned char mark = 0;
    for (int b = 0; b < 5; b++)
        for (int l = 0; l < 3; l++)
            for (int h = 0; h < 2; h++) {
                memset(kv_pool_k(&p, b, l, h), ++mark, p.tile_bytes);
                memset(kv_pool_v(&p, b, l, h), ++mark, p.tile_bytes);
            }
    mark = 0;
    for (int b = 0; b < 5; b++)
        for (int l = 0; l < 3; l++)
            for (int h = 0; h < 2; h++)
                for (int v = 0; v < 2; v++) {
                    unsigned char *t = v ? kv_pool_v(&p, b, l, h) : kv_pool_k(&p, b, l, h);
                    mark++;
                    EXPECT(t >= p.memory && t + p.tile_bytes <= p.memory + p.memory_len);
                    for (size_t i = 0; i < p.tile_bytes; i++)
                        EXPECT(t[i] == mark);
                }
    kv_pool_fini(&p);
}

TEST(kv_pool_takes_all_or_none)
{
    struct kv_pool p;
    struct err err = {0};
    int32_t got[8] = {0};
    ASSERT(kv_pool_init(&p, &shape, 8, &err) == 0);
    EXPECT(kv_pool_take(&p, 5, got));
    EXPECT(!kv_pool_take(&p, 4, got + 5));
    EXPECT_EQ(p.n_free, 3);
    EXPECT(kv_pool_take(&p, 3, got + 5));
    EXPECT(kv_pool_take(&p, 0, got));
    EXPECT(!kv_pool_take(&p, 1, got));
    for (int i = 0; i < 8; i++)
        EXPECT_EQ(got[i], i); /* low numbers first: memory stays compact */
    kv_pool_give(&p, got, 8);
    EXPECT_EQ(p.n_free, 8);
    kv_pool_fini(&p);
}

TEST(kv_pool_never_hands_a_block_out_twice)
{
    enum { BLOCKS = 40, OWNERS = 10 };
    struct kv_pool p;
    struct err err = {0};
    struct rng r = {51};
    int32_t held[OWNERS][BLOCKS];
    int n_held[OWNERS] = {0}, owner_of[BLOCKS];
    ASSERT(kv_pool_init(&p, &shape, BLOCKS, &err) == 0);
    memset(owner_of, -1, sizeof owner_of);
    for (int round = 0; round < 20000; round++) {
        int o = rng_below(&r, OWNERS), n = rng_between(&r, 1, 9);
        if (n_held[o]) {
            for (int i = 0; i < n_held[o]; i++)
                owner_of[held[o][i]] = -1;
            kv_pool_give(&p, held[o], n_held[o]);
            n_held[o] = 0;
        } else if (kv_pool_take(&p, n, held[o])) {
            n_held[o] = n;
            for (int i = 0; i < n; i++) {
                EXPECT(held[o][i] >= 0 && held[o][i] < BLOCKS && owner_of[held[o][i]] < 0);
                owner_of[held[o][i]] = o;
            }
        }
    }
    kv_pool_fini(&p);
}

TEST(kv_pool_that_memory_cannot_hold_is_refused)
{
    struct model_shape huge = {
        .n_layers = 4096, .n_kv_heads = 128, .head_dim = 256, .kv_dtype = DTYPE_F32};
    struct kv_pool p;
    struct err err = {0};
    EXPECT_EQ(kv_pool_init(&p, &huge, INT32_MAX / KV_TILE, &err), -1);
    EXPECT_EQ(err.code, ERR_NO_MEMORY);
    kv_pool_fini(&p);
}
