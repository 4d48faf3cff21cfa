/* The shared attention kernel: prefixes once per step for all their rows, then every row's own
 * keys. */
#include "core/attention.h"

#include "core/base/check.h"
#include "core/base/mem.h"
#include "core/kv_tile.h"

#include <math.h>
#include <stdlib.h>

enum {
    SPAN_TILES = SOFTMAX_SPAN / KV_TILE,
    PIECE_ROWS = 16, /* rows of a task: few enough to share out, enough to read a tile for */
};

/* Partial result of every query (a row of the step and one head) over its prefix. */
struct partial {
    float *o;  /* [T * H, Dp] weighted values, not yet divided by l */
    float *ml; /* [T * H, 2] maximum and sum */
};

struct scratch {      /* of one thread; R = PIECE_ROWS * n_rep, Dp = padded Dh */
    float *q;         /* [R, Dh] */
    uint16_t *q_cast; /* [R, Dh] what the kernels read instead, if they cast */
    float *scores;    /* [R, SOFTMAX_SPAN] scores, then probabilities */
    uint16_t *p_cast; /* [R, SOFTMAX_SPAN] */
    float *o;         /* [R, Dp] */
    float *ml;        /* [R, 2] */
};

/* Rows row .. row + n_rows - 1 of a sequence, or of a prefix's group. */
struct piece {
    int of, row, n_rows;
};

