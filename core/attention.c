/* The shared attention kernel: prefixes once per step for all their rows, then every row's own keys. */
#include "core/attention.h"

#include "core/base/check.h"
#include "core/base/mem.h"

#include <math.h>
#include <stdlib.h>

enum { SPAN_TILES = SOFTMAX_SPAN / KV_TILE };

/* Partial result of one query row (a row of the step times one head) over one run of keys. */
struct partial {
    float *o;  /* [T * H, Dh] weighted values, not yet divided by l */
    float *ml; /* [T * H, 2] maximum and sum */
};

struct attention_ws {
    struct partial prefix, own;
    int n_threads;
    float **queries; /* per thread: [max_rows * n_rep, Dh] */
    float **scores;  /* per thread: [max_rows * n_rep, SOFTMAX_SPAN] */
    float **values;  /* per thread: [max_rows * n_rep, padded Dh] */
    float **ml;      /* per thread: [max_rows * n_rep, 2] */
};

/* What the tasks of one layer share. */
struct pass {
    float *out;
    const float *q;
    size_t ldq;
    int layer;
    const struct batch *b;
    const struct kv_pool *pool;
    const struct model_shape *s;
    const struct kernels *k;
    struct attention_ws *ws;
};

/* A run of tiles of one (layer, KV head): where tile t's keys and values are. */
struct tiles {
    const unsigned char *k, *v; /* a prefix: tile t at t * tile_bytes */
    const int32_t *blocks;      /* or a sequence's own blocks (k is NULL) */
    const struct kv_pool *pool;
    int layer, head;
    size_t tile_bytes;
};

static int padded(int n)
{
    return (n + 15) / 16 * 16;
}

static float *floats(size_t n)
{
    float *p = mem_try_aligned(n, sizeof *p);
    CHECK(p != NULL); /* sized by the operator's settings at start, not by requests */
    return p;
}

struct attention_ws *attention_ws_new(const struct model_shape *s, int max_rows, int n_threads)
{
    struct attention_ws *ws = xcalloc(1, sizeof *ws);
    size_t heads = (size_t)max_rows * (size_t)s->n_heads, dh = (size_t)s->head_dim;
    size_t rows = (size_t)max_rows * (size_t)(s->n_heads / s->n_kv_heads);
    ws->prefix = (struct partial){floats(heads * dh), floats(heads * 2)};
    ws->own = (struct partial){floats(heads * dh), floats(heads * 2)};
    ws->n_threads = n_threads;
    ws->queries = xcalloc((size_t)n_threads, sizeof *ws->queries);
    ws->scores = xcalloc((size_t)n_threads, sizeof *ws->scores);
    ws->values = xcalloc((size_t)n_threads, sizeof *ws->values);
    ws->ml = xcalloc((size_t)n_threads, sizeof *ws->ml);
    for (int i = 0; i < n_threads; i++) {
        ws->queries[i] = floats(rows * dh);
        ws->scores[i] = floats(rows * SOFTMAX_SPAN);
        ws->values[i] = floats(rows * (size_t)padded(s->head_dim));
        ws->ml[i] = floats(rows * 2);
    }
    return ws;
}

void attention_ws_free(struct attention_ws *ws)
{
    if (!ws)
        return;
    for (int i = 0; i < ws->n_threads; i++) {
        free(ws->queries[i]);
        free(ws->scores[i]);
        free(ws->values[i]);
        free(ws->ml[i]);
    }
    free(ws->queries);
    free(ws->scores);
    free(ws->values);
    free(ws->ml);
    free(ws->prefix.o);
    free(ws->prefix.ml);
    free(ws->own.o);
    free(ws->own.ml);
    free(ws);
}

static void panels(const struct kernels *k, enum dtype t, const struct panel_args *a)
{
    if (t == DTYPE_F32)
        k->panels_f32(a);
    else
        k->panels_bf16(a);
}

static const void *tile_k(const struct tiles *t, int i)
{
    if (t->k)
        return t->k + (size_t)i * t->tile_bytes;
    return kv_pool_k(t->pool, t->blocks[i], t->layer, t->head);
}

static const void *tile_v(const struct tiles *t, int i)
{
    if (t->v)
        return t->v + (size_t)i * t->tile_bytes;
    return kv_pool_v(t->pool, t->blocks[i], t->layer, t->head);
}

/* One query block: n queries that all see the first n_keys keys of the run. */
struct query_block {
    float *q;      /* [n, Dh] */
    float *scores; /* [n, SOFTMAX_SPAN] */
    float *o;      /* [n, padded Dh] */
    float *ml;     /* [n, 2] */
    int n, dh, ldo;
};

/* o[n, Dh] += p[n, n_keys of this tile] . V tile. Head dimensions beyond the last full panel of sixteen
 * go one output at a time, so that a tile's end is never overrun. */
