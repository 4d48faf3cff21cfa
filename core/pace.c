/* Two running estimates, and what they leave of the target for prompt rows. */
#include "core/pace.h"

#include "core/base/check.h"

#include <stdbool.h>

#define TIMES 2.0     /* the decoding rows alone: the automatic target */
#define SOON 0.5      /* part of a difference that is believed at once */
#define SLOWLY 0.125
#define CHEAPEST 1e-3 /* us of a row, however noisy the clock */

void pace_init(struct pace *p, int max_rows, int target_ms, double context)
{
    CHECK(max_rows >= 1 && context > 0);
    *p = (struct pace){.max_rows = max_rows, .target_us = target_ms * 1e3, .context = context};
}

/* Half octaves: within one, times differ by less than rows do. */
static int size_of(int n)
{
    int octave = 0;
    while (n >> (octave + 1))
        octave++;
    int size = octave ? 2 * octave + (n >> (octave - 1) & 1) : 0;
    return size < PACE_SIZES ? size : PACE_SIZES - 1;
}

static int clamp(double n, int low, int high)
{
    return n < low ? low : n > high ? high : (int)n;
}

/* The next lower number known is the cautious guess; 0: there is none. */
static double alone_us(const struct pace *p, int n_decoding)
{
    int size = size_of(n_decoding);
    while (size > 0 && p->alone_us[size] <= 0)
        size--;
    return p->alone_us[size];
}

/* What fits the target; at most twice the last, as one lucky time is no proof. */
static int fitting(const struct pace *p, double alone, double position)
{
    int least = clamp(PACE_LEAST, 1, p->max_rows);
    if (alone <= 0 || p->row_us <= 0)
        return least;
    double target = p->target_us > 0 ? p->target_us : TIMES * alone;
    double first = (target - alone) / (p->row_us * (1 + position / p->context));
    double n = (target - alone) / (p->row_us * (1 + (position + first / 2) / p->context));
    return clamp(n, least, clamp(2.0 * p->n_last, least, p->max_rows));
}

int pace_rows(const struct pace *p, const struct pace_load *load)
{
    if (load->n_decoding == 0 || p->target_us < 0)
        return p->max_rows;
    bool is_known = p->alone_us[size_of(load->n_decoding)] > 0;
    if (p->n_mixed >= (is_known ? PACE_AGE : PACE_NEW))
        return 0; /* the decoding rows are to be timed */
    int n = fitting(p, alone_us(p, load->n_decoding), load->position);
    /* a short rest comes along: it would cost the others a further mixed step */
    return load->n_left <= 2 * n ? clamp((double)load->n_left, 0, p->max_rows) : n;
}

/* The estimate after another time, which alone at most doubles it. */
static double follow(double estimate, double seen, double up, double down)
{
    if (estimate <= 0)
        return seen;
    if (seen > 2 * estimate)
        seen = 2 * estimate;
    return estimate + (seen - estimate) * (seen > estimate ? up : down);
}

void pace_learn(struct pace *p, const struct pace_step *s, double us)
{
    if (s->n_decoding == 0)
        return; /* rows of large chunks are cheaper than those beside others */
    double *alone = &p->alone_us[size_of(s->n_decoding)];
    if (s->n_prompt == 0) {
        *alone = follow(*alone, us, SLOWLY, SOON);
        p->n_mixed = 0;
        return;
    }
    p->n_mixed++;
    if (s->n_prompt < PACE_TELLING)
        return;
    p->n_last = s->n_prompt;
    if (*alone <= 0)
        return;
    double row = (us - *alone) / (s->n_prompt + (double)s->positions / p->context);
    p->row_us = follow(p->row_us, row > CHEAPEST ? row : CHEAPEST, SOON, SLOWLY);
}
