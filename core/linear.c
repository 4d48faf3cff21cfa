/* Matrix products of a step, cut into panels for the compute pool. */
#include "core/linear.h"

enum { PANELS_PER_TASK = 4 };

struct linear_job {
    const struct linear *l;
    const float *x;
    size_t ldx;
    int n_rows;
    float *y;
    size_t ldy;
    const struct kernels *k;
};

static void add_bias(const struct linear_job *j, int first, int n)
{
    for (int r = 0; r < j->n_rows; r++)
        for (int o = first; o < first + n && o < j->l->w.n_out; o++)
            j->y[(size_t)r * j->ldy + (size_t)o] += j->l->bias[o];
}

static void panels_task(void *arg, int task, int thread)
{
    (void)thread;
    const struct linear_job *j = arg;
    const struct matrix *w = &j->l->w;
    int n_panels = linear_padded(w->n_out) / PANEL, first = task * PANELS_PER_TASK;
    int n = n_panels - first < PANELS_PER_TASK ? n_panels - first : PANELS_PER_TASK;
    size_t step = (size_t)w->n_in * PANEL;
    const unsigned char *data = w->data;
    struct panel_args a = {j->x, j->ldx, j->n_rows,
                           data + (size_t)first * step * dtype_size(w->dtype),
                           step, PANEL, n, w->n_in, j->y + (size_t)first * PANEL, j->ldy, false};
    if (w->dtype == DTYPE_F32)
        j->k->panels_f32(&a);
    else
        j->k->panels_bf16(&a);
    if (j->l->bias)
        add_bias(j, first * PANEL, n * PANEL);
}

void linear(const struct linear *l, const float *x, size_t ldx, int n_rows, float *y, size_t ldy,
            const struct kernels *k, struct par *par)
{
    struct linear_job j = {l, x, ldx, n_rows, y, ldy, k};
    int n_panels = linear_padded(l->w.n_out) / PANEL;
    par_for(par, (n_panels + PANELS_PER_TASK - 1) / PANELS_PER_TASK, panels_task, &j);
}

void linear_row(const struct matrix *m, int id, float *out)
{
    size_t at = (size_t)(id / PANEL) * (size_t)m->n_in * PANEL + (size_t)(id % PANEL);
    for (int i = 0; i < m->n_in; i++, at += PANEL)
        out[i] = m->dtype == DTYPE_F32 ? ((const float *)m->data)[at]
                                       : bf16_to_f32(((const uint16_t *)m->data)[at]);
}
