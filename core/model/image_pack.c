/* Threads that take tensor after tensor: read rows as f32, lay them out in panels,
 * digest the result. */
#include "core/model/image_pack.h"

#include <pthread.h>
#include <sodium.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "core/base/buf.h"
#include "core/base/check.h"
#include "core/base/digest.h"
#include "core/base/log.h"
#include "core/base/mem.h"
#include "core/model/desc.h"
#include "core/model/image.h"
#include "core/model/progress.h"
#include "core/model/quant_panel.h"
#include "core/model/source.h"

enum { MAX_THREADS = 16, SUM_BYTES = 32 };

struct packing {
    const struct source *src;
    unsigned char *base;
    const struct image_tensor *table;
    unsigned char (*sums)[SUM_BYTES]; /* [n_slots] */
    size_t max_n_in;
    atomic_size_t next; /* slot to take */
    atomic_bool has_failed;
    struct progress progress;
};

static int64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static void note_done(struct packing *p, size_t bytes)
{
    if (progress_add(&p->progress, bytes, now_ms()))
        log_info("boot", "packing the weights: %zu of %zu MiB",
                 progress_done(&p->progress) >> 20, p->progress.total >> 20);
}

/* rows: [PANEL, n_in] -> panel: [n_in, PANEL] */
static void interleave_f32(const float *rows, size_t n_in, float *panel)
{
    for (size_t i = 0; i < n_in; i++)
        for (size_t o = 0; o < PANEL; o++)
            panel[i * PANEL + o] = rows[o * n_in + i];
}

/* rows: [PANEL, n_in] -> panel: [n_in / 2, PANEL, 2], of an odd n_in the last pair half zero */
static void interleave_bf16(const float *rows, size_t n_in, uint16_t *panel)
{
    if (n_in % 2)
        memset(panel + (n_in - 1) * PANEL, 0, 2 * PANEL * sizeof *panel);
    for (size_t i = 0; i < n_in; i++)
        for (size_t o = 0; o < PANEL; o++)
            panel[(i / 2 * PANEL + o) * 2 + i % 2] = f32_to_bf16(rows[o * n_in + i]);
}

static void pack_matrix(struct packing *p, const struct source_tensor *from,
                        enum dtype dtype, float *rows, void *out)
{
    size_t n_in = from->n_in, panel_elems = matrix_panel_elems(dtype, n_in);
    for (size_t first = 0; first < from->n_out; first += PANEL) {
        size_t n = from->n_out - first < PANEL ? from->n_out - first : PANEL;
        source_read_rows(from, first, n, rows);
        memset(rows + n * n_in, 0, (PANEL - n) * n_in * sizeof *rows);
        if (dtype == DTYPE_F32)
            interleave_f32(rows, n_in, (float *)out + first / PANEL * panel_elems);
        else if (dtype != DTYPE_BF16)
            quant_panel_pack(dtype, rows, n_in, (char *)out + first / PANEL * panel_elems);
        else
            interleave_bf16(rows, n_in, (uint16_t *)out + first / PANEL * panel_elems);
        note_done(p, panel_elems * dtype_size(dtype));
    }
}

/* BLAKE2b: four times as fast as SHA-256 where the CPU's instruction for it is not used. */
static void sum_of(unsigned char sum[SUM_BYTES], const void *bytes, size_t len)
{
    crypto_generichash(sum, SUM_BYTES, bytes, len, NULL, 0);
}

static void pack_slot(struct packing *p, size_t slot, float *rows)
{
    const struct image_tensor *t = &p->table[slot];
    const struct source_tensor *from = &p->src->tensors[slot];
    void *out = p->base + t->offset;
    if (!t->bytes)
        return;
    if (slot == ROLE_INV_FREQ)
        source_inv_freq(p->src, out);
    else if (t->n_in)
        pack_matrix(p, from, (enum dtype)t->dtype, rows, out);
    else
        source_read_vector(from, out);
    sum_of(p->sums[slot], out, t->bytes);
}

static void *pack_some(void *arg)
{
    struct packing *p = arg;
    float *rows = mem_try_aligned(p->max_n_in * PANEL, sizeof *rows);
    if (!rows) {
        atomic_store(&p->has_failed, true);
        return NULL;
    }
    size_t slot;
    while ((slot = atomic_fetch_add(&p->next, 1)) < p->src->n_slots)
        pack_slot(p, slot, rows);
    free(rows);
    return NULL;
}

static int n_cores(void)
{
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    return n < 1 ? 1 : n < MAX_THREADS ? (int)n : MAX_THREADS;
}

/* The caller works too, so packing goes on when no thread can be started. */
static void pack_on_all_cores(struct packing *p)
{
    pthread_t threads[MAX_THREADS];
    int n = 0;
    while (n < n_cores() - 1 && pthread_create(&threads[n], NULL, pack_some, p) == 0)
        n++;
    pack_some(p);
    for (int i = 0; i < n; i++)
        pthread_join(threads[i], NULL);
}

/* Which thread packed what leaves no trace: sums are taken in the order of slots. */
static void digest_of(const struct image_header *h, unsigned char (*sums)[SUM_BYTES],
                      char hex[DIGEST_HEX + 1])
{
    const char *dtype = dtype_name((enum dtype)h->dtype);
    struct buf text = {0};
    struct digest d;
    desc_render(&h->desc, &text);
    digest_init(&d);
    digest_part(&d, text.data, text.len);
    digest_part(&d, h->layout, strlen(h->layout));
    digest_part(&d, dtype, strlen(dtype));
    digest_part(&d, sums, h->n_slots * SUM_BYTES);
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
    const struct image_tensor *table = table_of(base);
    unsigned char(*sums)[SUM_BYTES] = xcalloc(h->n_slots, sizeof *sums);
    CHECK(sodium_init() >= 0);
    for (size_t i = 0; i < h->n_slots; i++)
        if (table[i].bytes)
            sum_of(sums[i], base + table[i].offset, table[i].bytes);
    digest_of(h, sums, hex);
    free(sums);
}

int image_pack_tensors(const struct source *src, unsigned char *base, struct err *err)
{
    struct image_header *h = (struct image_header *)(void *)base;
    struct packing p = {
        .src = src,
        .base = base,
        .table = table_of(base),
        .sums = xcalloc(src->n_slots, sizeof *p.sums),
    };
    CHECK(sodium_init() >= 0);
    for (size_t i = 0; i < src->n_slots; i++)
        if (src->tensors[i].n_in > p.max_n_in)
            p.max_n_in = src->tensors[i].n_in;
    progress_init(&p.progress, h->total_bytes, now_ms());
    pack_on_all_cores(&p);
    digest_of(h, p.sums, h->digest);
    free(p.sums);
    if (atomic_load(&p.has_failed))
        return err_set(err, ERR_NO_MEMORY, "no memory for packing the model");
    return 0;
}
