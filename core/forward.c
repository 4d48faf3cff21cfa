/* The forward pass, layer by layer, over the rows of one step. */
#include "core/forward.h"

#include "core/base/check.h"
#include "core/base/mem.h"
#include "core/linear.h"
#include "core/rope.h"

#include <stdlib.h>

/* What the row-parallel pieces of a step share. */
struct fwd {
    const struct model *m;
    const struct model_shape *s;
    const struct batch *b;
    struct kv_pool *pool;
    const struct kernels *k;
    struct forward_ws *ws;
    struct par *par;
    int layer;
    const struct layer_weights *lw;
    const float *norm_w;
    struct linear_in in; /* what the products of this moment read */
};

struct dims {
    size_t D, Dp, Q, Qp, KV, KVp, F, Fp, half;
};

static struct dims dims_of(const struct model_shape *s, const struct model *m)
{
    size_t D = (size_t)s->dim, Q = (size_t)(s->n_heads * s->head_dim),
           KV = (size_t)(s->n_kv_heads * s->head_dim);
    return (struct dims){D,
                         (size_t)linear_padded(s->dim),
                         Q,
                         (size_t)linear_padded((int)Q),
                         KV,
                         (size_t)linear_padded((int)KV),
                         (size_t)m->desc.ffn,
                         (size_t)linear_padded(m->desc.ffn),
                         (size_t)s->head_dim / 2};
}

/* The widest input of a matrix. */
static int widest(const struct dims *d)
{
    size_t most = d->D > d->Q ? d->D : d->Q;
    return (int)(most > d->F ? most : d->F);
}

/* Floats that a packed row fits into, whichever matrix it is for. */
static size_t packed_floats(const struct dims *d, const struct model *m)
{
    size_t layer = linear_packed_len(m->dtype, widest(d)) * dtype_size(m->dtype);
    size_t head = linear_packed_len(m->head.dtype, (int)d->D) * dtype_size(m->head.dtype);
    return ((layer > head ? layer : head) + 3) / 4;
}

int forward_ws_init(struct forward_ws *ws, const struct model *m, const struct model_shape *s,
                    int max_rows, int max_logits, int n_threads, struct err *err)
{
    struct dims d = dims_of(s, m);
    size_t T = (size_t)max_rows, G = (size_t)max_logits, V = (size_t)linear_padded(s->vocab);
    size_t rows = T > G ? T : G;
    float *packed,
        **parts[] = {&ws->x,  &ws->norm, &ws->q,   &ws->k,   &ws->v,     &ws->att,    &ws->gate,
                     &ws->up, &ws->proj, &ws->cos, &ws->sin, &ws->final, &ws->logits, &packed};
    size_t sizes[] = {T * d.D,    T * d.D,
                      T * d.Qp,   T * d.KVp,
                      T * d.KVp,  T * d.Q,
                      T * d.Fp,   T * d.Fp,
                      T * d.Dp,   T * d.half,
                      T * d.half, G * d.D,
                      G * V,      rows * packed_floats(&d, m)};
    size_t total = 0, n_parts = sizeof sizes / sizeof sizes[0];
    for (size_t i = 0; i < n_parts; i++)
        total += (sizes[i] + 15) & ~(size_t)15;
    *ws = (struct forward_ws){.max_rows = max_rows, .max_logits = max_logits, .ld_logits = V};
    float *at = mem_try_aligned(total, sizeof *at);
    if (!at)
        return err_set(err, ERR_NO_MEMORY, "no memory for a step of %d rows", max_rows);
    ws->memory = at;
    for (size_t i = 0; i < n_parts; i++) {
        *parts[i] = at;
        at += (sizes[i] + 15) & ~(size_t)15;
    }
    ws->packed = packed;
    ws->attention = attention_ws_new(s, max_rows, n_threads);
    return 0;
}

void forward_ws_fini(struct forward_ws *ws)
{
    attention_ws_free(ws->attention);
    free(ws->memory);
    *ws = (struct forward_ws){0};
}

/* Softmax and short products make a pair of attention about twice as dear as one of weights. */
double forward_even_context(const struct model *m, const struct model_shape *s)
{
    enum { DEARER = 2 };
    struct dims d = dims_of(s, m);
    size_t weights = d.D * (2 * d.Q + 2 * d.KV + 3 * d.F), per_token = 2 * d.Q;
    return (double)weights / (double)per_token / DEARER;
}

