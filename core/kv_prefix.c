/* How prefixes are made. */
#include "core/kv_prefix.h"

#include "core/base/check.h"
#include "core/base/mem.h"
#include "core/forward.h"
#include "core/kv_tile.h"
#include "core/linear.h"
#include "core/rope.h"

#include <math.h>
#include <sodium.h>
#include <stdlib.h>

static size_t tile_bytes(const struct model_shape *s)
{
    return kv_tile_bytes(s->head_dim, s->kv_dtype);
}

/* Where tile `tile` of (layer, head) starts in k, and in v. */
static size_t tile_at(const struct model_shape *s, const struct kv_prefix *p, int layer, int head,
                      int tile)
{
    size_t run = (size_t)layer * (size_t)s->n_kv_heads + (size_t)head;
    return (run * (size_t)p->n_tiles + (size_t)tile) * tile_bytes(s);
}

/* Writable views: the struct says const because everybody but this file only reads. */
static unsigned char *mutable_bytes(const void *p)
{
    union {
        const void *c;
        unsigned char *m;
    } u = {p};
    return u.m;
}

static size_t tiles_of(int n_tokens)
{
    return ((size_t)n_tokens + KV_TILE - 1) / KV_TILE;
}

size_t kv_prefix_bytes(const struct model_shape *s, int n_tokens)
{
    size_t half, runs = (size_t)s->n_layers * (size_t)s->n_kv_heads;
    bool fits = n_tokens > 0 && mem_mul(runs * tile_bytes(s), tiles_of(n_tokens), &half);
    return fits && half <= SIZE_MAX / 4 ? 2 * half : 0;
}

struct kv_prefix *kv_prefix_new(const struct model_shape *s, int n_tokens, struct err *err)
{
    size_t half = kv_prefix_bytes(s, n_tokens) / 2;
    if (half == 0) {
        err_set(err, ERR_ADAPTER, "a prefix of %d virtual tokens cannot be held", n_tokens);
        return NULL;
    }
    unsigned char *memory = mem_try_aligned(2, half);
    if (!memory) {
        err_set(err, ERR_NO_MEMORY, "no memory for a prefix of %d virtual tokens (%zu bytes)",
                n_tokens, 2 * half);
        return NULL;
    }
    struct kv_prefix *p = xcalloc(1, sizeof *p);
    *p = (struct kv_prefix){.n_tokens = n_tokens,
                            .n_tiles = (int)tiles_of(n_tokens),
                            .first_pos = n_tokens,
                            .dtype = s->kv_dtype,
                            .bytes = 2 * half,
                            .k = memory,
                            .v = memory + half};
    return p;
}

void kv_prefix_free(struct kv_prefix *p)
{
    if (!p)
        return;
    free(mutable_bytes(p->k)); /* k and v are one allocation */
    free(p);
}

/* A prefix with NaN or infinities would spoil every answer that reads it. */
static bool is_finite(const struct kv_prefix *p)
{
    size_t n = p->bytes / dtype_size(p->dtype);
    if (p->dtype == DTYPE_F32) {
        const float *f = p->k;
        for (size_t i = 0; i < n; i++)
            if (!isfinite(f[i]))
                return false;
        return true;
    }
    const uint16_t *h = p->k;
    for (size_t i = 0; i < n; i++)
        if ((h[i] & 0x7f80u) == 0x7f80u)
            return false;
    return true;
}

static void take_digest(struct kv_prefix *p)
{
    const int32_t head[] = {p->n_tokens, p->first_pos, (int32_t)p->dtype};
    crypto_generichash_state state;
    CHECK(sodium_init() >= 0);
    crypto_generichash_init(&state, NULL, 0, sizeof p->digest);
    crypto_generichash_update(&state, (const unsigned char *)head, sizeof head);
    crypto_generichash_update(&state, p->k, p->bytes); /* k and v are one allocation */
    crypto_generichash_final(&state, p->digest, sizeof p->digest);
}

struct kv_prefix *kv_prefix_finish(struct kv_prefix *p, struct err *err)
{
    if (is_finite(p)) {
        take_digest(p);
        return p;
    }
    err_set(err, ERR_ADAPTER, "the adapter gives keys or values that are not finite as %s",
            dtype_name(p->dtype));
    kv_prefix_free(p);
    return NULL;
}

struct kv_prefix *kv_prefix_from_bytes(const struct base_model *b, int n_tokens, int first_pos,
                                       int (*read)(void *ud, void *to, size_t len, struct err *err),
                                       void *ud, struct err *err)
{
    struct kv_prefix *p = kv_prefix_new(base_model_shape(b), n_tokens, err);
    if (!p)
        return NULL;
    p->first_pos = first_pos;
    if (read(ud, mutable_bytes(p->k), p->bytes, err) < 0) {
        kv_prefix_free(p);
        return NULL;
    }
    return kv_prefix_finish(p, err);
}

static void store_token(const struct model_shape *s, struct kv_prefix *p, int layer, int token,
                        const float *k, const float *v)
{
    for (int g = 0; g < s->n_kv_heads; g++) {
        size_t at = tile_at(s, p, layer, g, token / KV_TILE);
        rope_store(k + g * s->head_dim, v + g * s->head_dim, s->head_dim, token % KV_TILE, p->dtype,
                   mutable_bytes(p->k) + at, mutable_bytes(p->v) + at);
    }
}

