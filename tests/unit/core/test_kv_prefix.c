/* Where a prefix's numbers go, and which prefixes are refused. */
#include "core/kv_prefix.h"

#include <math.h>
#include <stdlib.h>

#include "core/base/mem.h"
#include "tests/support/tiny.h"
#include "tests/test.h"

static float number_at(const struct kv_prefix *p, const void *where, size_t i)
{
    return p->dtype == DTYPE_F32 ? ((const float *)where)[i]
                                 : bf16_to_f32(((const uint16_t *)where)[i]);
}

/* Small whole numbers, exact in bf16, that differ from neighbour to neighbour. */
static float number(size_t i)
{
    return (float)((i * 7 + i / 251) % 251) - 125;
}

static void check_layout(const char *model, int n_tokens)
{
    struct err err = {0};
    struct base_model *b = tiny_open(model);
    const struct model_shape *s = base_model_shape(b);
    size_t G = (size_t)s->n_kv_heads, dh = (size_t)s->head_dim, L = (size_t)s->n_layers;
    size_t n = (size_t)n_tokens * L * 2 * G * dh;
    float *kv = xcalloc(n, sizeof *kv);
    for (size_t i = 0; i < n; i++)
        kv[i] = number(i);
    struct kv_prefix *p = kv_prefix_from_kv(b, kv, n_tokens, &err);
    ASSERT(p != NULL);
    size_t tiles = (size_t)p->n_tiles;
    EXPECT(p->n_tokens == n_tokens && p->first_pos == n_tokens && p->dtype == s->kv_dtype);
    EXPECT_EQ(tiles, (n_tokens + KV_TILE - 1) / KV_TILE);
    size_t padded = (dh + 15) / 16 * 16, tile_elems = padded * KV_TILE;
    EXPECT_EQ(p->bytes, L * G * tiles * tile_elems * 2 * dtype_size(p->dtype));
    for (size_t i = 0; i < L * G * tiles * tile_elems; i++) {
        /* k: [L, G, tiles] of [padded, KV_TILE]; v: [L, G, tiles] of [padded / 16, KV_TILE, 16]; bf16 in pairs */
        size_t in = i % tile_elems, tile = i / tile_elems, head = tile / tiles;
        size_t row = (head / G * 2) * G * dh + head % G * dh, first = tile % tiles * KV_TILE;
        bool in_pairs = p->dtype == DTYPE_BF16;
        size_t input = in_pairs ? in / 32 * 2 + in % 2 : in / 16;
        size_t lane = in_pairs ? in / 2 % 16 : in % 16;
        size_t kt = first + lane, kd = input, vt = first + input % KV_TILE,
               vd = input / KV_TILE * 16 + lane;
        float k = kt < (size_t)n_tokens && kd < dh ? number(kt * L * 2 * G * dh + row + kd) : 0;
        float v =
            vt < (size_t)n_tokens && vd < dh ? number(vt * L * 2 * G * dh + row + G * dh + vd) : 0;
        EXPECT(number_at(p, p->k, i) == k);
        EXPECT(number_at(p, p->v, i) == v);
    }
    kv_prefix_free(p);
    free(kv);
    base_model_free(b);
}

TEST(kv_prefix_layout_is_the_documented_one)
{
    check_layout(TINY_GQA, 1);
    check_layout(TINY_GQA, 16);
    check_layout(TINY_WIDE, 37);
    check_layout(TINY_DEMO, 17);
}

static bool is_refused(const struct base_model *b, float bad, size_t place)
{
    const struct model_shape *s = base_model_shape(b);
    struct err err = {0};
    float *kv =
        xcalloc((size_t)(3 * s->n_layers * 2 * s->n_kv_heads * s->head_dim), sizeof *kv);
    kv[place] = bad;
    struct kv_prefix *p = kv_prefix_from_kv(b, kv, 3, &err);
    if (!p)
        EXPECT_EQ(err.code, ERR_ADAPTER);
    kv_prefix_free(p);
    free(kv);
    return !p;
}

TEST(kv_prefix_refuses_what_is_not_finite_before_or_after_the_cast)
{
    struct base_model *f32 = tiny_open(TINY_GQA), *bf16 = tiny_open(TINY_DEMO);
    for (size_t place = 0; place < 1000; place += 111) {
        EXPECT(is_refused(f32, NAN, place % 500) && is_refused(bf16, NAN, place));
        EXPECT(is_refused(f32, -INFINITY, place % 500) &&
               is_refused(bf16, INFINITY, place));
        EXPECT(!is_refused(f32, 3.4e38f, place % 500) && is_refused(bf16, 3.4e38f, place));
        EXPECT(!is_refused(bf16, 3.3e38f, place));
    }
    base_model_free(f32);
    base_model_free(bf16);
}

TEST(kv_prefix_of_an_impossible_size_is_refused)
{
    struct model_shape s = {.n_layers = 1 << 15,
                            .n_kv_heads = 1 << 15,
                            .head_dim = 1 << 12,
                            .kv_dtype = DTYPE_F32};
    struct err err = {0};
    EXPECT(!kv_prefix_new(&s, INT32_MAX - KV_TILE, &err));
    EXPECT_EQ(err.code, ERR_ADAPTER);
    EXPECT(!kv_prefix_new(&s, 0, &err));
    kv_prefix_free(NULL);
}

static int read_from(void *ud, void *to, size_t len, struct err *err)
{
    (void)err;
    memcpy(to, ud, len);
    return 0;
}

static bool same_digest(const struct kv_prefix *a, const struct kv_prefix *b)
{
    return memcmp(a->digest, b->digest, sizeof a->digest) == 0;
}

/* Equal wherever it comes from; another if a bit, a length or a position is another. */
TEST(kv_prefix_digest_is_of_what_it_holds)
{
    struct err err = {0};
    struct base_model *b = tiny_open(TINY_DEMO);
    struct kv_prefix *p = tiny_prefix(b, &(struct rng){3}, 20);
    struct kv_prefix *other = tiny_prefix(b, &(struct rng){4}, 20);
    unsigned char *bytes = xcalloc(1, p->bytes);
    memcpy(bytes, p->k, p->bytes);
    struct kv_prefix *same = kv_prefix_from_bytes(b, 20, 20, read_from, bytes, &err);
    struct kv_prefix *later = kv_prefix_from_bytes(b, 20, 21, read_from, bytes, &err);
    struct kv_prefix *longer = kv_prefix_from_bytes(b, 21, 20, read_from, bytes, &err);
    EXPECT(same_digest(p, same) && !same_digest(p, other));
    EXPECT(!same_digest(p, later) && !same_digest(p, longer) && !same_digest(later, longer));
    bytes[p->bytes - 1] ^= 1;
    struct kv_prefix *changed = kv_prefix_from_bytes(b, 20, 20, read_from, bytes, &err);
    EXPECT(changed && !same_digest(p, changed));
    struct kv_prefix *all[] = {p, other, same, later, longer, changed};
    for (int i = 0; i < 6; i++)
        kv_prefix_free(all[i]);
    free(bytes);
    base_model_free(b);
}
