/* Products with int8 and int4 weights in portable C, for any CPU. */
#include "core/kernels/kernels.h"
#include "core/kernels/quant_rows.h"

#include <math.h>

/* What a packed group of rows has for one of them and the inputs that share its scale. */
struct packed {
    float scale;
    int32_t start;
    const char *codes; /* a quad every 4 * n bytes */
};

static struct packed packed_of(const char *x, int r, int n)
{
    struct packed p = {.codes = x + 8 * n + 4 * r};
    memcpy(&p.scale, x + 4 * r, 4);
    memcpy(&p.start, x + 4 * n + 4 * r, 4);
    return p;
}

/* One quad of sixteen outputs; int4: the half of each byte at `shift`. */
static void add_quad(int32_t sum[16], const uint8_t *w, const char *x, int shift, int mask)
{
    for (int o = 0; o < 16; o++)
        for (int i = 0; i < 4; i++)
            sum[o] += (w[o * 4 + i] >> shift & mask) * (signed char)x[i];
}

/* A block of int8. */
static void add_block(const char *w, struct packed p, int n, float y[16])
{
    int32_t sum[16];
    float scale[16];
    memcpy(scale, w, sizeof scale);
    for (int o = 0; o < 16; o++)
        sum[o] = p.start;
    for (int q = 0; q < QUANT_BLOCK / 4; q++)
        add_quad(sum, (const uint8_t *)w + (q + 1) * QUANT_LINE, p.codes + q * 4 * n, 0, 0xff);
    for (int o = 0; o < 16; o++)
        y[o] = fmaf((float)sum[o], scale[o] * p.scale, y[o]);
}

/* Half a group of int4: sixteen outputs' parts grow by the row's scale times the sum. */
static void add_half(const uint8_t *w, struct packed p, int n, float part[16])
{
    int32_t sum[16];
    for (int o = 0; o < 16; o++)
        sum[o] = p.start;
    for (int q = 0; q < QUANT_HALF / 4; q++)
        add_quad(sum, w + q / 2 * QUANT_LINE, p.codes + q * 4 * n, q % 2 * 4, 0xf);
    for (int o = 0; o < 16; o++)
        part[o] = fmaf((float)sum[o], p.scale, part[o]);
}

/* A group of int4, the first or second of a block: x is its first half's. */
static void add_group(const char *w, int group, const char *x, int r, int n, float y[16])
{
    enum { LEN = QUANT_HALF / 8 * QUANT_LINE };
    const uint8_t *codes = (const uint8_t *)w + QUANT_LINE + 2 * group * LEN;
    const uint16_t *scales = (const void *)w;
    float part[16] = {0};
    add_half(codes, packed_of(x, r, n), n, part);
    add_half(codes + LEN, packed_of(x + (8 + QUANT_HALF) * n, r, n), n, part);
    for (int o = 0; o < 16; o++)
        y[o] = fmaf(part[o], bf16_to_f32(scales[2 * o + group]), y[o]);
}

/* Row r of n packed together, with one panel. */
static void one_row(enum dtype t, const char *x, int r, int n, const char *w, int K, float *y)
{
    memset(y, 0, 16 * sizeof *y);
    for (int k = 0; k < K; k += QUANT_BLOCK, w += quant_block_bytes(t))
        if (t == DTYPE_INT8) {
            add_block(w, packed_of(x, r, n), n, y);
            x += (8 + QUANT_BLOCK) * n;
        } else
            for (int group = 0; group < 2; group++, x += 2 * (8 + QUANT_HALF) * n)
                add_group(w, group, x, r, n, y);
}

static void panels(const struct panel_args *a, enum dtype t)
{
    for (int r = 0; r < a->n_rows; r++) {
        int first = r / QUANT_ROWS * QUANT_ROWS, n = a->n_rows - first;
        const char *x = (const char *)a->x + (size_t)first * a->ldx, *w = a->w[0];
        float *y = a->y + (size_t)r * a->ldy;
        for (int j = 0; j < a->n_panels; j++, w += a->panel_step, y += 16)
            one_row(t, x, r - first, n < QUANT_ROWS ? n : QUANT_ROWS, w, a->K, y);
    }
}

static void panels_int8(const struct panel_args *a)
{
    panels(a, DTYPE_INT8);
}

static void panels_int4(const struct panel_args *a)
{
    panels(a, DTYPE_INT4);
}

const struct quant_kernels quant_generic = {quantise, panels_int8, panels_int4};
