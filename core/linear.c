/* Matrix products of a step, cut into panels for the compute pool. */
#include "core/linear.h"

enum { PANELS_PER_TASK = 4 };

struct cast_job {
    const struct kernels *k;
    const float *x;
    size_t ldx, len;
    int n_rows, n_in;
    uint16_t *out;
};

static void cast_task(void *arg, int task, int thread)
{
    (void)thread;
    const struct cast_job *j = arg;
    int r = task * CAST_GROUP, end = r + CAST_GROUP < j->n_rows ? r + CAST_GROUP : j->n_rows;
    while (r < end)
        r += j->k->cast(j->out, j->len, j->x, j->ldx, r, j->n_rows, j->n_in);
}

struct linear_in linear_in(const struct matrix *like, const float *x, size_t ldx, int n_rows,
                           uint16_t *cast, const struct kernels *k, struct par *par)
{
    struct cast_job j = {k, x, ldx, linear_cast_len(like->n_in), n_rows, like->n_in, cast};
    if (like->dtype != DTYPE_BF16 || !k->cast)
        return (struct linear_in){x, ldx, n_rows};
    par_for(par, (n_rows + CAST_GROUP - 1) / CAST_GROUP, cast_task, &j);
    return (struct linear_in){cast, j.len, n_rows};
}

struct linear_job {
    const struct linear *l;
    const struct linear_in *in;
    float *y;
    size_t ldy;
    const struct kernels *k;
};

static void add_bias(const struct linear_job *j, int first, int n)
{
    for (int r = 0; r < j->in->n_rows; r++)
        for (int o = first; o < first + n && o < j->l->w.n_out; o++)
            j->y[(size_t)r * j->ldy + (size_t)o] += j->l->bias[o];
}

static void some_panels(const struct linear_job *j, int first, int n)
{
    const struct matrix *w = &j->l->w;
    size_t step = matrix_panel_elems(w->dtype, (size_t)w->n_in);
    const void *from = (const char *)w->data + (size_t)first * step * dtype_size(w->dtype);
    struct panel_args a = {.x = j->in->x, .ldx = j->in->ldx, .n_rows = j->in->n_rows, .w = &from,
                           .panel_step = step, .n_panels = n, .K = w->n_in, .part_len = w->n_in,
                           .y = j->y + (size_t)first * PANEL, .ldy = j->ldy};
    (w->dtype == DTYPE_F32 ? j->k->panels_f32 : j->k->panels_bf16)(&a);
}

static void panels_task(void *arg, int task, int thread)
{
    (void)thread;
    const struct linear_job *j = arg;
    int n_panels = linear_padded(j->l->w.n_out) / PANEL, first = task * PANELS_PER_TASK;
    int n = n_panels - first < PANELS_PER_TASK ? n_panels - first : PANELS_PER_TASK;
    some_panels(j, first, n);
    if (j->l->bias)
        add_bias(j, first * PANEL, n * PANEL);
}

void linear(const struct linear *l, const struct linear_in *in, float *y, size_t ldy,
            const struct kernels *k, struct par *par)
{
    struct linear_job j = {l, in, y, ldy, k};
    int n_panels = linear_padded(l->w.n_out) / PANEL;
    par_for(par, (n_panels + PANELS_PER_TASK - 1) / PANELS_PER_TASK, panels_task, &j);
}

static void bf16_row(const uint16_t *panel, int in, int n, float *out)
{
    for (int i = 0; i < n; i++)
        out[i] = bf16_to_f32(panel[(i / 2 * PANEL + in) * 2 + i % 2]);
}

void linear_row(const struct matrix *m, int id, float *out)
{
    size_t at = (size_t)(id / PANEL) * matrix_panel_elems(m->dtype, (size_t)m->n_in);
    if (m->dtype == DTYPE_BF16) {
        bf16_row((const uint16_t *)m->data + at, id % PANEL, m->n_in, out);
        return;
    }
    const float *w = (const float *)m->data + at + (size_t)(id % PANEL);
    for (int i = 0; i < m->n_in; i++, w += PANEL)
        out[i] = *w;
}