static void add_values(const struct query_block *qb, const struct kernels *k, enum dtype t,
                       const float *p, const void *v, int n_keys)
{
    int n_full = qb->dh / 16;
    struct panel_args a = {p, SOFTMAX_SPAN, qb->n, v, 16, (size_t)qb->dh, n_full, n_keys,
                           qb->o, (size_t)qb->ldo, true};
    if (n_full)
        panels(k, t, &a);
    for (int r = 0; r < qb->n && qb->dh % 16; r++)
        for (int d = n_full * 16; d < qb->dh; d++) {
            float sum = qb->o[r * qb->ldo + d];
            for (int i = 0; i < n_keys; i++) {
                size_t at = (size_t)i * (size_t)qb->dh + (size_t)d;
                float x = t == DTYPE_F32 ? ((const float *)v)[at]
                                         : bf16_to_f32(((const uint16_t *)v)[at]);
                sum += p[r * SOFTMAX_SPAN + i] * x;
            }
            qb->o[r * qb->ldo + d] = sum;
        }
}

/* Keys first .. first + n_keys - 1 (first is a multiple of SOFTMAX_SPAN) for every query of the block. */
static void attend_span(const struct query_block *qb, const struct tiles *t, const struct pass *ps,
                        enum dtype dtype, int first, int n_keys)
{
    int n_tiles = (n_keys + KV_TILE - 1) / KV_TILE, tile0 = first / KV_TILE;
    float scale = 1.0f / sqrtf((float)qb->dh);
    for (int i = 0; i < n_tiles; i++) {
        struct panel_args a = {qb->q, (size_t)qb->dh, qb->n, tile_k(t, tile0 + i), 0, KV_TILE, 1,
                               qb->dh, qb->scores + i * KV_TILE, SOFTMAX_SPAN, false};
        panels(ps->k, dtype, &a);
    }
    for (int r = 0; r < qb->n; r++) {
        float *ml = qb->ml + 2 * r, *o = qb->o + r * qb->ldo;
        float f = ps->k->softmax_span(qb->scores + r * SOFTMAX_SPAN, n_keys, scale, &ml[0], &ml[1]);
        for (int d = 0; d < qb->dh; d++)
            o[d] *= f;
    }
    for (int i = 0; i < n_tiles; i++) {
        int left = n_keys - i * KV_TILE;
        add_values(qb, ps->k, dtype, qb->scores + i * KV_TILE, tile_v(t, tile0 + i),
                   left < KV_TILE ? left : KV_TILE);
    }
}

/* Queries of n_rows rows from `row`, all heads that share KV head g, into the thread's scratch. */
static struct query_block gather(const struct pass *ps, int thread, int row, int n_rows, int g)
{
    const struct model_shape *s = ps->s;
    int n_rep = s->n_heads / s->n_kv_heads, dh = s->head_dim;
    struct attention_ws *ws = ps->ws;
    struct query_block qb = {ws->queries[thread], ws->scores[thread], ws->values[thread],
                             ws->ml[thread],
                             n_rows * n_rep, dh, padded(dh)};
    for (int r = 0; r < n_rows; r++) {
        const float *src = ps->q + (size_t)(row + r) * ps->ldq + (size_t)(g * n_rep * dh);
        memcpy(qb.q + (size_t)r * (size_t)(n_rep * dh), src, (size_t)(n_rep * dh) * sizeof *src);
    }
    memset(qb.o, 0, (size_t)qb.n * (size_t)qb.ldo * sizeof *qb.o);
    for (int i = 0; i < qb.n; i++) {
        qb.ml[2 * i] = -INFINITY;
        qb.ml[2 * i + 1] = 0;
    }
    return qb;
}

/* The block's running results into the partials of its rows and heads. */
static void scatter(const struct pass *ps, const struct query_block *qb, const struct partial *to,
                    int row, int n_rows, int g)
{
    const struct model_shape *s = ps->s;
    int n_rep = s->n_heads / s->n_kv_heads, dh = s->head_dim;
    for (int r = 0; r < n_rows; r++)
        for (int h = 0; h < n_rep; h++) {
            size_t at = (size_t)(row + r) * (size_t)s->n_heads + (size_t)(g * n_rep + h);
            int from = r * n_rep + h;
            memcpy(to->o + at * (size_t)dh, qb->o + from * qb->ldo, (size_t)dh * sizeof *qb->o);
            to->ml[2 * at] = qb->ml[2 * from];
            to->ml[2 * at + 1] = qb->ml[2 * from + 1];
        }
}