/* x[r] = the row's embedding; and its rotation angles. */
static void embed_task(void *arg, int r, int thread)
{
    (void)thread;
    struct fwd *f = arg;
    const struct batch_row *row = &f->b->rows[r];
    size_t D = (size_t)f->s->dim, half = (size_t)f->s->head_dim / 2, at = (size_t)r;
    if (row->embed)
        memcpy(f->ws->x + at * D, row->embed, D * sizeof(float));
    else
        linear_row(&f->m->embed, row->token, f->ws->x + at * D);
    rope_angles(f->m->inv_freq, (int)half, row->pos, f->ws->cos + at * half,
                f->ws->sin + at * half);
}

/* A group of rows, normed and packed for the products that read them. */
static void norm_task(void *arg, int group, int thread)
{
    (void)thread;
    struct fwd *f = arg;
    size_t D = (size_t)f->s->dim;
    int end =
        group * CAST_GROUP + CAST_GROUP < f->b->n_rows ? (group + 1) * CAST_GROUP : f->b->n_rows;
    for (size_t r = (size_t)group * CAST_GROUP; r < (size_t)end; r++)
        f->k->rms_norm(f->ws->norm + r * D, f->ws->x + r * D, f->norm_w, f->s->dim,
                       f->m->desc.norm_eps);
    linear_in_pack(&f->in, group, f->k);
}

static void norm(struct fwd *f, const float *w, const struct linear *for_what)
{
    f->norm_w = w;
    f->in =
        linear_in(&for_what->w, f->ws->norm, (size_t)f->s->dim, f->b->n_rows, f->ws->packed, f->k);
    par_for(f->par, linear_in_groups(&f->in), norm_task, f);
}

/* What `l` reads is x. */
static void input(struct fwd *f, const struct linear *l, const float *x, size_t ldx)
{
    f->in = linear_in(&l->w, x, ldx, f->b->n_rows, f->ws->packed, f->k);
    linear_in_pack_all(&f->in, f->k, f->par);
}

/* What a thread reads after `task` of l, if each takes one in turn: another task of l, or one of the product that
 * comes then. */
static const void *weights_after(const struct fwd *f, const struct linear *l, int task,
                                 const struct linear *then)
{
    int n = linear_n_tasks(l, &f->in), next = task + par_n_threads(f->par);
    if (next < n)
        return linear_weights(l, &f->in, next);
    return then ? linear_weights(then, &f->in, next - n) : NULL;
}

/* Task of q, of k or of v, which follow each other. */
static void qkv_task(void *arg, int task, int thread)
{
    (void)thread;
    struct fwd *f = arg;
    const struct layer_weights *lw = f->lw;
    const struct linear *of[] = {&lw->q, &lw->k, &lw->v, &lw->o};
    struct dims d = dims_of(f->s, f->m);
    float *to[] = {f->ws->q, f->ws->k, f->ws->v};
    const size_t ld[] = {d.Qp, d.KVp, d.KVp};
    int i = 0;
    for (int n; i < 2 && task >= (n = linear_n_tasks(of[i], &f->in)); i++)
        task -= n;
    linear_task(of[i], &f->in, to[i], ld[i], f->k, task, weights_after(f, of[i], task, of[i + 1]));
}

static void project_qkv(struct fwd *f)
{
    const struct layer_weights *lw = f->lw;
    int n = linear_n_tasks(&lw->q, &f->in) + linear_n_tasks(&lw->k, &f->in) +
            linear_n_tasks(&lw->v, &f->in);
    par_for(f->par, n, qkv_task, f);
}

/* Rotates q and k of one sequence's rows and stores their k and v in its blocks. */
static void rotate_store_task(void *arg, int i, int thread)
{
    (void)thread;
    struct fwd *f = arg;
    const struct model_shape *s = f->s;
    const struct batch_seq *sq = &f->b->seqs[i];
    struct dims d = dims_of(s, f->m);
    for (int r = sq->row; r < sq->row + sq->n_rows; r++) {
        size_t at = (size_t)r;
        const float *c = f->ws->cos + at * d.half, *sn = f->ws->sin + at * d.half;
        float *k = f->ws->k + at * d.KVp, *v = f->ws->v + at * d.KVp;
        int slot = f->b->rows[r].slot;
        int32_t block = sq->blocks[slot / KV_TILE];
        rope_rotate(f->ws->q + at * d.Qp, s->n_heads, (int)d.half, c, sn);
        rope_rotate(k, s->n_kv_heads, (int)d.half, c, sn);
        for (int g = 0; g < s->n_kv_heads; g++)
            rope_store(k + g * s->head_dim, v + g * s->head_dim, s->head_dim, slot % KV_TILE,
                       f->pool->dtype, kv_pool_k(f->pool, block, f->layer, g),
                       kv_pool_v(f->pool, block, f->layer, g));
    }
}

