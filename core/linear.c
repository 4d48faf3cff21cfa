/* Matrix products of a step, cut into panels for the compute pool. */
#include "core/linear.h"

#include "core/model/quant_panel.h"

/* Few rows go over four panels at once; more of them make a task long enough with two, and the smaller a
 * task, the sooner the last thread is done. */
enum { FEW_ROWS = 3, PANELS_OF_FEW = 4, PANELS_PER_TASK = 2, MANY_PANELS = 1024, PANELS_PER_LARGE_TASK = 16 };

struct linear_in linear_in(const struct matrix *like, const float *x, size_t ldx, int n_rows,
                           void *room, const struct kernels *k)
{
    bool is_packed = like->dtype != DTYPE_F32 && (like->dtype != DTYPE_BF16 || k->cast);
    return (struct linear_in){x, ldx, n_rows, like->n_in, like->dtype, is_packed ? room : NULL};
}

void linear_in_pack(const struct linear_in *in, int group, const struct kernels *k)
{
    size_t len = linear_packed_len(in->dtype, in->n_in);
    int first = group * CAST_GROUP, left = in->n_rows - first;
    int end = first + (left < CAST_GROUP ? left : CAST_GROUP);
    if (in->packed && in->dtype == DTYPE_BF16)
        k->cast(in->packed, len, in->x, in->ldx, first, in->n_rows, in->n_in);
    else if (in->packed)
        for (int r = first; r < end;)
            r += k->quant->quantise(in->dtype, in->packed, len, in->x, in->ldx, r, in->n_rows,
                                    in->n_in);
}

struct pack_job {
    const struct linear_in *in;
    const struct kernels *k;
};

static void pack_task(void *arg, int task, int thread)
{
    (void)thread;
    const struct pack_job *j = arg;
    linear_in_pack(j->in, task, j->k);
}

void linear_in_pack_all(const struct linear_in *in, const struct kernels *k, struct par *par)
{
    struct pack_job j = {in, k};
    if (in->packed)
        par_for(par, linear_in_groups(in), pack_task, &j);
}

static void add_bias(const struct linear *l, const struct linear_in *in, float *y, size_t ldy,
                     struct linear_piece p)
{
    for (int r = 0; r < in->n_rows; r++)
        for (int o = p.first; o < p.first + p.n && o < l->w.n_out; o++)
            y[(size_t)r * ldy + (size_t)o] += l->bias[o];
}

static int per_task(const struct linear *l, int n_rows)
{
    if (linear_padded(l->w.n_out) / PANEL > MANY_PANELS)
        return PANELS_PER_LARGE_TASK;
    return n_rows <= FEW_ROWS ? PANELS_OF_FEW : PANELS_PER_TASK;
}

int linear_n_tasks(const struct linear *l, const struct linear_in *in)
{
    int per = per_task(l, in->n_rows);
    return (linear_padded(l->w.n_out) / PANEL + per - 1) / per;
}

typedef void (*product_fn)(const struct panel_args *a);

static product_fn product_of(enum dtype t, const struct kernels *k)
{
    switch (t) {
    case DTYPE_BF16: return k->panels_bf16;
    case DTYPE_INT8: return k->quant->panels_int8;
    case DTYPE_INT4: return k->quant->panels_int4;
    default: return k->panels_f32;
    }
}

const void *linear_weights(const struct linear *l, const struct linear_in *in, int task)
{
    size_t step = matrix_panel_elems(l->w.dtype, (size_t)l->w.n_in) * dtype_size(l->w.dtype);
    return (const char *)l->w.data + (size_t)(task * per_task(l, in->n_rows)) * step;
}

struct linear_piece linear_task(const struct linear *l, const struct linear_in *in, float *y,
                                size_t ldy, const struct kernels *k, int task, const void *after)
{
    const struct matrix *w = &l->w;
    int per = per_task(l, in->n_rows), first = task * per;
    int left = linear_padded(w->n_out) / PANEL - first;
    struct linear_piece p = {first * PANEL, (left < per ? left : per) * PANEL};
    const void *from = linear_weights(l, in, task);
    struct panel_args a = {.x = in->packed ? in->packed : in->x,
                           .ldx = in->packed ? linear_packed_len(w->dtype, w->n_in) : in->ldx,
                           .n_rows = in->n_rows,
                           .w = &from,
                           .panel_step = matrix_panel_elems(w->dtype, (size_t)w->n_in),
                           .n_panels = p.n / PANEL,
                           .K = w->n_in,
                           .part_len = w->n_in,
                           .after = after,
                           .y = y + p.first,
                           .ldy = ldy};
    product_of(w->dtype, k)(&a);
    if (l->bias)
        add_bias(l, in, y, ldy, p);
    return p;
}

struct linear_job {
    const struct linear *l;
    const struct linear_in *in;
    float *y;
    size_t ldy;
    const struct kernels *k;
    int n_threads;
};

static void whole_task(void *arg, int task, int thread)
{
    (void)thread;
    const struct linear_job *j = arg;
    int next = task + j->n_threads;
    linear_task(j->l, j->in, j->y, j->ldy, j->k, task,
                next < linear_n_tasks(j->l, j->in) ? linear_weights(j->l, j->in, next) : NULL);
}

void linear(const struct linear *l, const struct linear_in *in, float *y, size_t ldy,
            const struct kernels *k, struct par *par)
{
    struct linear_job j = {l, in, y, ldy, k, par_n_threads(par)};
    par_for(par, linear_n_tasks(l, in), whole_task, &j);
}

static void bf16_row(const uint16_t *panel, int in, int n, float *out)
{
    for (int i = 0; i < n; i++)
        out[i] = bf16_to_f32(panel[(i / 2 * PANEL + in) * 2 + i % 2]);
}

void linear_row(const struct matrix *m, int id, float *out)
{
    size_t elems = matrix_panel_elems(m->dtype, (size_t)m->n_in), lane = (size_t)(id % PANEL);
    const void *panel =
        (const char *)m->data + (size_t)(id / PANEL) * elems * dtype_size(m->dtype);
    if (m->dtype == DTYPE_BF16)
        bf16_row(panel, id % PANEL, m->n_in, out);
    else if (m->dtype != DTYPE_F32)
        quant_panel_row(m->dtype, panel, lane, (size_t)m->n_in, out);
    else
        for (int i = 0; i < m->n_in; i++)
            out[i] = ((const float *)panel)[(size_t)i * PANEL + lane];
}
