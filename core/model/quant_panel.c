/* Scales and codes of weights. */
#include "core/model/quant_panel.h"

#include "core/kernels/quant.h"

#include <math.h>

static float largest_of(const float *w, size_t n)
{
    float most = 0;
    for (size_t i = 0; i < n; i++) {
        if (!isfinite(w[i]))
            return NAN;
        most = fabsf(w[i]) > fabsf(most) ? w[i] : most;
    }
    return most;
}

/* Where input i of output `lane` lies in its group of int8. */
static size_t int8_at(size_t i, size_t lane)
{
    return i / 4 * QUANT_LINE + lane * 4 + i % 4;
}

static void int8_group(const float *w, size_t n, size_t lane, float *scales, uint8_t *codes)
{
    float largest = fabsf(largest_of(w, n));
    float inverse = largest >= 1.5e-36f ? 127 / largest : 0; /* else infinite */
    scales[lane] = largest / 127;
    for (size_t i = 0; i < n && largest == largest; i++)
        codes[int8_at(i, lane)] = (uint8_t)(INT8_ZERO + (int)nearbyintf(w[i] * inverse));
}

static void int8_pack(const float *rows, size_t n_in, unsigned char *panel)
{
    size_t padded = quant_padded(DTYPE_INT8, n_in);
    for (size_t k = 0; k < n_in; k += INT8_GROUP) {
        size_t n = n_in - k < INT8_GROUP ? n_in - k : INT8_GROUP;
        size_t len = padded - k < INT8_GROUP ? padded - k : INT8_GROUP;
        memset(panel + QUANT_LINE, INT8_ZERO, len * 16);
        for (size_t o = 0; o < 16; o++)
            int8_group(rows + o * n_in + k, n, o, (float *)(void *)panel, panel + QUANT_LINE);
        panel += QUANT_LINE + len * 16;
    }
}

static void int8_row(const unsigned char *panel, size_t lane, size_t n_in, float *out)
{
    for (size_t k = 0; k < n_in; k += INT8_GROUP, panel += QUANT_LINE + INT8_GROUP * 16) {
        float scale = ((const float *)(const void *)panel)[lane];
        for (size_t i = k; i < n_in && i < k + INT8_GROUP; i++)
            out[i] = scale * (float)(panel[QUANT_LINE + int8_at(i - k, lane)] - INT8_ZERO);
    }
}

/* ---- int4 ---- */

/* The byte of input i of a block, and where its four bits lie in it. */
static size_t int4_at(size_t i, size_t lane)
{
    return i / 8 * QUANT_LINE + lane * 4 + i % 4;
}

static int int4_shift(size_t i)
{
    return i / 4 % 2 * 4;
}

static int int4_code(float w, float inverse)
{
    int code = (int)nearbyintf(w * inverse);
    return code < -8 ? -8 : code > 7 ? 7 : code;
}

/* The scale that leaves the smallest squares of errors, of those that put the largest weight near -8. */
static float int4_scale(const float *w, size_t n)
{
    float largest = largest_of(w, n), best = bf16_to_f32(f32_to_bf16(largest / -8));
    return best;
}

static void int4_group(const float *w, size_t first, size_t n, size_t lane, uint16_t *scale, unsigned char *codes)
{
    float s = int4_scale(w, n), inverse = fabsf(s) >= 1.5e-36f ? 1 / s : 0;
    *scale = f32_to_bf16(s);
    for (size_t i = 0; i < n && s == s; i++) {
        unsigned char *at = &codes[int4_at(first + i, lane)];
        int shift = int4_shift(first + i), code = INT4_ZERO + int4_code(w[i], inverse);
        *at = (unsigned char)((*at & ~(0xf << shift)) | code << shift);
    }
}

static void int4_pack(const float *rows, size_t n_in, unsigned char *panel)
{
    memset(panel, 0, quant_panel_bytes(DTYPE_INT4, n_in));
    for (size_t k = 0; k < n_in; k += INT4_BLOCK, panel += INT4_BLOCK_BYTES) {
        memset(panel + QUANT_LINE, INT4_ZERO * 0x11, INT4_BLOCK_BYTES - QUANT_LINE);
        for (size_t first = 0; first < INT4_BLOCK && k + first < n_in; first += INT4_GROUP)
            for (size_t o = 0; o < 16; o++) {
                size_t left = n_in - k - first, n = left < INT4_GROUP ? left : INT4_GROUP;
                uint16_t *scales = (uint16_t *)(void *)panel;
                int4_group(rows + o * n_in + k + first, first, n, o, scales + 2 * o + first / INT4_GROUP,
                           panel + QUANT_LINE);
            }
    }
}

static void int4_row(const unsigned char *panel, size_t lane, size_t n_in, float *out)
{
    for (size_t i = 0; i < n_in; i++) {
        const unsigned char *block = panel + i / INT4_BLOCK * INT4_BLOCK_BYTES;
        size_t in = i % INT4_BLOCK;
        int code = block[QUANT_LINE + int4_at(in, lane)] >> int4_shift(in) & 0xf;
        out[i] = bf16_to_f32(((const uint16_t *)(const void *)block)[2 * lane + in / INT4_GROUP]) *
                 (float)(code - INT4_ZERO);
    }
}

void quant_panel_pack(enum dtype t, const float *rows, size_t n_in, void *panel)
{
    if (t == DTYPE_INT8)
        int8_pack(rows, n_in, panel);
    else
        int4_pack(rows, n_in, panel);
}

void quant_panel_row(enum dtype t, const void *panel, size_t lane, size_t n_in, float *out)
{
    if (t == DTYPE_INT8)
        int8_row(panel, lane, n_in, out);
    else
        int4_row(panel, lane, n_in, out);
}