/* gate = silu(gate x) * up x, for a piece of the outputs while it is in the cache. */
static void swiglu_task(void *arg, int task, int thread)
{
    (void)thread;
    struct fwd *f = arg;
    size_t ld = (size_t)linear_padded(f->m->desc.ffn);
    const struct linear *gate = &f->lw->gate, *up = &f->lw->up;
    struct linear_piece p = linear_task(gate, &f->in, f->ws->gate, ld, f->k, task,
                                        linear_weights(up, &f->in, task));
    linear_task(up, &f->in, f->ws->up, ld, f->k, task,
                weights_after(f, gate, task, &f->lw->down));
    for (size_t r = 0; r < (size_t)f->b->n_rows; r++) {
        size_t at = r * ld + (size_t)p.first;
        f->k->silu_mul(f->ws->gate + at, f->ws->up + at, p.n);
    }
}

/* x += l(what it reads), o of attention or down of the feed-forward block. */
struct residual {
    struct fwd *f;
    const struct linear *l, *then; /* then: the product that follows */
};

static void residual_task(void *arg, int task, int thread)
{
    (void)thread;
    const struct residual *rs = arg;
    struct fwd *f = rs->f;
    size_t D = (size_t)f->s->dim, Dp = (size_t)linear_padded(f->s->dim);
    struct linear_piece p = linear_task(rs->l, &f->in, f->ws->proj, Dp, f->k, task,
                                        weights_after(f, rs->l, task, rs->then));
    int end = p.first + p.n < f->s->dim ? p.first + p.n : f->s->dim;
    for (size_t r = 0; r < (size_t)f->b->n_rows; r++) {
        size_t at = (size_t)p.first;
        f->k->add(f->ws->x + r * D + at, f->ws->proj + r * Dp + at, end - p.first);
    }
}

static void add_product(struct fwd *f, const struct linear *l, const struct linear *then)
{
    struct residual rs = {f, l, then};
    par_for(f->par, linear_n_tasks(l, &f->in), residual_task, &rs);
}

static void attention_block(struct fwd *f)
{
    const struct layer_weights *lw = f->lw;
    struct forward_ws *ws = f->ws;
    struct dims d = dims_of(f->s, f->m);
    norm(f, lw->attn_norm, &lw->q);
    project_qkv(f);
    par_for(f->par, f->b->n_seqs, rotate_store_task, f);
    attention(ws->att, ws->q, d.Qp, f->layer, f->b, f->pool, f->s, f->k, ws->attention, f->par);
    input(f, &lw->o, ws->att, d.Q);
    add_product(f, &lw->o, &lw->gate);
}

static void ffn_block(struct fwd *f)
{
    const struct layer_weights *lw = f->lw;
    norm(f, lw->ffn_norm, &lw->gate);
    par_for(f->par, linear_n_tasks(&lw->gate, &f->in), swiglu_task, f);
    input(f, &lw->down, f->ws->gate, (size_t)linear_padded(f->m->desc.ffn));
    add_product(f, &lw->down, f->layer + 1 < f->s->n_layers ? &lw[1].q : NULL);
}

/* Final norm and head for the rows that want logits. */
static void head(struct fwd *f)
{
    struct forward_ws *ws = f->ws;
    size_t D = (size_t)f->s->dim;
    for (int r = 0; r < f->b->n_rows; r++) {
        int at = f->b->rows[r].logits;
        if (at >= 0)
            f->k->rms_norm(ws->final + (size_t)at * D, ws->x + (size_t)r * D, f->m->final_norm,
                           f->s->dim, f->m->desc.norm_eps);
    }
    struct linear l = {f->m->head, NULL};
    if (!f->b->n_logits)
        return;
    struct linear_in in = linear_in(&l.w, ws->final, D, f->b->n_logits, ws->packed, f->k);
    linear_in_pack_all(&in, f->k, f->par);
    linear(&l, &in, ws->logits, ws->ld_logits, f->k, f->par);
}

void forward(const struct model *m, const struct model_shape *s, const struct batch *b,
             struct kv_pool *pool, const struct kernels *k, struct forward_ws *ws, struct par *par)
{
    struct fwd f = {.m = m, .s = s, .b = b, .pool = pool, .k = k, .ws = ws, .par = par};
    CHECK(b->n_rows <= ws->max_rows && b->n_logits <= ws->max_logits);
    par_for(par, b->n_rows, embed_task, &f);
    for (f.layer = 0; f.layer < s->n_layers; f.layer++) {
        f.lw = &m->layers[f.layer];
        attention_block(&f);
        ffn_block(&f);
    }
    head(&f);
}