/* Task: all rows of one group over its prefix, one KV head. */
static void prefix_task(void *arg, int task, int thread)
{
    const struct pass *ps = arg;
    const struct model_shape *s = ps->s;
    const struct batch_group *gr = &ps->b->groups[task / s->n_kv_heads];
    int g = task % s->n_kv_heads;
    const struct kv_prefix *p = gr->prefix;
    size_t tile = (size_t)s->head_dim * KV_TILE * dtype_size(p->dtype);
    size_t run = ((size_t)ps->layer * (size_t)s->n_kv_heads + (size_t)g) * (size_t)p->n_tiles * tile;
    struct tiles t = {.k = (const unsigned char *)p->k + run,
                      .v = (const unsigned char *)p->v + run,
                      .tile_bytes = tile};
    struct query_block qb = gather(ps, thread, gr->row, gr->n_rows, g);
    for (int first = 0; first < p->n_tokens; first += SOFTMAX_SPAN) {
        int left = p->n_tokens - first;
        attend_span(&qb, &t, ps, p->dtype, first, left < SOFTMAX_SPAN ? left : SOFTMAX_SPAN);
    }
    scatter(ps, &qb, &ps->ws->prefix, gr->row, gr->n_rows, g);
}

/* One span of a sequence's own keys, seen by each row up to its own slot. Rows that see the whole span
 * go together; the others (the diagonal) one by one, each with its own number of keys. */
static void own_span(const struct query_block *qb, const struct tiles *t, const struct pass *ps,
                     const struct batch_seq *sq, int first)
{
    int n_rep = ps->s->n_heads / ps->s->n_kv_heads, r = 0;
    const struct batch_row *rows = ps->b->rows + sq->row;
    while (r < sq->n_rows && rows[r].slot < first + SOFTMAX_SPAN - 1) {
        int n_keys = rows[r].slot + 1 - first;
        if (n_keys > 0) {
            struct query_block one = *qb;
            one.q += (size_t)r * (size_t)(n_rep * qb->dh);
            one.o += (size_t)r * (size_t)(n_rep * qb->ldo);
            one.ml += 2 * r * n_rep;
            one.n = n_rep;
            attend_span(&one, t, ps, ps->pool->dtype, first, n_keys);
        }
        r++;
    }
    if (r == sq->n_rows)
        return;
    struct query_block rest = *qb;
    rest.q += (size_t)r * (size_t)(n_rep * qb->dh);
    rest.o += (size_t)r * (size_t)(n_rep * qb->ldo);
    rest.ml += 2 * r * n_rep;
    rest.n = (sq->n_rows - r) * n_rep;
    attend_span(&rest, t, ps, ps->pool->dtype, first, SOFTMAX_SPAN);
}

/* Task: all rows of one sequence over its own keys, one KV head. */
static void own_task(void *arg, int task, int thread)
{
    const struct pass *ps = arg;
    const struct model_shape *s = ps->s;
    const struct batch_seq *sq = &ps->b->seqs[task / s->n_kv_heads];
    int g = task % s->n_kv_heads;
    struct tiles t = {.blocks = sq->blocks, .pool = ps->pool, .layer = ps->layer, .head = g};
    struct query_block qb = gather(ps, thread, sq->row, sq->n_rows, g);
    int last = ps->b->rows[sq->row + sq->n_rows - 1].slot;
    for (int first = 0; first <= last; first += SOFTMAX_SPAN)
        own_span(&qb, &t, ps, sq, first);
    scatter(ps, &qb, &ps->ws->own, sq->row, sq->n_rows, g);
}

/* out = own, or prefix and own merged: weights e^(m_i - m) over the common maximum. */
static void merge_head(float *out, const struct partial *a, const struct partial *b, size_t at, int dh)
{
    const float *ob = b->o + at * (size_t)dh, *mb = b->ml + 2 * at;
    if (!a) {
        for (int d = 0; d < dh; d++)
            out[d] = ob[d] / mb[1];
        return;
    }
    const float *oa = a->o + at * (size_t)dh, *ma = a->ml + 2 * at;
    float m = ma[0] > mb[0] ? ma[0] : mb[0];
    float wa = expf(ma[0] - m), wb = expf(mb[0] - m), inv = 1.0f / (ma[1] * wa + mb[1] * wb);
    for (int d = 0; d < dh; d++)
        out[d] = (oa[d] * wa + ob[d] * wb) * inv;
}

static void merge_task(void *arg, int task, int thread)
{
    (void)thread;
    const struct pass *ps = arg;
    const struct model_shape *s = ps->s;
    const struct batch_seq *sq = &ps->b->seqs[task];
    const struct partial *a = sq->prefix ? &ps->ws->prefix : NULL;
    for (int r = sq->row; r < sq->row + sq->n_rows; r++)
        for (int h = 0; h < s->n_heads; h++) {
            size_t at = (size_t)r * (size_t)s->n_heads + (size_t)h;
            merge_head(ps->out + at * (size_t)s->head_dim, a, &ps->ws->own, at, s->head_dim);
        }
}

void attention(float *out, const float *q, size_t ldq, int layer, const struct batch *b, const struct kv_pool *pool,
               const struct model_shape *s, const struct kernels *k, struct attention_ws *ws,
               struct par *par)
{
    struct pass ps = {out, q, ldq, layer, b, pool, s, k, ws};
    par_for(par, b->n_groups * s->n_kv_heads, prefix_task, &ps);
    par_for(par, b->n_seqs * s->n_kv_heads, own_task, &ps);
    par_for(par, b->n_seqs, merge_task, &ps);
}
