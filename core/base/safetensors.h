/* Reads the header of a safetensors file that nobody vouches for, and hands out checked byte ranges.
 *
 * Thread: any. The view borrows the bytes: they must stay unchanged and mapped while it is used.
 * Follows the format's README and reference validation (huggingface/safetensors): header length within the file and below
 * max_header, offsets sorted and gapless from 0 to the end of the data, product of shape times size
 * equals the range (checked multiplication), no duplicate names, plain integers, `__metadata__` a map of
 * strings (ignored).
 *
 *     struct safetensors st;
 *     if (safetensors_parse(&st, bytes, len, &limits, err) < 0) return -1;
 *     const struct st_tensor *t = safetensors_find(&st, "prompt_embeddings");
 *     safetensors_fini(&st);
 */
#ifndef PREFIXD_SAFETENSORS_H
#define PREFIXD_SAFETENSORS_H

#include "core/base/dtype.h"
#include "core/base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { ST_MAX_DIMS = 8 };

struct st_tensor {
    const char *name; /* owned by the view */
    char dtype_text[8];  /* as written: "F32", "BF16", "I64"... */
    bool is_float;    /* dtype is one of ours */
    enum dtype dtype; /* if is_float */
    int n_dims;
    uint64_t dims[ST_MAX_DIMS];
    uint64_t n_elems;
    const unsigned char *data; /* unaligned, inside the caller's bytes */
    size_t len;
};

struct safetensors {
    struct st_tensor *tensors; /* in order of their data */
    size_t n_tensors;
};

struct st_limits {
    size_t max_header; /* bytes of the JSON header */
    size_t max_tensors;
};

int safetensors_parse(struct safetensors *st, const void *bytes, size_t len,
                      const struct st_limits *lim, struct err *err);
const struct st_tensor *safetensors_find(const struct safetensors *st, const char *name);
void safetensors_fini(struct safetensors *st);

#endif
