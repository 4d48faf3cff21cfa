/* Parsing of GGUF containers. */
#include "core/model/gguf.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/check.h"
#include "core/base/mem.h"

enum {
    MAX_VALUES = 4096,
    MAX_TENSORS = 65536,
    MAX_KEY = 256,
    MAX_ALIGNMENT = 1 << 16,
    DEFAULT_ALIGNMENT = 32,
};

/* A reading place that cannot leave the file: after the first failure everything fails. */
struct cursor {
    const unsigned char *bytes;
    size_t len, at;
    bool is_bad;
};

static const unsigned char *take(struct cursor *c, uint64_t n)
{
    if (c->is_bad || n > c->len - c->at) {
        c->is_bad = true;
        return NULL;
    }
    const unsigned char *p = c->bytes + c->at;
    c->at += (size_t)n;
    return p;
}

static uint32_t load_u32(const unsigned char *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 |
           (uint32_t)p[3] << 24;
}

static uint64_t load_u64(const unsigned char *p)
{
    return load_u32(p) | (uint64_t)load_u32(p + 4) << 32;
}

static uint32_t take_u32(struct cursor *c)
{
    const unsigned char *p = take(c, 4);
    return p ? load_u32(p) : 0;
}

static uint64_t take_u64(struct cursor *c)
{
    const unsigned char *p = take(c, 8);
    return p ? load_u64(p) : 0;
}

static struct gguf_string take_string(struct cursor *c)
{
    uint64_t len = take_u64(c);
    const unsigned char *p = take(c, len);
    return (struct gguf_string){(const char *)p, p ? (size_t)len : 0};
}

static const size_t type_sizes[GGUF_N_TYPES] = {
    [GGUF_U8] = 1,  [GGUF_I8] = 1,  [GGUF_U16] = 2, [GGUF_I16] = 2,
    [GGUF_U32] = 4, [GGUF_I32] = 4, [GGUF_F32] = 4, [GGUF_BOOL] = 1,
    [GGUF_U64] = 8, [GGUF_I64] = 8, [GGUF_F64] = 8,
};

static int cut(struct err *err)
{
    return err_set(err, ERR_INVALID, "GGUF: the file ends too early");
}

static int read_value(struct cursor *c, struct gguf_value *v, struct err *err)
{
    v->key = take_string(c);
    uint32_t type = take_u32(c);
    v->n = 1;
    v->is_array = type == GGUF_ARRAY;
    if (v->is_array) {
        type = take_u32(c);
        v->n = take_u64(c);
    }
    if (c->is_bad)
        return cut(err);
    if (v->key.len == 0 || v->key.len > MAX_KEY || memchr(v->key.s, '\0', v->key.len))
        return err_set(err, ERR_INVALID,
                       "GGUF: a metadata key is empty, too long or holds NUL");
    if (type >= GGUF_N_TYPES || type == GGUF_ARRAY)
        return err_set(err, ERR_INVALID,
                       "GGUF: metadata \"%.*s\" has type %u, which is not known",
                       (int)v->key.len, v->key.s, type);
    v->type = (enum gguf_type)type;
    size_t start = c->at, bytes;
    if (v->type == GGUF_STRING) {
        /* Each takes at least 8 bytes, so a lying count ends with the file. */
        for (uint64_t i = 0; i < v->n && !c->is_bad; i++)
            take_string(c);
    } else if (mem_mul(v->n, type_sizes[type], &bytes)) {
        take(c, bytes);
    } else {
        c->is_bad = true;
    }
    if (c->is_bad)
        return cut(err);
    v->data = c->bytes + start;
    v->len = c->at - start;
    return 0;
}

static bool equal(struct gguf_string a, struct gguf_string b)
{
    return a.len == b.len && memcmp(a.s, b.s, a.len) == 0;
}

static int read_values(struct cursor *c, struct gguf *g, uint64_t n, struct err *err)
{
    if (n > MAX_VALUES)
        return err_set(err, ERR_INVALID, "GGUF: %llu metadata keys, at most %d are read",
                       (unsigned long long)n, MAX_VALUES);
    g->values = xcalloc((size_t)n, sizeof *g->values);
    for (; g->n_values < n; g->n_values++) {
        struct gguf_value *v = &g->values[g->n_values];
        if (read_value(c, v, err) < 0)
            return -1;
        for (size_t i = 0; i < g->n_values; i++)
            if (equal(g->values[i].key, v->key))
                return err_set(err, ERR_INVALID, "GGUF: metadata \"%.*s\" is there twice",
                               (int)v->key.len, v->key.s);
    }
    return 0;
}

