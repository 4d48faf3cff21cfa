/* Attention over prefixes and own keys against a naive reference in double precision. */
#include "core/attention.h"

#include <math.h>
#include <stdlib.h>

#include "core/base/check.h"
#include "core/base/mem.h"
#include "core/rope.h"
#include "tests/support/rng.h"
#include "tests/test.h"

enum { MAX_SEQS = 6, MAX_ROWS = 160, MAX_KEYS = 420, LAYERS = 2 };

/* The keys and values of one run of tokens as the reference reads them. */
struct history {
    float *k, *v; /* [n, LAYERS, Hk, Dh] */
    int n;
};

struct world {
    struct model_shape shape;
    struct kv_pool pool;
    struct kv_prefix prefixes[2];
    struct history prefix_history[2], own[MAX_SEQS];
    int32_t *blocks[MAX_SEQS];
    int which[MAX_SEQS]; /* prefix, -1: none */
    struct batch batch;
    float *q, *out;
};

static size_t head_at(const struct world *w, int token, int layer, int head)
{
    const struct model_shape *s = &w->shape;
    return (((size_t)token * LAYERS + (size_t)layer) * (size_t)s->n_kv_heads +
            (size_t)head) *
           (size_t)s->head_dim;
}

static void history_init(const struct world *w, struct history *h, struct rng *r, int n)
{
    size_t size = head_at(w, n, 0, 0);
    *h = (struct history){xcalloc(size, sizeof *h->k), xcalloc(size, sizeof *h->v), n};
    rng_fill(r, h->k, size, 1.5f);
    rng_fill(r, h->v, size, 1);
    for (size_t i = 0; i < size && w->shape.kv_dtype == DTYPE_BF16; i++) {
        h->k[i] = bf16_to_f32(f32_to_bf16(h->k[i]));
        h->v[i] = bf16_to_f32(f32_to_bf16(h->v[i]));
    }
}

static void fill_nan(void *p, size_t bytes)
{
    memset(p, 0xff, bytes); /* a NaN as f32 and as bf16 */
}

static void store(const struct world *w, const struct history *h, int token, int layer,
                  int head, void *k_tile, void *v_tile)
{
    size_t at = head_at(w, token, layer, head);
    rope_store(h->k + at, h->v + at, w->shape.head_dim, token % KV_TILE, w->shape.kv_dtype,
               k_tile, v_tile);
}

/* What is no token is garbage: in the padding of a prefix as in unused slots of blocks. */
static void make_prefix(struct world *w, int i, struct rng *r, int n)
{
    const struct model_shape *s = &w->shape;
    struct history *h = &w->prefix_history[i];
    history_init(w, h, r, n);
    size_t tiles = (size_t)(n + KV_TILE - 1) / KV_TILE;
    size_t half = tiles * (size_t)(LAYERS * s->n_kv_heads) * w->pool.tile_bytes;
    unsigned char *memory = mem_try_aligned(2, half);
    fill_nan(memory, 2 * half);
    for (int t = 0; t < n; t++)
        for (int l = 0; l < LAYERS; l++)
            for (int g = 0; g < s->n_kv_heads; g++) {
                size_t run =
                    (size_t)(l * s->n_kv_heads + g) * tiles + (size_t)(t / KV_TILE);
                store(w, h, t, l, g, memory + run * w->pool.tile_bytes,
                      memory + half + run * w->pool.tile_bytes);
            }
    w->prefixes[i] =
        (struct kv_prefix){n, (int)tiles, n, s->kv_dtype, 2 * half, memory, memory + half};
}

static void make_own(struct world *w, int i, struct rng *r, int n)
{
    int n_blocks = (n + KV_TILE - 1) / KV_TILE;
    history_init(w, &w->own[i], r, n);
    w->blocks[i] = xcalloc((size_t)n_blocks, sizeof **w->blocks);
    CHECK(kv_pool_take(&w->pool, n_blocks, w->blocks[i]));
    for (int j = n_blocks - 1; j > 0; j--) { /* not in order of their numbers */
        int other = rng_below(r, j + 1);
        int32_t t = w->blocks[i][j];
        w->blocks[i][j] = w->blocks[i][other];
        w->blocks[i][other] = t;
    }
    for (int t = 0; t < n; t++)
        for (int l = 0; l < LAYERS; l++)
            for (int g = 0; g < w->shape.n_kv_heads; g++) {
                int32_t b = w->blocks[i][t / KV_TILE];
                store(w, &w->own[i], t, l, g, kv_pool_k(&w->pool, b, l, g),
                      kv_pool_v(&w->pool, b, l, g));
            }
}

