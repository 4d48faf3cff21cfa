/* The table of a model's tensors: claims, completeness, and rows as f32. */
#include "core/model/source.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "core/base/dtype.h"
#include "core/base/log.h"
#include "core/base/mem.h"
#include "core/model/desc.h"
#include "core/model/gguf_model.h"
#include "core/model/hf_tensors.h"

struct source *source_open(const char *path, struct err *err)
{
    struct stat st;
    if (stat(path, &st) < 0) {
        err_set(err, ERR_NOT_FOUND, "%s; " SOURCE_ACCEPTED, strerror(errno));
        return NULL;
    }
    return S_ISDIR(st.st_mode) ? hf_tensors_open(path, err) : gguf_model_open(path, err);
}

struct source *source_new(const struct model_desc *d, enum role_names names)
{
    struct source *src = xcalloc(1, sizeof *src);
    src->desc = *d;
    src->names = names;
    src->n_slots = roles_n_slots(d);
    src->tensors = xcalloc(src->n_slots, sizeof *src->tensors);
    return src;
}

void source_free(struct source *src)
{
    if (!src)
        return;
    for (size_t i = 0; i < src->n_files; i++)
        mapped_file_close(&src->files[i]);
    free(src->files);
    free(src->tensors);
    free(src);
}

size_t source_bytes(const struct source *src)
{
    size_t n = 0;
    for (size_t i = 0; i < src->n_files; i++)
        n += src->files[i].len;
    return n;
}

int source_claim(struct source *src, const char *name, const struct source_tensor *t,
                 struct err *err)
{
    size_t slot;
    if (!roles_find(src->names, name, src->desc.n_layers, &slot))
        return err_set(err, ERR_INVALID,
                       "tensor \"%.100s\" is not one of a Llama model of %d layers", name,
                       src->desc.n_layers);
    if (src->tensors[slot].data)
        return err_set(err, ERR_INVALID, "tensor \"%.100s\" is there twice", name);
    src->tensors[slot] = *t;
    return 0;
}

/* A head beside tied embeddings is what torch saves of two names for one tensor; if it
 * differs, the config is wrong about it and the head counts, as transformers decides
 * since version 5. */
static void settle_tied_head(struct source *src)
{
    const struct source_tensor *e = &src->tensors[ROLE_EMBED];
    struct source_tensor *h = &src->tensors[ROLE_HEAD];
    size_t row, bytes;
    if (!src->desc.is_tied || !h->data || !e->data || h->n_out != e->n_out ||
        h->n_in != e->n_in)
        return;
    if (h->format == e->format && dequant_bytes(h->format, h->n_in, &row) &&
        mem_mul(row, h->n_out, &bytes) && memcmp(h->data, e->data, bytes) == 0) {
        memset(h, 0, sizeof *h);
        return;
    }
    log_warn("boot",
             "the output head differs from the embeddings although they are called tied; "
             "the head is used");
    src->desc.is_tied = false;
}

static int check_slot(const struct source *src, size_t slot, struct err *err)
{
    const struct source_tensor *t = &src->tensors[slot];
    char name[128];
    int layer;
    enum role role = roles_of_slot(slot, &layer);
    roles_name(src->names, slot, name, sizeof name);
    if (!roles_is_expected(&src->desc, role)) {
        if (t->data)
            return err_set(err, ERR_INVALID,
                           "tensor \"%s\" does not fit the configuration, which has none",
                           name);
        return 0;
    }
    if (!t->data)
        return err_set(err, ERR_INVALID, "tensor \"%s\" is missing", name);
    struct role_shape want = roles_shape(&src->desc, role);
    if (t->n_out == (size_t)want.n_out && t->n_in == (size_t)want.n_in)
        return 0;
    if (want.n_in)
        return err_set(err, ERR_INVALID,
                       "tensor \"%s\" has shape [%zu, %zu], expected [%d, %d]", name,
                       t->n_out, t->n_in, want.n_out, want.n_in);
    return err_set(err, ERR_INVALID, "tensor \"%s\" has shape [%zu%s], expected [%d]", name,
                   t->n_out, t->n_in ? ", ..." : "", want.n_out);
}

int source_complete(struct source *src, struct err *err)
{
    settle_tied_head(src);
    for (size_t slot = 0; slot < src->n_slots; slot++)
        if (slot != ROLE_INV_FREQ && check_slot(src, slot, err) < 0)
            return -1;
    return 0;
}

/* Where the file keeps row r of a checkpoint: within a head, pair i's halves are rows i
 * and i + Dh/2 here, but 2i and 2i + 1 there. */
static size_t stored_row(const struct source_tensor *t, size_t r)
{
    if (!t->interleaved)
        return r;
    size_t head_dim = (size_t)t->interleaved, half = head_dim / 2, in_head = r % head_dim;
    return r - in_head + 2 * (in_head % half) + in_head / half;
}

void source_read_rows(const struct source_tensor *t, size_t first, size_t n, float *dst)
{
    size_t row_bytes = 0;
    dequant_bytes(t->format, t->n_in, &row_bytes);
    for (size_t i = 0; i < n; i++)
        dequant(t->format, t->data + stored_row(t, first + i) * row_bytes,
                dst + i * t->n_in, t->n_in);
}

void source_read_row_bf16(const struct source_tensor *t, size_t row, float *scratch,
                          uint16_t *dst)
{
    if (t->format == FORMAT_BF16) {
        memcpy(dst, t->data + stored_row(t, row) * t->n_in * sizeof *dst,
               t->n_in * sizeof *dst);
        return;
    }
    source_read_rows(t, row, 1, scratch);
    dtype_to_bf16(scratch, dst, t->n_in);
}

void source_forget_rows(const struct source *src, const struct source_tensor *t, size_t first,
                        size_t n)
{
    size_t row_bytes = 0;
    dequant_bytes(t->format, t->n_in, &row_bytes);
    if (first + n > t->n_out)
        n = t->n_out - first;
    for (size_t i = 0; i < src->n_files; i++)
        mapped_file_forget(&src->files[i], t->data + first * row_bytes, n * row_bytes);
}

void source_read_vector(const struct source_tensor *t, float *dst)
{
    if (!t->interleaved) {
        dequant(t->format, t->data, dst, t->n_out);
        return;
    }
    float *stored = xcalloc(t->n_out, sizeof *stored);
    dequant(t->format, t->data, stored, t->n_out);
    for (size_t i = 0; i < t->n_out; i++)
        dst[i] = stored[stored_row(t, i)];
    free(stored);
}

void source_inv_freq(const struct source *src, float *inv_freq)
{
    desc_inv_freq(&src->desc, inv_freq);
    for (int i = 0; src->rope_factors && i < src->desc.head_dim / 2; i++) {
        float factor;
        memcpy(&factor, src->rope_factors + sizeof factor * (size_t)i, sizeof factor);
        inv_freq[i] /= factor;
    }
}