struct attention_ws {
    struct partial prefix;
    int n_threads, n_prefix_pieces, n_own_pieces;
    struct piece *prefix_pieces, *own_pieces; /* [max_rows] */
    struct scratch *scratch;                  /* [n_threads] */
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

/* The queries of a piece of rows that share a KV head: row i of all belongs to row i / n_rep of the
 * piece. */
struct queries {
    struct scratch *at;
    int n, dh, n_rep;
    size_t ldo;                   /* Dp */
    const struct batch_row *rows; /* each sees the keys up to its own slot; NULL: all see all */
    const struct kernels *k;
    enum dtype dtype; /* of the keys and values */
};

/* The tiles of a span of keys. */
struct span {
    const void *k[SPAN_TILES], *v[SPAN_TILES];
    int n_tiles, first, n_keys; /* first key is a multiple of SOFTMAX_SPAN */
};

static void *array(size_t n, size_t size)
{
    void *p = mem_try_aligned(n, size);
    CHECK(p != NULL); /* sized by the operator's settings at start, not by requests */
    return p;
}

static int n_rep_of(const struct model_shape *s)
{
    return s->n_heads / s->n_kv_heads;
}

static void scratch_init(struct scratch *t, const struct model_shape *s)
{
    size_t rows = (size_t)(PIECE_ROWS * n_rep_of(s)), dh = (size_t)s->head_dim;
    *t = (struct scratch){
        .q = array(rows * dh, sizeof *t->q),
        .q_cast = array(rows * dh, sizeof *t->q_cast),
        .scores = array(rows * SOFTMAX_SPAN, sizeof *t->scores),
        .p_cast = array(rows * SOFTMAX_SPAN, sizeof *t->p_cast),
        .o = array(rows * kv_tile_dims(s->head_dim), sizeof *t->o),
        .ml = array(rows * 2, sizeof *t->ml),
    };
}

static void scratch_fini(struct scratch *t)
{
    free(t->q);
    free(t->q_cast);
    free(t->scores);
    free(t->p_cast);
    free(t->o);
    free(t->ml);
}

struct attention_ws *attention_ws_new(const struct model_shape *s, int max_rows, int n_threads)
{
    struct attention_ws *ws = xcalloc(1, sizeof *ws);
    size_t heads = (size_t)max_rows * (size_t)s->n_heads;
    ws->prefix.o = array(heads * kv_tile_dims(s->head_dim), sizeof *ws->prefix.o);
    ws->prefix.ml = array(heads * 2, sizeof *ws->prefix.ml);
    ws->prefix_pieces = xcalloc((size_t)max_rows, sizeof *ws->prefix_pieces);
    ws->own_pieces = xcalloc((size_t)max_rows, sizeof *ws->own_pieces);
    ws->n_threads = n_threads;
    ws->scratch = xcalloc((size_t)n_threads, sizeof *ws->scratch);
    for (int i = 0; i < n_threads; i++)
        scratch_init(&ws->scratch[i], s);
    return ws;
}

void attention_ws_free(struct attention_ws *ws)
{
    if (!ws)
        return;
    for (int i = 0; i < ws->n_threads; i++)
        scratch_fini(&ws->scratch[i]);
    free(ws->scratch);
    free(ws->prefix.o);
    free(ws->prefix.ml);
    free(ws->prefix_pieces);
    free(ws->own_pieces);
    free(ws);
}

/* ---- one span of keys
 * ------------------------------------------------------------------------------ */

static bool casts(const struct queries *qs)
{
    return qs->dtype == DTYPE_BF16 && qs->k->cast;
}

static void panels(const struct queries *qs, const struct panel_args *a)
{
    (qs->dtype == DTYPE_F32 ? qs->k->panels_f32 : qs->k->panels_bf16)(a);
}

static void cast_rows(const struct queries *qs, uint16_t *out, size_t ldo, const float *x,
                      size_t ldx, int n, int n_in)
{
    for (int r = 0; r < n;)
        r += qs->k->cast(out, ldo, x, ldx, r, n, n_in);
}

/* scores[r][i] = q[r] . k[i] for the queries from `from` on, a multiple of CAST_GROUP. */
static void score(const struct queries *qs, const struct span *sp, int from)
{
    size_t at = (size_t)from * (size_t)qs->dh;
    const float *q = qs->at->q + at;
    struct panel_args a = {
        .x = casts(qs) ? (const void *)(qs->at->q_cast + at) : q,
        .ldx = (size_t)qs->dh,
        .n_rows = qs->n - from,
        .w = sp->k,
        .is_scattered = true,
        .panel_step = qs->ldo * KV_TILE,
        .n_panels = sp->n_tiles,
        .K = qs->dh,
        .part_len = qs->dh,
        .y = qs->at->scores + (size_t)from * SOFTMAX_SPAN,
        .ldy = SOFTMAX_SPAN,
    };
    panels(qs, &a);
}

/* How many of the span's keys query r sees. */
static int n_seen(const struct queries *qs, const struct span *sp, int r)
{
    if (!qs->rows)
        return sp->n_keys;
    int n = qs->rows[r / qs->n_rep].slot + 1 - sp->first;
    return n < 0 ? 0 : n < sp->n_keys ? n : sp->n_keys;
}

/* Scores to probabilities, zero beyond what a query sees; its results so far are scaled to them. */
static void soften(const struct queries *qs, const struct span *sp, int from)
{
    float scale = 1.0f / sqrtf((float)qs->dh);
    for (int r = from; r < qs->n; r++) {
        float *ml = qs->at->ml + 2 * r, *o = qs->at->o + (size_t)r * qs->ldo;
        float *s = qs->at->scores + r * SOFTMAX_SPAN;
        int n = n_seen(qs, sp, r), n_written = n ? (n + 15) / 16 * 16 : 0;
        float f = n ? qs->k->softmax_span(s, n, scale, &ml[0], &ml[1]) : 1;
        if (n_written < sp->n_keys)
            memset(s + n_written, 0, (size_t)(sp->n_keys - n_written) * sizeof *s);
        for (size_t d = 0; d < qs->ldo && f != 1; d++)
            o[d] *= f;
    }
}

/* o[r] += sum over the span's keys i of p[r][i] * v[i] */
static void add_values(const struct queries *qs, const struct span *sp, int from)
{
    size_t at = (size_t)from * SOFTMAX_SPAN;
    const float *p = qs->at->scores + at;
    if (casts(qs))
        cast_rows(qs, qs->at->p_cast + at, SOFTMAX_SPAN, p, SOFTMAX_SPAN, qs->n - from, sp->n_keys);
    struct panel_args a = {
        .x = casts(qs) ? (const void *)(qs->at->p_cast + at) : p,
        .ldx = SOFTMAX_SPAN,
        .n_rows = qs->n - from,
        .w = sp->v,
        .panel_step = KV_V_PANEL,
        .n_panels = (int)(qs->ldo / KV_LANES),
        .K = sp->n_keys,
        .part_len = KV_TILE,
        .y = qs->at->o + (size_t)from * qs->ldo,
        .ldy = qs->ldo,
        .accumulate = true,
    };
    panels(qs, &a);
}

/* The first query that sees a key of the span, rounded down to a whole group. A query before its
 * own first key goes with the others, with zeros that change nothing. */
static int first_query(const struct queries *qs, const struct span *sp)
{
    int r = 0;
    while (r < qs->n - 1 && n_seen(qs, sp, r) == 0)
        r++;
    return r / CAST_GROUP * CAST_GROUP;
}

static void attend(const struct queries *qs, const struct span *sp)
{
    int from = first_query(qs, sp);
    score(qs, sp, from);
    soften(qs, sp, from);
    add_values(qs, sp, from);
}

static int min_int(int a, int b)
{
    return a < b ? a : b;
}

/* The span from key `first` on, of a run of n_keys; its tiles are the caller's to fill in. */
static struct span span_of(int first, int n_keys)
{
    struct span sp = {.first = first, .n_keys = min_int(n_keys - first, SOFTMAX_SPAN)};
    sp.n_tiles = (sp.n_keys + KV_TILE - 1) / KV_TILE;
    return sp;
}

/* ---- pieces of rows
 * -------------------------------------------------------------------------------- */

/* Queries of the piece's rows, all heads that share KV head g, into the thread's scratch. */
static struct queries gather(const struct pass *ps, int thread, const struct piece *pc, int g,
                             enum dtype t)
{
    const struct model_shape *s = ps->s;
    int n_rep = n_rep_of(s), dh = s->head_dim;
    size_t width = (size_t)(n_rep * dh);
    struct scratch *to = &ps->ws->scratch[thread];
    struct queries qs = {to, pc->n_rows * n_rep, dh, n_rep, kv_tile_dims(dh), NULL, ps->k, t};
    for (int r = 0; r < pc->n_rows; r++)
        memcpy(to->q + (size_t)r * width,
               ps->q + (size_t)(pc->row + r) * ps->ldq + (size_t)g * width, width * sizeof *to->q);
    if (casts(&qs))
        cast_rows(&qs, to->q_cast, (size_t)dh, to->q, (size_t)dh, qs.n, dh);
    memset(to->o, 0, (size_t)qs.n * qs.ldo * sizeof *to->o);
    for (int i = 0; i < qs.n; i++) {
        to->ml[2 * i] = -INFINITY;
        to->ml[2 * i + 1] = 0;
    }
    return qs;
}

/* Where query i of the piece and KV head g stands among all queries. */
static size_t query_at(const struct queries *qs, const struct piece *pc,
                       const struct model_shape *s, int g, int i)
{
    int row = pc->row + i / qs->n_rep, head = g * qs->n_rep + i % qs->n_rep;
    return (size_t)row * (size_t)s->n_heads + (size_t)head;
}

/* Task: a piece of a prefix's rows, one KV head. */
static void prefix_task(void *arg, int task, int thread)
{
    const struct pass *ps = arg;
    const struct model_shape *s = ps->s;
    const struct piece *pc = &ps->ws->prefix_pieces[task / s->n_kv_heads];
    int g = task % s->n_kv_heads;
    const struct kv_prefix *p = ps->b->groups[pc->of].prefix;
    size_t tile = kv_tile_bytes(s->head_dim, p->dtype);
    size_t run =
        ((size_t)ps->layer * (size_t)s->n_kv_heads + (size_t)g) * (size_t)p->n_tiles * tile;
    struct queries qs = gather(ps, thread, pc, g, p->dtype);
    for (int first = 0; first < p->n_tokens; first += SOFTMAX_SPAN) {
        struct span sp = span_of(first, p->n_tokens);
        for (int i = 0; i < sp.n_tiles; i++) {
            size_t at = run + (size_t)(first / KV_TILE + i) * tile;
            sp.k[i] = (const unsigned char *)p->k + at;
            sp.v[i] = (const unsigned char *)p->v + at;
        }
        attend(&qs, &sp);
    }
    for (int i = 0; i < qs.n; i++) {
        size_t at = query_at(&qs, pc, s, g, i);
        memcpy(ps->ws->prefix.o + at * qs.ldo, qs.at->o + (size_t)i * qs.ldo,
               qs.ldo * sizeof *qs.at->o);
        memcpy(ps->ws->prefix.ml + at * 2, qs.at->ml + i * 2, 2 * sizeof *qs.at->ml);
    }
}

/* out[Dh] = own, or prefix and own merged: weights e^(m_i - m) over the common maximum. */
static void merge_head(float *out, const float *own, const float *own_ml, const float *prefix,
                       const float *prefix_ml, int dh)
{
    if (!prefix) {
        for (int d = 0; d < dh; d++)
            out[d] = own[d] / own_ml[1];
        return;
    }
    float m = prefix_ml[0] > own_ml[0] ? prefix_ml[0] : own_ml[0];
    float wa = expf(prefix_ml[0] - m), wb = expf(own_ml[0] - m);
    float inv = 1.0f / (prefix_ml[1] * wa + own_ml[1] * wb);
    for (int d = 0; d < dh; d++)
        out[d] = (prefix[d] * wa + own[d] * wb) * inv;
}

/* Task: a piece of a sequence's rows over its own keys, one KV head; merged with what its prefix
 * gave. */
static void own_task(void *arg, int task, int thread)
{
    const struct pass *ps = arg;
    const struct model_shape *s = ps->s;
    const struct piece *pc = &ps->ws->own_pieces[task / s->n_kv_heads];
    const struct batch_seq *sq = &ps->b->seqs[pc->of];
    int g = task % s->n_kv_heads, n_keys = ps->b->rows[pc->row + pc->n_rows - 1].slot + 1;
    struct queries qs = gather(ps, thread, pc, g, ps->pool->dtype);
    qs.rows = ps->b->rows + pc->row;
    for (int first = 0; first < n_keys; first += SOFTMAX_SPAN) {
        struct span sp = span_of(first, n_keys);
        for (int i = 0; i < sp.n_tiles; i++) {
            int32_t block = sq->blocks[first / KV_TILE + i];
            sp.k[i] = kv_pool_k(ps->pool, block, ps->layer, g);
            sp.v[i] = kv_pool_v(ps->pool, block, ps->layer, g);
        }
        attend(&qs, &sp);
    }
    for (int i = 0; i < qs.n; i++) {
        size_t at = query_at(&qs, pc, s, g, i);
        merge_head(ps->out + at * (size_t)s->head_dim, qs.at->o + (size_t)i * qs.ldo,
                   qs.at->ml + 2 * i, sq->prefix ? ps->ws->prefix.o + at * qs.ldo : NULL,
                   ps->ws->prefix.ml + 2 * at, s->head_dim);
    }
}

static int cut(struct piece *out, int n, int of, int row, int n_rows)
{
    for (int r = 0; r < n_rows; r += PIECE_ROWS)
        out[n++] = (struct piece){of, row + r, min_int(n_rows - r, PIECE_ROWS)};
    return n;
}

static void cut_pieces(struct attention_ws *ws, const struct batch *b)
{
    ws->n_prefix_pieces = ws->n_own_pieces = 0;
    for (int i = 0; i < b->n_groups; i++)
        ws->n_prefix_pieces =
            cut(ws->prefix_pieces, ws->n_prefix_pieces, i, b->groups[i].row, b->groups[i].n_rows);
    for (int i = 0; i < b->n_seqs; i++)
        ws->n_own_pieces =
            cut(ws->own_pieces, ws->n_own_pieces, i, b->seqs[i].row, b->seqs[i].n_rows);
}

void attention(float *out, const float *q, size_t ldq, int layer, const struct batch *b,
               const struct kv_pool *pool, const struct model_shape *s, const struct kernels *k,
               struct attention_ws *ws, struct par *par)
{
    struct pass ps = {out, q, ldq, layer, b, pool, s, k, ws};
    cut_pieces(ws, b);
    par_for(par, ws->n_prefix_pieces * s->n_kv_heads, prefix_task, &ps);
    par_for(par, ws->n_own_pieces * s->n_kv_heads, own_task, &ps);
}
