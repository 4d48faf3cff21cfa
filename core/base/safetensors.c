/* Reading of safetensors headers: every number is checked before it becomes a size or a
 * pointer. */
#include "core/base/safetensors.h"

#include <stdlib.h>
#include <string.h>

#include "core/base/json_tree.h"
#include "core/base/mem.h"

enum { LEN_BYTES = 8, MAX_NAME = 256, MAX_DEPTH = 4 };

struct st_dtype {
    char name[8];
    uint64_t size;
    bool is_float;
    enum dtype dtype;
};

/* What the format had before the sub-byte and 8-bit float types: those have no meaning
 * here. */
static const struct st_dtype dtypes[] = {
    {"F32", 4, true, DTYPE_F32}, {"BF16", 2, true, DTYPE_BF16}, {"F16", 2, true, DTYPE_F16},
    {"F64", 8, false, 0},        {"I64", 8, false, 0},          {"I32", 4, false, 0},
    {"I16", 2, false, 0},        {"I8", 1, false, 0},           {"U64", 8, false, 0},
    {"U32", 4, false, 0},        {"U16", 2, false, 0},          {"U8", 1, false, 0},
    {"BOOL", 1, false, 0},
};

static const struct st_dtype *find_dtype(const char *name)
{
    for (size_t i = 0; i < sizeof dtypes / sizeof dtypes[0]; i++)
        if (strcmp(dtypes[i].name, name) == 0)
            return &dtypes[i];
    return NULL;
}

static int bad(struct err *err, const char *name, const char *what)
{
    return err_set(err, ERR_INVALID, "safetensors: tensor \"%.80s\": %s", name, what);
}

/* json_check let only non-negative integers below 2^53 pass, so the double is exact. */
static int get_u64(const struct json_node *v, uint64_t *out)
{
    if (!json_is(v, JSON_NUMBER) || v->number < 0 || v->number > 0x1p53)
        return -1;
    *out = (uint64_t)v->number;
    return 0;
}

static int read_shape(struct st_tensor *t, const struct json_node *shape, struct err *err)
{
    if (!json_is(shape, JSON_ARRAY))
        return bad(err, t->name, "\"shape\" must be a list of numbers");
    t->n_elems = 1;
    for (const struct json_node *d = shape->first; d; d = d->next) {
        if (t->n_dims == ST_MAX_DIMS)
            return bad(err, t->name, "more than 8 dimensions");
        if (get_u64(d, &t->dims[t->n_dims]) < 0)
            return bad(err, t->name, "\"shape\" must be a list of numbers");
        if (__builtin_mul_overflow(t->n_elems, t->dims[t->n_dims], &t->n_elems))
            return bad(err, t->name, "the shape is too large");
        t->n_dims++;
    }
    return 0;
}

static int read_range(struct st_tensor *t, const struct json_node *offsets, const unsigned char *data,
                      size_t data_len, struct err *err)
{
    uint64_t begin, end;
    if (!json_is(offsets, JSON_ARRAY) || offsets->n != 2 ||
        get_u64(offsets->first, &begin) < 0 || get_u64(offsets->first->next, &end) < 0)
        return bad(err, t->name, "\"data_offsets\" must be two numbers");
    if (begin > end || end > data_len)
        return bad(err, t->name, "\"data_offsets\" lie outside the file");
    t->data = data + begin;
    t->len = (size_t)(end - begin);
    return 0;
}

static int read_tensor(struct st_tensor *t, const struct json_node *item, const unsigned char *data,
                       size_t data_len, struct err *err)
{
    if (strlen(item->key) > MAX_NAME)
        return bad(err, item->key, "the name is longer than 256 bytes");
    t->name = item->key;
    if (!json_is(item, JSON_OBJECT))
        return bad(err, t->name, "its entry must be an object");
    const struct json_node *shape = json_member(item, "shape");
    const struct json_node *dtype = json_member(item, "dtype");
    const struct json_node *range = json_member(item, "data_offsets");
    if (item->n != 3)
        return bad(err, t->name,
                   "an entry has \"dtype\", \"shape\" and \"data_offsets\" only");
    const char *name = json_string(dtype);
    const struct st_dtype *kind = name ? find_dtype(name) : NULL;
    if (!kind)
        return bad(err, t->name,
                   "unknown dtype; known are F64, F32, F16, BF16, integers, BOOL");
    memcpy(t->dtype_text, kind->name, sizeof t->dtype_text);
    t->is_float = kind->is_float;
    t->dtype = kind->dtype;
    if (read_shape(t, shape, err) < 0 || read_range(t, range, data, data_len, err) < 0)
        return -1;
    uint64_t bytes;
    if (__builtin_mul_overflow(t->n_elems, kind->size, &bytes) || bytes != t->len)
        return bad(err, t->name, "shape and dtype do not match the length of its data");
    return 0;
}

static int by_data(const void *a, const void *b)
{
    const struct st_tensor *x = a, *y = b;
    if (x->data != y->data)
        return x->data < y->data ? -1 : 1;
    return x->len < y->len ? -1 : x->len > y->len;
}

