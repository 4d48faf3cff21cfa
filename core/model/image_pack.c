/* Threads that take piece after piece of the tensors: read rows, lay them out in panels, digest
 * the result. */
#include "core/model/image_pack.h"

#include <sodium.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/buf.h"
#include "core/base/check.h"
#include "core/base/clock.h"
#include "core/base/digest.h"
#include "core/base/log.h"
#include "core/base/mem.h"
#include "core/model/desc.h"
#include "core/model/image.h"
#include "core/model/panels.h"
#include "core/model/progress.h"
#include "core/model/quant_panel.h"
#include "core/model/source.h"

/* A piece stays in a core's cache from packing to its digest. */
enum { SUM_BYTES = 32, PIECE_BYTES = 512 << 10 };

/* Some panels of a matrix, or a whole vector. */
struct piece {
    size_t slot, first_row, offset, bytes; /* offset: from the start of the image */
};

struct cut {
    struct piece *pieces;
    unsigned char (*sums)[SUM_BYTES]; /* [n] */
    size_t n;
};

/* A thread's own memory: a row as f32, and the rows of a panel as they are kept. */
struct scratch {
    float *row;     /* [max_n_in] */
    uint32_t *rows; /* [PANEL, max_n_in] */
};

struct packing {
    const struct source *src;
    unsigned char *base;
    const struct image_tensor *table;
    struct cut cut;
    struct scratch scratch[IMAGE_PACK_THREADS];
    struct progress progress;
};

/* ---- pieces -------------------------------------------------------------------------------- */

static size_t n_panels_of(const struct image_tensor *t)
{
    return t->n_in ? ((size_t)t->n_out + PANEL - 1) / PANEL : 1;
}

static size_t panels_of_piece(const struct image_tensor *t)
{
    size_t n = PIECE_BYTES / (t->bytes / n_panels_of(t));
    return n ? n : 1;
}

static size_t n_pieces_of(const struct image_tensor *t)
{
    if (!t->bytes)
        return 0;
    return (n_panels_of(t) + panels_of_piece(t) - 1) / panels_of_piece(t);
}

static void cut_tensor(struct cut *c, const struct image_tensor *t, size_t slot)
{
    size_t n_panels = n_panels_of(t), panel_bytes = t->bytes / n_panels, step = panels_of_piece(t);
    for (size_t first = 0; first < n_panels; first += step) {
        size_t n = n_panels - first < step ? n_panels - first : step;
        c->pieces[c->n++] = (struct piece){.slot = slot,
                                           .first_row = first * PANEL,
                                           .offset = t->offset + first * panel_bytes,
                                           .bytes = n * panel_bytes};
    }
}

/* The same pieces of an image whoever cuts it: its digest is taken of them. */
static struct cut cut_image(const struct image_tensor *table, size_t n_slots)
{
    struct cut c = {0};
    size_t n = 0;
    for (size_t i = 0; i < n_slots; i++)
        n += n_pieces_of(&table[i]);
    c.pieces = xcalloc(n, sizeof *c.pieces);
    c.sums = xcalloc(n, sizeof *c.sums);
    for (size_t i = 0; i < n_slots; i++)
        if (table[i].bytes)
            cut_tensor(&c, &table[i], i);
    return c;
}

static void cut_free(struct cut *c)
{
    free(c->pieces);
    free(c->sums);
}

/* BLAKE2b: four times as fast as SHA-256 where the CPU's instruction for it is not used. */
static void sum_piece(const struct cut *c, size_t i, const unsigned char *base)
{
    const struct piece *p = &c->pieces[i];
    crypto_generichash(c->sums[i], SUM_BYTES, base + p->offset, p->bytes, NULL, 0);
}

/* ---- packing ------------------------------------------------------------------------------- */

static void note_done(struct packing *p, size_t bytes)
{
    if (progress_add(&p->progress, bytes, clock_us() / 1000))
        log_info("boot", "packing the weights: %zu of %zu MiB",
                 progress_done(&p->progress) >> 20, p->progress.total >> 20);
}

/* Rows as bf16, behind an odd number of inputs a zero. */
static void read_rows_bf16(const struct source_tensor *from, size_t first, size_t n, float *row,
                           uint16_t *rows)
{
    size_t n_in = from->n_in, stride = (n_in + 1) / 2 * 2;
    for (size_t r = 0; r < n; r++, rows += stride) {
        source_read_row_bf16(from, first + r, row, rows);
        if (stride > n_in)
            rows[n_in] = 0;
    }
}

