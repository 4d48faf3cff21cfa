/* The container of a GGUF file (versions 2 and 3, little-endian): metadata and tensors,
 * every bound checked.
 *
 * Thread: any. The view borrows the bytes, which must stay unchanged and mapped; numbers
 * in it are unaligned and read by memcpy. Limits: 4096 keys, 65536 tensors, strings
 * within the file, no arrays of arrays, tensors gapless and aligned. Source: the GGUF
 * specification of ggml.
 *
 *     struct gguf g;
 *     uint64_t n_layers;
 *     if (gguf_parse(&g, bytes, len, err) < 0) return -1;
 *     if (gguf_u64(&g, "llama.block_count", &n_layers)) ...
 *     gguf_fini(&g);
 */
#ifndef PREFIXD_GGUF_H
#define PREFIXD_GGUF_H

#include "core/base/err.h"
#include "core/model/dequant.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum gguf_type {
    GGUF_U8,
    GGUF_I8,
    GGUF_U16,
    GGUF_I16,
    GGUF_U32,
    GGUF_I32,
    GGUF_F32,
    GGUF_BOOL,
    GGUF_STRING,
    GGUF_ARRAY,
    GGUF_U64,
    GGUF_I64,
    GGUF_F64,
    GGUF_N_TYPES,
};

struct gguf_string { /* not NUL-terminated */
    const char *s;
    size_t len;
};

struct gguf_value {
    struct gguf_string key;
    enum gguf_type type;       /* of the elements if is_array */
    bool is_array;
    uint64_t n;                /* elements; 1 if no array */
    const unsigned char *data; /* as in the file */
    size_t len;
};

enum { GGUF_MAX_DIMS = 4 };

struct gguf_tensor {
    struct gguf_string name;
    int n_dims;
    uint64_t dims[GGUF_MAX_DIMS]; /* the fastest first: [n_in, n_out] of a matrix */
    enum tensor_format format;
    const unsigned char *data;
    size_t len;
};

struct gguf {
    struct gguf_value *values;
    size_t n_values;
    struct gguf_tensor *tensors;
    size_t n_tensors;
};

int gguf_parse(struct gguf *g, const void *bytes, size_t len, struct err *err);
void gguf_fini(struct gguf *g);

/* NULL if the key is not there. The typed readers are false also for another type or range:
 * u64 takes every integer type from 0 up, f64 F32 and F64. */
const struct gguf_value *gguf_find(const struct gguf *g, const char *key);
bool gguf_u64(const struct gguf *g, const char *key, uint64_t *out);
bool gguf_f64(const struct gguf *g, const char *key, double *out);
bool gguf_bool(const struct gguf *g, const char *key, bool *out);
bool gguf_string(const struct gguf *g, const char *key, struct gguf_string *out);

bool gguf_string_is(struct gguf_string s, const char *text);

/* The strings of a string array, one after the other: *at starts at 0. */
struct gguf_string gguf_next_string(const struct gguf_value *v, size_t *at);

#endif