/* One rule against holes, overlaps, trailing bytes and many tensors over the same bytes. */
static int check_gapless(const struct safetensors *st, const unsigned char *data,
                         size_t data_len, struct err *err)
{
    const unsigned char *expected = data;
    for (size_t i = 0; i < st->n_tensors; i++) {
        if (st->tensors[i].data != expected)
            return bad(err, st->tensors[i].name,
                       "its data leaves a gap or overlaps another's");
        expected += st->tensors[i].len;
    }
    if (expected != data + data_len)
        return err_set(err, ERR_INVALID, "safetensors: %zu bytes after the last tensor",
                       (size_t)(data + data_len - expected));
    return 0;
}

static int check_metadata(const struct json_node *meta, struct err *err)
{
    bool is_map = json_is(meta, JSON_OBJECT);
    for (const struct json_node *v = is_map ? meta->first : NULL; v; v = v->next)
        is_map = is_map && json_is(v, JSON_STRING);
    if (!is_map)
        return err_set(err, ERR_INVALID,
                       "safetensors: __metadata__ must map strings to strings");
    return 0;
}

static int read_header(struct safetensors *st, const struct json_node *root, const unsigned char *data,
                       size_t data_len, const struct st_limits *lim, struct err *err)
{
    st->tensors = mem_try_calloc(root->n, sizeof *st->tensors);
    if (!st->tensors)
        return err_set(err, ERR_NO_MEMORY, "safetensors: no memory for %zu tensors", root->n);
    for (const struct json_node *item = root->first; item; item = item->next) {
        if (strcmp(item->key, "__metadata__") == 0) {
            if (check_metadata(item, err) < 0)
                return -1;
            continue;
        }
        if (st->n_tensors == lim->max_tensors)
            return err_set(err, ERR_INVALID, "safetensors: more than %zu tensors",
                           lim->max_tensors);
        if (read_tensor(&st->tensors[st->n_tensors], item, data, data_len, err) < 0)
            return -1;
        st->n_tensors++;
    }
    qsort(st->tensors, st->n_tensors, sizeof *st->tensors, by_data);
    return check_gapless(st, data, data_len, err);
}

/* The names outlive the JSON tree that they were read from. */
static void own_names(struct safetensors *st)
{
    for (size_t i = 0; i < st->n_tensors; i++)
        st->tensors[i].name = xstrdup(st->tensors[i].name);
}

static int parse_header(struct safetensors *st, const char *text, size_t len,
                        const unsigned char *data, size_t data_len,
                        const struct st_limits *lim, struct err *err)
{
    struct json_limits json = {
        .max_len = lim->max_header,
        .max_depth = MAX_DEPTH,
        .max_items = (lim->max_tensors + 64) * (6 + ST_MAX_DIMS),
        .integers_only = true,
    };
    struct err why = {0};
    struct json_tree tree;
    if (json_tree_parse(&tree, text, len, &json, &why) < 0)
        return err_set(err, why.code, "safetensors header: %s", why.msg);
    int rc = read_header(st, tree.root, data, data_len, lim, err);
    if (rc == 0) {
        own_names(st);
    } else { /* the names are the tree's */
        free(st->tensors);
        memset(st, 0, sizeof *st);
    }
    json_tree_free(&tree);
    return rc;
}

static uint64_t read_le64(const unsigned char *p)
{
    uint64_t v = 0;
    for (int i = 7; i >= 0; i--)
        v = v << 8 | p[i];
    return v;
}

int safetensors_parse(struct safetensors *st, const void *bytes, size_t len,
                      const struct st_limits *lim, struct err *err)
{
    const unsigned char *b = bytes;
    memset(st, 0, sizeof *st);
    if (len < LEN_BYTES)
        return err_set(err, ERR_INVALID, "safetensors: %zu bytes hold no header length",
                       len);
    uint64_t header = read_le64(b);
    if (header > lim->max_header)
        return err_set(err, ERR_INVALID,
                       "safetensors: header of %llu bytes, at most %zu allowed",
                       (unsigned long long)header, lim->max_header);
    if (header > len - LEN_BYTES)
        return err_set(err, ERR_INVALID,
                       "safetensors: header of %llu bytes in a file of %zu",
                       (unsigned long long)header, len);
    if (header == 0 || b[LEN_BYTES] != '{')
        return err_set(err, ERR_INVALID, "safetensors: the header must start with '{'");
    const unsigned char *data = b + LEN_BYTES + header;
    return parse_header(st, (const char *)b + LEN_BYTES, (size_t)header, data,
                        len - LEN_BYTES - (size_t)header, lim, err);
}

const struct st_tensor *safetensors_find(const struct safetensors *st, const char *name)
{
    for (size_t i = 0; i < st->n_tensors; i++)
        if (strcmp(st->tensors[i].name, name) == 0)
            return &st->tensors[i];
    return NULL;
}

void safetensors_fini(struct safetensors *st)
{
    for (size_t i = 0; i < st->n_tensors; i++)
        free((char *)(uintptr_t)st->tensors[i].name);
    free(st->tensors);
    memset(st, 0, sizeof *st);
}