/* One panel of a matrix; rows that it has not are zero. */
static void pack_panel(const struct source_tensor *from, size_t first, enum dtype dtype,
                       const struct scratch *mine, void *panel)
{
    size_t n = from->n_out - first < PANEL ? from->n_out - first : PANEL, n_in = from->n_in;
    size_t words = dtype == DTYPE_BF16 ? (n_in + 1) / 2 : n_in; /* of a row as it is read */
    if (dtype == DTYPE_BF16)
        read_rows_bf16(from, first, n, mine->row, (uint16_t *)(void *)mine->rows);
    else
        source_read_rows(from, first, n, (float *)(void *)mine->rows);
    memset(mine->rows + words * n, 0, words * (PANEL - n) * sizeof *mine->rows);
    if (dtype == DTYPE_F32 || dtype == DTYPE_BF16)
        panels_interleave(mine->rows, words, panel);
    else
        quant_panel_pack(dtype, (const float *)(const void *)mine->rows, n_in, panel);
}

static void pack_matrix(const struct packing *p, const struct piece *piece,
                        const struct scratch *mine)
{
    const struct image_tensor *t = &p->table[piece->slot];
    const struct source_tensor *from = &p->src->tensors[piece->slot];
    size_t panel_bytes = t->bytes / n_panels_of(t), row = piece->first_row;
    for (size_t at = 0; at < piece->bytes; at += panel_bytes, row += PANEL)
        pack_panel(from, row, (enum dtype)t->dtype, mine, p->base + piece->offset + at);
    source_forget_rows(p->src, from, piece->first_row, row - piece->first_row);
}

static void pack_piece(void *arg, int task, int thread)
{
    struct packing *p = arg;
    const struct piece *piece = &p->cut.pieces[task];
    void *out = p->base + piece->offset;
    if (piece->slot == ROLE_INV_FREQ)
        source_inv_freq(p->src, out);
    else if (p->table[piece->slot].n_in)
        pack_matrix(p, piece, &p->scratch[thread]);
    else
        source_read_vector(&p->src->tensors[piece->slot], out);
    sum_piece(&p->cut, (size_t)task, p->base);
    note_done(p, piece->bytes);
}

static size_t max_n_in(const struct source *src)
{
    size_t n = 0;
    for (size_t i = 0; i < src->n_slots; i++)
        if (src->tensors[i].n_in > n)
            n = src->tensors[i].n_in;
    return n;
}

static bool alloc_scratch(struct packing *p, int n_threads)
{
    size_t n = max_n_in(p->src);
    CHECK(n_threads <= IMAGE_PACK_THREADS);
    for (int i = 0; i < n_threads; i++) {
        struct scratch *mine = &p->scratch[i];
        mine->row = mem_try_aligned(n, sizeof *mine->row);
        mine->rows = mem_try_aligned(n + 1, PANEL * sizeof *mine->rows);
        if (!mine->row || !mine->rows)
            return false;
    }
    return true;
}

static void free_scratch(struct packing *p)
{
    for (int i = 0; i < IMAGE_PACK_THREADS; i++) {
        free(p->scratch[i].row);
        free(p->scratch[i].rows);
    }
}

/* ---- the digest ---------------------------------------------------------------------------- */

/* Which thread packed what leaves no trace: sums are taken in the order of pieces. */
static void digest_of(const struct image_header *h, const struct cut *c, char hex[DIGEST_HEX + 1])
{
    const char *dtype = dtype_name((enum dtype)h->dtype);
    struct buf text = {0};
    struct digest d;
    desc_render(&h->desc, &text);
    digest_init(&d);
    digest_part(&d, text.data, text.len);
    digest_part(&d, h->layout, strlen(h->layout));
    digest_part(&d, dtype, strlen(dtype));
    digest_part(&d, c->sums, c->n * SUM_BYTES);
    digest_hex(&d, hex);
    buf_free(&text);
}

static const struct image_tensor *table_of(const unsigned char *base)
{
    const struct image_header *h = (const struct image_header *)(const void *)base;
    return (const struct image_tensor *)(const void *)(base + h->table_offset);
}

void image_pack_digest(const unsigned char *base, char hex[DIGEST_HEX + 1])
{
    const struct image_header *h = (const struct image_header *)(const void *)base;
    struct cut cut = cut_image(table_of(base), h->n_slots);
    CHECK(sodium_init() >= 0);
    for (size_t i = 0; i < cut.n; i++)
        sum_piece(&cut, i, base);
    digest_of(h, &cut, hex);
    cut_free(&cut);
}

int image_pack_tensors(const struct source *src, unsigned char *base, struct par *par,
                       struct err *err)
{
    struct image_header *h = (struct image_header *)(void *)base;
    struct packing p = {
        .src = src,
        .base = base,
        .table = table_of(base),
        .cut = cut_image(table_of(base), src->n_slots),
    };
    CHECK(sodium_init() >= 0);
    progress_init(&p.progress, h->total_bytes, clock_us() / 1000);
    bool has_scratch = alloc_scratch(&p, par_n_threads(par));
    if (has_scratch) {
        par_for(par, (int)p.cut.n, pack_piece, &p);
        digest_of(h, &p.cut, h->digest);
    }
    free_scratch(&p);
    cut_free(&p.cut);
    return has_scratch ? 0 : err_set(err, ERR_NO_MEMORY, "no memory for packing the model");
}