/* Types that ggml has or had; NULL where a number was never given out. */
static const char *const ggml_types[] = {
    "F32",     "F16",    "Q4_0",    "Q4_1",   "Q4_2",   "Q4_3",  "Q5_0",    "Q5_1",
    "Q8_0",    "Q8_1",   "Q2_K",    "Q3_K",   "Q4_K",   "Q5_K",  "Q6_K",    "Q8_K",
    "IQ2_XXS", "IQ2_XS", "IQ3_XXS", "IQ1_S",  "IQ4_NL", "IQ3_S", "IQ2_S",   "IQ4_XS",
    "I8",      "I16",    "I32",     "I64",    "F64",    "IQ1_M", "BF16",    NULL,
    NULL,      NULL,     "TQ1_0",   "TQ2_0",  NULL,     NULL,    NULL,      "MXFP4",
};

static int find_format(uint32_t type, enum tensor_format *out)
{
    switch (type) {
    case 0: *out = FORMAT_F32; return 0;
    case 1: *out = FORMAT_F16; return 0;
    case 2: *out = FORMAT_Q4_0; return 0;
    case 3: *out = FORMAT_Q4_1; return 0;
    case 8: *out = FORMAT_Q8_0; return 0;
    case 30: *out = FORMAT_BF16; return 0;
    default: return -1;
    }
}

static int bad_tensor(struct err *err, struct gguf_string name, const char *what)
{
    return err_set(err, ERR_INVALID, "GGUF: tensor \"%.*s\" %s",
                   (int)(name.len < 80 ? name.len : 80), name.s, what);
}

static int read_format(struct gguf_tensor *t, uint32_t type, struct err *err)
{
    if (find_format(type, &t->format) == 0)
        return 0;
    bool is_known = type < sizeof ggml_types / sizeof ggml_types[0] && ggml_types[type];
    char what[120];
    snprintf(what, sizeof what,
             "has type %u (%s); accepted: F32, F16, BF16, Q8_0, Q4_0, Q4_1", type,
             is_known ? ggml_types[type] : "not known");
    return bad_tensor(err, t->name, what);
}

/* Dimensions of at least 1, whole blocks in a row, and a product that fits. */
static int read_dims(struct cursor *c, struct gguf_tensor *t, uint64_t *n_rows,
                     struct err *err)
{
    uint32_t n_dims = take_u32(c);
    if (c->is_bad)
        return cut(err);
    if (n_dims < 1 || n_dims > GGUF_MAX_DIMS)
        return bad_tensor(err, t->name, "must have 1 to 4 dimensions");
    t->n_dims = (int)n_dims;
    for (uint32_t i = 0; i < n_dims; i++) {
        t->dims[i] = take_u64(c);
        if (c->is_bad)
            return cut(err);
        if (t->dims[i] == 0 ||
            (i > 0 && __builtin_mul_overflow(*n_rows, t->dims[i], n_rows)))
            return bad_tensor(err, t->name, "has an impossible shape");
    }
    return 0;
}

/* *end: offset of the end of the tensors so far in the data part; gapless except for
 * padding. */
static int read_tensor(struct cursor *c, struct gguf_tensor *t, uint64_t alignment,
                       uint64_t *end, struct err *err)
{
    uint64_t n_rows = 1;
    t->name = take_string(c);
    if (c->is_bad)
        return cut(err);
    if (t->name.len == 0 || t->name.len > MAX_KEY || memchr(t->name.s, '\0', t->name.len))
        return err_set(err, ERR_INVALID,
                       "GGUF: a tensor name is empty, too long or holds NUL");
    if (read_dims(c, t, &n_rows, err) < 0 || read_format(t, take_u32(c), err) < 0)
        return -1;
    uint64_t offset = take_u64(c);
    if (c->is_bad)
        return cut(err);
    size_t row;
    if (!dequant_bytes(t->format, t->dims[0], &row) || !mem_mul(row, n_rows, &t->len))
        return bad_tensor(err, t->name, "has rows that are no whole blocks of its type");
    if (offset != *end)
        return bad_tensor(err, t->name,
                          "leaves a gap to the one before it, or overlaps it");
    if (t->len > UINT64_MAX - alignment - *end)
        return bad_tensor(err, t->name, "has an impossible shape");
    *end = (*end + t->len + alignment - 1) / alignment * alignment;
    return 0;
}

static int read_tensors(struct cursor *c, struct gguf *g, uint64_t n, uint64_t alignment,
                        struct err *err)
{
    uint64_t end = 0;
    if (n > MAX_TENSORS)
        return err_set(err, ERR_INVALID, "GGUF: %llu tensors, at most %d are read",
                       (unsigned long long)n, MAX_TENSORS);
    g->tensors = xcalloc((size_t)n, sizeof *g->tensors);
    for (; g->n_tensors < n; g->n_tensors++)
        if (read_tensor(c, &g->tensors[g->n_tensors], alignment, &end, err) < 0)
            return -1;
    return 0;
}

/* The data part starts at the next aligned place after the tensor list. */
static int place_tensors(struct cursor *c, struct gguf *g, uint64_t alignment,
                         struct err *err)
{
    take(c, (alignment - c->at % alignment) % alignment);
    for (size_t i = 0; i < g->n_tensors; i++) {
        struct gguf_tensor *t = &g->tensors[i];
        t->data = take(c, t->len);
        if (!t->data)
            return bad_tensor(err, t->name, "lies beyond the end of the file");
        if (i + 1 < g->n_tensors)
            take(c, (alignment - t->len % alignment) % alignment);
    }
    return 0;
}