/* Sequences with the same prefix side by side, each with its newest rows. */
static void make_batch(struct world *w, struct rng *r, int n_seqs)
{
    batch_init(&w->batch, MAX_ROWS, MAX_SEQS, 8);
    for (int i = 0; i < n_seqs; i++) {
        int n = rng_between(r, 1, MAX_KEYS / (i + 1)), left = MAX_ROWS - w->batch.n_rows;
        int n_rows = i % 2 ? 1 : rng_between(r, 1, n < left / 2 ? n : left / 2);
        w->which[i] = i * 3 / n_seqs - 1;
        make_own(w, i, r, n);
        batch_add_seq(&w->batch, w->blocks[i],
                      w->which[i] < 0 ? NULL : &w->prefixes[w->which[i]]);
        for (int t = n - n_rows; t < n; t++)
            batch_add_row(&w->batch, t, false);
    }
}

static void world_init(struct world *w, struct rng *r, int dh, int hk, int n_rep,
                       enum dtype t)
{
    struct err err = {0};
    *w = (struct world){.shape = {.n_layers = LAYERS,
                                  .n_heads = hk * n_rep,
                                  .n_kv_heads = hk,
                                  .head_dim = dh,
                                  .kv_dtype = t}};
    CHECK(kv_pool_init(&w->pool, &w->shape, 128, &err) == 0);
    fill_nan(w->pool.memory, w->pool.memory_len);
    make_prefix(w, 0, r, rng_between(r, 1, 300));
    make_prefix(w, 1, r, rng_between(r, 1, 40));
    make_batch(w, r, rng_between(r, 1, MAX_SEQS));
    size_t size = (size_t)(MAX_ROWS * w->shape.n_heads * dh);
    w->q = xcalloc(size, sizeof *w->q);
    w->out = xcalloc(size, sizeof *w->out);
    rng_fill(r, w->q, size, 1);
}

static void world_fini(struct world *w)
{
    for (int i = 0; i < w->batch.n_seqs; i++) {
        free(w->blocks[i]);
        free(w->own[i].k);
        free(w->own[i].v);
    }
    for (int i = 0; i < 2; i++) {
        free(w->prefix_history[i].k);
        free(w->prefix_history[i].v);
        union {
            const void *c;
            void *m;
        } memory = {w->prefixes[i].k};
        free(memory.m);
    }
    batch_fini(&w->batch);
    kv_pool_fini(&w->pool);
    free(w->q);
    free(w->out);
}

struct softmax { /* of one query, as it is written in books */
    double score[2 * MAX_KEYS], sum, o[128], size[128]; /* size: the same sum of magnitudes */
    const float *v[2 * MAX_KEYS];
    int n;
};

static void add_keys(const struct world *w, struct softmax *s, const struct history *h,
                     int n, int layer, int g, const float *q)
{
    int dh = w->shape.head_dim;
    for (int t = 0; t < n; t++) {
        size_t at = head_at(w, t, layer, g);
        double dot = 0;
        for (int d = 0; d < dh; d++)
            dot += (double)q[d] * (double)h->k[at + (size_t)d];
        s->score[s->n] = dot / sqrt(dh);
        s->v[s->n++] = h->v + at;
    }
}

static void finish(const struct world *w, struct softmax *s)
{
    double max = -INFINITY;
    for (int i = 0; i < s->n; i++)
        max = fmax(max, s->score[i]);
    for (int i = 0; i < s->n; i++) {
        double p = exp(s->score[i] - max);
        s->sum += p;
        for (int d = 0; d < w->shape.head_dim; d++) {
            s->o[d] += p * (double)s->v[i][d];
            s->size[d] += p * fabs((double)s->v[i][d]);
        }
    }
}

