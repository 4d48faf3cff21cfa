/* A model's files as one table of checked byte ranges: what the packer reads, whatever
 * the format was.
 *
 * Thread: boot. Opened from a Hugging Face directory or a GGUF file, both mapped
 * read-only until source_free; complete (every expected tensor there, of its shape, none
 * besides) or refused by name.
 *
 *     struct source *src = source_open(path, &err);
 *     const struct source_tensor *q = &src->tensors[roles_slot(ROLE_Q, 3)];
 *     source_read_rows(q, 0, 16, rows);
 *     source_free(src);
 */
#ifndef PREFIXD_SOURCE_H
#define PREFIXD_SOURCE_H

#include "core/base/err.h"
#include "core/model/dequant.h"
#include "core/model/mapped_file.h"
#include "core/model/model.h"
#include "core/model/roles.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct source_tensor {
    const unsigned char *data; /* NULL: not in the file */
    enum tensor_format format;
    size_t n_out, n_in; /* [n_out, n_in]; a vector has n_in = 0 */
    int interleaved; /* head_dim if rotated pairs lie side by side in the file; else 0 */
};

struct source {
    struct model_desc desc;
    enum role_names names;
    struct source_tensor *tensors; /* [n_slots] */
    size_t n_slots;
    const unsigned char *rope_factors; /* divide inv_freq: f32 [head_dim / 2], or NULL */
    struct mapped_file *files;
    size_t n_files;
};

#define SOURCE_ACCEPTED                                                                    \
    "a Hugging Face directory (config.json, model.safetensors, tokenizer.json) or a "      \
    ".gguf file is accepted"

struct source *source_open(const char *path, struct err *err);
void source_free(struct source *src);
size_t source_bytes(const struct source *src); /* of its files */

/* For the two readers: an empty source for a checked description; */
struct source *source_new(const struct model_desc *d, enum role_names names);
/* puts a named tensor into its slot (refuses unknown names and second ones); */
int source_claim(struct source *src, const char *name, const struct source_tensor *t,
                 struct err *err);
/* and when all are in: settles tied heads, then refuses what is missing, misshapen or
 * not expected. */
int source_complete(struct source *src, struct err *err);

/* Rows [first, first + n) of a matrix, in the order of Hugging Face checkpoints
 * (rotation pairs half a head apart). dst: [n, n_in]. */
void source_read_rows(const struct source_tensor *t, size_t first, size_t n, float *dst);
/* One row as bf16, bit for bit where it is bf16 in the file. scratch: [n_in] */
void source_read_row_bf16(const struct source_tensor *t, size_t row, float *scratch,
                          uint16_t *dst);
/* Lets go of the mapped pages behind rows that have been read. Whoever reads them again may have to
 * wait: the page cache need not have kept them. */
void source_forget_rows(const struct source *src, const struct source_tensor *t, size_t first,
                        size_t n);
void source_read_vector(const struct source_tensor *t, float *dst); /* [n_out] */

void source_inv_freq(const struct source *src, float *inv_freq); /* [head_dim / 2] */

#endif
