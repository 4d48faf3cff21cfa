/* Products with int8 and int4 weights in portable C, for any CPU. */
#include "core/kernels/kernels.h"
#include "core/kernels/quant_rows.h"

#include <math.h>

/* What a packed group of rows has for one of them and one group of inputs. */
struct part {
    float scale;
    int32_t start;
    const char *codes; /* a quad every 4 * n bytes */
};

static struct part part_of(const char *x, int r, int n)
{
    struct part p = {.codes = x + 8 * n + 4 * r};
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

/* Half a group: sixteen outputs' parts grow by the row's scale times the sum. */
static void add_half(enum dtype t, const uint8_t *w, struct part p, int n, float out[16])
{
    int32_t sum[16];
    for (int o = 0; o < 16; o++)
        sum[o] = p.start;
    for (int q = 0; q < QUANT_HALF / 4; q++)
        if (t == DTYPE_INT8)
            add_quad(sum, w + q * QUANT_LINE, p.codes + q * 4 * n, 0, 0xff);
        else
            add_quad(sum, w + q / 2 * QUANT_LINE, p.codes + q * 4 * n, q % 2 * 4, 0xf);
    for (int o = 0; o < 16; o++)
        out[o] = fmaf((float)sum[o], p.scale, out[o]);
}

/* Row r of n packed together, with one panel. */
static void one_row(enum dtype t, const char *x, int r, int n, const char *w, int K, float *y)
{
    enum { HALVES = QUANT_BLOCK / QUANT_HALF };
    size_t codes = (quant_block_bytes(t) - QUANT_LINE) / HALVES; /* of half a group */
    memset(y, 0, 16 * sizeof *y);
    for (int k = 0; k < K; k += QUANT_BLOCK, w += quant_block_bytes(t))
        for (size_t g = 0; g < 2; g++) {
            float sum[16] = {0};
            for (size_t h = 2 * g; h < 2 * g + 2; h++, x += (8 + QUANT_HALF) * n)
                add_half(t, (const uint8_t *)w + QUANT_LINE + h * codes, part_of(x, r, n), n, sum);
            for (size_t o = 0; o < 16; o++)
                y[o] =
                    fmaf(sum[o], bf16_to_f32(((const uint16_t *)(const void *)w)[2 * o + g]), y[o]);
        }
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