/* A query as the kernels read it. */
static void query(const struct world *w, size_t at, bool is_cast, float *out)
{
    for (int d = 0; d < w->shape.head_dim; d++) {
        float x = w->q[at + (size_t)d];
        out[d] = is_cast ? bf16_to_f32(f32_to_bf16(x)) : x;
    }
}

/* By how much the worst number is further off than it may be. Kernels that cast round a probability by up to
 * one part in 512, and so nothing but its share of a result. */
static double worst_of_row(const struct world *w, int seq, int row, int layer, bool is_cast)
{
    const struct model_shape *m = &w->shape;
    double worst = -INFINITY;
    for (int h = 0; h < m->n_heads; h++) {
        size_t at = (size_t)((row * m->n_heads + h) * m->head_dim);
        int g = h / (m->n_heads / m->n_kv_heads), p = w->which[seq];
        struct softmax s = {0};
        float q[128];
        query(w, at, is_cast, q);
        if (p >= 0)
            add_keys(w, &s, &w->prefix_history[p], w->prefixes[p].n_tokens, layer, g, q);
        add_keys(w, &s, &w->own[seq], w->batch.rows[row].slot + 1, layer, g, q);
        finish(w, &s);
        for (int d = 0; d < m->head_dim; d++) {
            double off = fabs(s.o[d] / s.sum - (double)w->out[at + (size_t)d]);
            off -= 1e-5 + (is_cast ? s.size[d] / s.sum / 512 : 0);
            worst = off <= worst ? worst : off; /* NaN stays */
        }
    }
    return worst;
}

static void check(struct world *w, int n_threads, const struct kernels *k)
{
    struct par *par = par_new(n_threads);
    struct attention_ws *ws = attention_ws_new(&w->shape, MAX_ROWS, n_threads);
    bool is_cast = w->shape.kv_dtype == DTYPE_BF16 && k->cast;
    for (int layer = 0; layer < LAYERS; layer++) {
        attention(w->out, w->q, (size_t)(w->shape.n_heads * w->shape.head_dim), layer,
                  &w->batch, &w->pool, &w->shape, k, ws, par);
        for (int i = 0; i < w->batch.n_seqs; i++)
            for (int r = w->batch.seqs[i].row;
                 r < w->batch.seqs[i].row + w->batch.seqs[i].n_rows; r++) {
                double off = worst_of_row(w, i, r, layer, is_cast);
                if (!(off < 0))
                    test_fail(__FILE__, __LINE__,
                              "%s, head_dim %d, row %d of sequence %d, slot %d: off by %g too much", k->name,
                              w->shape.head_dim, r, i, w->batch.rows[r].slot, off);
            }
    }
    attention_ws_free(ws);
    par_free(par);
}

static const struct kernels *table(int i)
{
    static const char *const names[] = {"generic", "avx2", "avx512", "avx512vnni", "avx512bf16"};
    setenv("PREFIXD_ISA", names[i % 4], 1);
    const struct kernels *k = kernels_get(); /* the next best where the CPU lacks it */
    unsetenv("PREFIXD_ISA");
    return k;
}

static void check_dims(int head_dim, enum dtype t, uint64_t seed)
{
    struct rng r = {seed};
    for (int round = 0; round < 8; round++) {
        struct world w;
        int hk = rng_between(&r, 1, 3), n_rep = rng_between(&r, 1, 4);
        world_init(&w, &r, head_dim, hk, n_rep, t);
        check(&w, rng_between(&r, 1, 3), table(round));
        world_fini(&w);
    }
}

TEST(attention_f32_equals_the_definition)
{
    check_dims(10, DTYPE_F32, 1);
    check_dims(16, DTYPE_F32, 2);
    check_dims(32, DTYPE_F32, 3);
    check_dims(64, DTYPE_F32, 4);
    check_dims(128, DTYPE_F32, 5);
}

TEST(attention_bf16_equals_the_definition)
{
    check_dims(10, DTYPE_BF16, 6);
    check_dims(32, DTYPE_BF16, 7);
    check_dims(64, DTYPE_BF16, 8);
    check_dims(128, DTYPE_BF16, 9);
}