struct kv_prefix *kv_prefix_from_kv(const struct base_model *b, const float *kv, int n_tokens,
                                    struct err *err)
{
    const struct model_shape *s = base_model_shape(b);
    struct kv_prefix *p = kv_prefix_new(s, n_tokens, err);
    if (!p)
        return NULL;
    size_t width = (size_t)(s->n_kv_heads * s->head_dim);
    for (int t = 0; t < n_tokens; t++)
        for (int l = 0; l < s->n_layers; l++, kv += 2 * width)
            store_token(s, p, l, t, kv, kv + width);
    return kv_prefix_finish(p, err);
}

/* One layer of hidden vectors: norm, Wk, Wv, rotation. h, k, v and room are scratch. */
static void hidden_layer(const struct model *m, const struct model_shape *s, struct kv_prefix *p,
                         int layer, const float *hidden, float *h, float *k, float *v,
                         void *room, const struct kernels *kn, struct par *serial)
{
    const struct layer_weights *lw = &m->layers[layer];
    size_t D = (size_t)s->dim, ld = (size_t)linear_padded(s->n_kv_heads * s->head_dim);
    int half = s->head_dim / 2, P = p->n_tokens;
    float *angles = xcalloc((size_t)s->head_dim, sizeof *angles);
    for (int t = 0; t < P; t++)
        kn->rms_norm(h + (size_t)t * D, hidden + (size_t)t * D, lw->attn_norm, s->dim,
                     m->desc.norm_eps);
    struct linear_in in = linear_in(&lw->k.w, h, D, P, room, kn);
    linear_in_pack_all(&in, kn, serial);
    linear(&lw->k, &in, k, ld, kn, serial);
    linear(&lw->v, &in, v, ld, kn, serial);
    for (int t = 0; t < P; t++) {
        float *kt = k + (size_t)t * ld;
        rope_angles(m->inv_freq, half, t, angles, angles + half);
        rope_rotate(kt, s->n_kv_heads, half, angles, angles + half);
        store_token(s, p, layer, t, kt, v + (size_t)t * ld);
    }
    free(angles);
}

struct kv_prefix *kv_prefix_from_hidden(const struct base_model *b, const float *hidden, int n_tokens,
                                        struct err *err)
{
    const struct model_shape *s = base_model_shape(b);
    const struct model *m = base_model_weights(b);
    struct kv_prefix *p = kv_prefix_new(s, n_tokens, err);
    if (!p)
        return NULL;
    size_t P = (size_t)n_tokens, D = (size_t)s->dim;
    size_t ld = (size_t)linear_padded(s->n_kv_heads * s->head_dim);
    float *scratch = mem_try_aligned(P, (D + 2 * ld) * sizeof *scratch);
    void *room = NULL; /* kernels read f32 rows as they are */
    if (m->dtype != DTYPE_F32)
        room = mem_try_aligned(P, linear_packed_len(m->dtype, s->dim) * dtype_size(m->dtype));
    if (!scratch || (!room && m->dtype != DTYPE_F32)) {
        free(scratch);
        free(room);
        kv_prefix_free(p);
        err_set(err, ERR_NO_MEMORY, "no memory to compile %d hidden vectors", n_tokens);
        return NULL;
    }
    struct par *serial = par_new(1);
    for (int l = 0; l < s->n_layers; l++)
        hidden_layer(m, s, p, l, hidden + (size_t)l * P * D, scratch,
                     scratch + P * D, scratch + P * (D + ld), room, kernels_get(), serial);
    par_free(serial);
    free(scratch);
    free(room);
    return kv_prefix_finish(p, err);
}

/* Zeroes the token slots of the last tile that hold no token: what stood there before is not ours. */
static void clear_tail(const struct model_shape *s, struct kv_prefix *p, size_t at)
{
    size_t used = (size_t)(p->n_tokens - (p->n_tiles - 1) * KV_TILE), e = dtype_size(p->dtype);
    for (size_t d = 0; d < kv_tile_dims(s->head_dim); d++)
        for (size_t slot = used; slot < KV_TILE; slot++) {
            memset(mutable_bytes(p->k) + at + kv_tile_k_at(p->dtype, d, slot) * e, 0, e);
            memset(mutable_bytes(p->v) + at + kv_tile_v_at(p->dtype, d, slot) * e, 0, e);
        }
}

struct kv_prefix *kv_prefix_from_blocks(const struct model_shape *s, const struct kv_pool *pool,
                                        const int32_t *blocks, int n_tokens, struct err *err)
{
    struct kv_prefix *p = kv_prefix_new(s, n_tokens, err);
    if (!p)
        return NULL;
    for (int l = 0; l < s->n_layers; l++)
        for (int g = 0; g < s->n_kv_heads; g++) {
            for (int t = 0; t < p->n_tiles; t++) {
                size_t at = tile_at(s, p, l, g, t);
                memcpy(mutable_bytes(p->k) + at, kv_pool_k(pool, blocks[t], l, g), tile_bytes(s));
                memcpy(mutable_bytes(p->v) + at, kv_pool_v(pool, blocks[t], l, g), tile_bytes(s));
            }
            clear_tail(s, p, tile_at(s, p, l, g, p->n_tiles - 1));
        }
    return p;
}
