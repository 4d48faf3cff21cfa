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

static void begin(int32_t sum[16], int32_t start)
{
    for (int o = 0; o < 16; o++)
        sum[o] = start;
}

/* One quad of sixteen outputs; int4: the half of each byte at `shift`. */
static void add_quad(int32_t sum[16], const uint8_t *w, const char *x, int shift, int mask)
{
    for (int o = 0; o < 16; o++)
        for (int i = 0; i < 4; i++)
            sum[o] += (w[o * 4 + i] >> shift & mask) * (signed char)x[i];
}

/* One group of the row's inputs with weights whose codes begin at w. */
static void int8_part(struct part p, int n, const uint8_t *w, float out[16])
{
    int32_t sum[16];
    begin(sum, p.start);
    for (int q = 0; q < QUANT_GROUP / 4; q++)
        add_quad(sum, w + q * QUANT_LINE, p.codes + q * 4 * n, 0, 0xff);
    for (int o = 0; o < 16; o++)
        out[o] = fmaf((float)sum[o], p.scale, out[o]);
}

static void int8_row(const char *x, int r, int n, const char *w, int K, float *y)
{
    for (int left = (int)quant_padded(DTYPE_INT8, (size_t)K); left > 0; left -= INT8_GROUP) {
        int parts = (left < INT8_GROUP ? left : INT8_GROUP) / QUANT_GROUP;
        const float *scale = (const float *)(const void *)w;
        float sum[16] = {0};
        w += QUANT_LINE;
        for (int i = 0; i < parts; i++, x += (8 + QUANT_GROUP) * n, w += QUANT_GROUP * 16)
            int8_part(part_of(x, r, n), n, (const uint8_t *)w, sum);
        for (int o = 0; o < 16; o++)
            y[o] = fmaf(sum[o], scale[o], y[o]);
    }
}

/* The first or second half of a block. */
static void int4_half(struct part p, int n, const char *w, int half, float *y)
{
    int32_t sum[16];
    const uint16_t *scale = (const uint16_t *)(const void *)w + half;
    const uint8_t *code = (const uint8_t *)w + QUANT_LINE + half * 4 * QUANT_LINE;
    begin(sum, p.start);
    for (int q = 0; q < INT4_GROUP / 4; q++)
        add_quad(sum, code + q / 2 * QUANT_LINE, p.codes + q * 4 * n, q % 2 * 4, 0xf);
    for (int o = 0; o < 16; o++)
        y[o] = fmaf((float)sum[o], bf16_to_f32(scale[2 * o]) * p.scale, y[o]);
}

static void int4_row(const char *x, int r, int n, const char *w, int K, float *y)
{
    for (int left = K; left > 0; left -= INT4_BLOCK, w += INT4_BLOCK_BYTES)
        for (int half = 0; half < 2; half++, x += (8 + INT4_GROUP) * n)
            int4_half(part_of(x, r, n), n, w, half, y);
}

typedef void (*row_fn)(const char *x, int r, int n, const char *w, int K, float *y);

static void panels(const struct panel_args *a, row_fn row)
{
    for (int r = 0; r < a->n_rows; r++) {
        int first = r / QUANT_ROWS * QUANT_ROWS, n = a->n_rows - first;
        const char *x = (const char *)a->x + (size_t)first * a->ldx, *w = a->w[0];
        float *y = a->y + (size_t)r * a->ldy;
        for (int j = 0; j < a->n_panels; j++, w += a->panel_step, y += 16) {
            memset(y, 0, 16 * sizeof *y);
            row(x, r - first, n < QUANT_ROWS ? n : QUANT_ROWS, w, a->K, y);
        }
    }
}

static void panels_int8(const struct panel_args *a)
{
    panels(a, int8_row);
}

static void panels_int4(const struct panel_args *a)
{
    panels(a, int4_row);
}

const struct quant_kernels quant_generic = {quantise, panels_int8, panels_int4};