static int read_alignment(const struct gguf *g, uint64_t *out, struct err *err)
{
    *out = DEFAULT_ALIGNMENT;
    if (!gguf_find(g, "general.alignment"))
        return 0;
    if (!gguf_u64(g, "general.alignment", out) || *out < 8 || *out > MAX_ALIGNMENT ||
        (*out & (*out - 1)))
        return err_set(err, ERR_INVALID,
                       "GGUF: general.alignment must be a power of two from 8 to %d",
                       MAX_ALIGNMENT);
    return 0;
}

static int parse(struct cursor *c, struct gguf *g, struct err *err)
{
    const unsigned char *magic = take(c, 4);
    if (!magic || memcmp(magic, "GGUF", 4) != 0)
        return err_set(err, ERR_INVALID,
                       "not a GGUF file; a .gguf file or a Hugging Face directory is accepted");
    uint32_t version = take_u32(c);
    if (version != 2 && version != 3)
        return err_set(err, ERR_INVALID,
                       "GGUF version %u; accepted: 2 and 3, little-endian", version);
    uint64_t n_tensors = take_u64(c), n_values = take_u64(c), alignment;
    if (c->is_bad)
        return cut(err);
    if (read_values(c, g, n_values, err) < 0 || read_alignment(g, &alignment, err) < 0 ||
        read_tensors(c, g, n_tensors, alignment, err) < 0)
        return -1;
    return place_tensors(c, g, alignment, err);
}

int gguf_parse(struct gguf *g, const void *bytes, size_t len, struct err *err)
{
    struct cursor c = {.bytes = bytes, .len = len};
    memset(g, 0, sizeof *g);
    if (parse(&c, g, err) == 0)
        return 0;
    gguf_fini(g);
    return -1;
}

void gguf_fini(struct gguf *g)
{
    free(g->values);
    free(g->tensors);
    memset(g, 0, sizeof *g);
}

bool gguf_string_is(struct gguf_string s, const char *text)
{
    return equal(s, (struct gguf_string){text, strlen(text)});
}

const struct gguf_value *gguf_find(const struct gguf *g, const char *key)
{
    for (size_t i = 0; i < g->n_values; i++)
        if (gguf_string_is(g->values[i].key, key))
            return &g->values[i];
    return NULL;
}

static const struct gguf_value *find_scalar(const struct gguf *g, const char *key)
{
    const struct gguf_value *v = gguf_find(g, key);
    return v && !v->is_array ? v : NULL;
}

bool gguf_u64(const struct gguf *g, const char *key, uint64_t *out)
{
    const struct gguf_value *v = find_scalar(g, key);
    if (!v)
        return false;
    int64_t i;
    switch (v->type) {
    case GGUF_U8: *out = v->data[0]; return true;
    case GGUF_U16: *out = (uint64_t)v->data[0] | (uint64_t)v->data[1] << 8; return true;
    case GGUF_U32: *out = load_u32(v->data); return true;
    case GGUF_U64: *out = load_u64(v->data); return true;
    case GGUF_I8: i = (int8_t)v->data[0]; break;
    case GGUF_I16: i = (int16_t)(v->data[0] | v->data[1] << 8); break;
    case GGUF_I32: i = (int32_t)load_u32(v->data); break;
    case GGUF_I64: i = (int64_t)load_u64(v->data); break;
    default: return false;
    }
    *out = (uint64_t)i;
    return i >= 0;
}

bool gguf_f64(const struct gguf *g, const char *key, double *out)
{
    const struct gguf_value *v = find_scalar(g, key);
    float f;
    if (v && v->type == GGUF_F32) {
        memcpy(&f, v->data, sizeof f);
        *out = (double)f;
        return true;
    }
    if (v && v->type == GGUF_F64)
        memcpy(out, v->data, sizeof *out);
    return v && v->type == GGUF_F64;
}

bool gguf_bool(const struct gguf *g, const char *key, bool *out)
{
    const struct gguf_value *v = find_scalar(g, key);
    if (!v || v->type != GGUF_BOOL || v->data[0] > 1)
        return false;
    *out = v->data[0];
    return true;
}

bool gguf_string(const struct gguf *g, const char *key, struct gguf_string *out)
{
    const struct gguf_value *v = find_scalar(g, key);
    size_t at = 0;
    if (!v || v->type != GGUF_STRING)
        return false;
    *out = gguf_next_string(v, &at);
    return true;
}

struct gguf_string gguf_next_string(const struct gguf_value *v, size_t *at)
{
    CHECK(v->type == GGUF_STRING && v->len - *at >= 8); /* gguf_parse walked them all */
    struct gguf_string s;
    s.len = (size_t)load_u64(v->data + *at);
    s.s = (const char *)v->data + *at + 8;
    *at += 8 + s.len;
    return s;
}
