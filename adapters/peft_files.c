/* The checks that tie adapter_config.json, adapter_model.safetensors and the base
 * together. */
#include "adapters/peft_files.h"

#include <string.h>

#include "adapters/peft_config.h"
#include "adapters/refuse.h"

enum { MAX_TENSORS = 8, MAX_HEADER = 1 << 20, HEADER_AT = 8 };

/* Both kinds of pickle files can begin like a header length, so the byte after it
 * decides. */
static bool is_pickle(const struct adapter_file *f)
{
    const unsigned char *b = f->bytes;
    if (f->len < 2 || (f->len > HEADER_AT && b[HEADER_AT] == '{'))
        return false;
    return b[0] == 0x80 || (b[0] == 'P' && b[1] == 'K');
}

static int parse_tensors(struct adapter_spec *s, const struct adapter_file *f, struct err *err)
{
    const struct st_limits lim = {.max_header = MAX_HEADER, .max_tensors = MAX_TENSORS};
    struct err why = {0};
    if (is_pickle(f))
        return err_set(err, ERR_ADAPTER, "%s: " PEFT_FILES_PICKLE, f->name);
    if (safetensors_parse(&s->tensors, f->bytes, f->len, &lim, &why) < 0)
        return refuse_content(err, SPEC_WEIGHTS_FILE, &why);
    return 0;
}

static const char *main_name(enum kind k)
{
    return k == KIND_HIDDEN ? "hidden_prefix" : "prompt_embeddings";
}

static bool is_expected(const struct adapter_spec *s, const char *name)
{
    if (strcmp(name, main_name(s->kind)) == 0)
        return true;
    return s->kind == KIND_MULTITASK &&
           (strcmp(name, "prefix_task_cols") == 0 || strcmp(name, "prefix_task_rows") == 0);
}

static const struct st_tensor *need(const struct adapter_spec *s, const char *name,
                                    struct err *err)
{
    const struct st_tensor *t = safetensors_find(&s->tensors, name);
    if (!t)
        err_set(err, ERR_ADAPTER, "tensor \"%s\" is missing, which %s has", name,
                kind_name(s->kind));
    else if (!t->is_float)
        err_set(err, ERR_ADAPTER, "tensor \"%s\" is %s; accepted are F32, F16 and BF16", name,
                t->dtype_text);
    return t && t->is_float ? t : NULL;
}

static int find_tensors(struct adapter_spec *s, struct err *err)
{
    for (size_t i = 0; i < s->tensors.n_tensors; i++) {
        const char *name = s->tensors.tensors[i].name;
        if (!is_expected(s, name))
            return err_set(err, ERR_ADAPTER, "unexpected tensor \"%.*s\" in a %s adapter",
                           refuse_shown(name), name, kind_name(s->kind));
    }
    s->main = need(s, main_name(s->kind), err);
    if (!s->main)
        return -1;
    if (s->kind != KIND_MULTITASK)
        return 0;
    s->cols = need(s, "prefix_task_cols", err);
    s->rows = s->cols ? need(s, "prefix_task_rows", err) : NULL;
    return s->rows ? 0 : -1;
}

static int check_n_dims(const struct st_tensor *t, int n_dims, struct err *err)
{
    if (t->n_dims != n_dims)
        return err_set(err, ERR_ADAPTER, "tensor \"%s\" has %d dimensions, expected %d", t->name,
                       t->n_dims, n_dims);
    return 0;
}

/* Dimension i against what the config or the base says; PEFT_ABSENT says nothing. */
static int check_dim(const struct st_tensor *t, int i, int64_t expected, const char *why,
                     struct err *err)
{
    if (expected != PEFT_ABSENT && t->dims[i] != (uint64_t)expected)
        return err_set(err, ERR_ADAPTER, "tensor \"%s\": dimension %d is %llu, expected %lld (%s)",
                       t->name, i, (unsigned long long)t->dims[i], (long long)expected, why);
    return 0;
}

static int check_field(const char *key, int64_t value, int64_t expected, const char *why,
                       struct err *err)
{
    if (value != PEFT_ABSENT && value != expected)
        return err_set(err, ERR_ADAPTER, "adapter_config.json: %s is %lld, but %s %lld", key,
                       (long long)value, why, (long long)expected);
    return 0;
}

static int check_kv(const struct adapter_spec *s, const struct model_shape *m, struct err *err)
{
    int64_t width = (int64_t)2 * m->n_layers * m->n_kv_heads * m->head_dim;
    if (check_n_dims(s->main, 2, err) < 0)
        return -1;
    if (s->main->dims[1] != (uint64_t)width)
        return err_set(err, ERR_ADAPTER,
                       "tensor \"prompt_embeddings\" is %llu wide; the base needs 2 * %d layers * %d KV heads * %d = %lld",
                       (unsigned long long)s->main->dims[1], m->n_layers, m->n_kv_heads,
                       m->head_dim, (long long)width);
    return 0;
}

static int check_rows(const struct adapter_spec *s, const struct model_shape *m, struct err *err)
{
    if (check_n_dims(s->main, 2, err) < 0)
        return -1;
    return check_dim(s->main, 1, m->dim, "the width of the base's embeddings", err);
}

static int check_hidden(const struct adapter_spec *s, const struct model_shape *m, struct err *err)
{
    if (check_n_dims(s->main, 3, err) < 0 ||
        check_dim(s->main, 0, m->n_layers, "the base's layers", err) < 0)
        return -1;
    return check_dim(s->main, 2, m->dim, "the base's width", err);
}

static int check_tasks(struct adapter_spec *s, const struct peft_config *c,
                       const struct model_shape *m, struct err *err)
{
    const struct st_tensor *cols = s->cols, *rows = s->rows;
    if (check_rows(s, m, err) < 0 || check_n_dims(cols, 3, err) < 0 ||
        check_n_dims(rows, 3, err) < 0)
        return -1;
    if (cols->dims[0] == 0 || cols->dims[0] > SPEC_MAX_TASKS)
        return err_set(err, ERR_ADAPTER, "%llu tasks; accepted are 1 to %d",
                       (unsigned long long)cols->dims[0], SPEC_MAX_TASKS);
    if (cols->dims[2] == 0 || cols->dims[2] > (1 << 20))
        return err_set(err, ERR_ADAPTER, "tensor \"prefix_task_cols\": rank %llu is not accepted",
                       (unsigned long long)cols->dims[2]);
    if (check_dim(cols, 0, c->num_tasks, "num_tasks", err) < 0 ||
        check_dim(cols, 1, (int64_t)s->main->dims[0], "the virtual tokens", err) < 0 ||
        check_dim(cols, 2, c->num_ranks, "num_ranks", err) < 0 ||
        check_dim(rows, 0, (int64_t)cols->dims[0], "the tasks", err) < 0 ||
        check_dim(rows, 1, (int64_t)cols->dims[2], "the rank", err) < 0 ||
        check_dim(rows, 2, m->dim, "the width of the base's embeddings", err) < 0)
        return -1;
    s->n_tasks = (int)cols->dims[0];
    s->n_ranks = (int)cols->dims[2];
    return 0;
}

static int check_shapes(struct adapter_spec *s, const struct peft_config *c,
                        const struct model_shape *m, struct err *err)
{
    switch (kind_class(s->kind)) {
    case KIND_CLASS_KV: return check_kv(s, m, err);
    case KIND_CLASS_HIDDEN: return check_hidden(s, m, err);
    case KIND_CLASS_TASKS: return check_tasks(s, c, m, err);
    case KIND_CLASS_ROWS: return check_rows(s, m, err);
    case KIND_CLASS_TEXT: break;
    }
    return err_set(err, ERR_INTERNAL, "a text adapter has no tensors");
}

/* For KV kinds PEFT writes the width and number of KV heads into fields named after
 * something else; a config that was never saved by PEFT may still hold the hidden size, and
 * is not repaired. */
static int check_config(const struct peft_config *c, const struct model_shape *m, struct err *err)
{
    bool is_kv = kind_class(c->kind) == KIND_CLASS_KV;
    int64_t dim = is_kv ? (int64_t)m->n_kv_heads * m->head_dim : m->dim;
    const char *why = is_kv ? "the base's keys of a layer have width" : "the base's width is";
    if (check_field("token_dim", c->token_dim, dim, why, err) < 0 ||
        check_field("num_layers", c->num_layers, m->n_layers, "the base's layers are", err) < 0)
        return -1;
    return check_field("num_attention_heads", c->num_attention_heads,
                       is_kv ? m->n_kv_heads : m->n_heads,
                       is_kv ? "the base's KV heads are" : "the base's heads are", err);
}

static int check_compiled_size(const struct adapter_spec *s, const struct spec_limits *lim,
                               struct err *err)
{
    const struct model_shape *m = lim->shape;
    size_t tiles = ((size_t)s->n_tokens + KV_TILE - 1) / KV_TILE;
    size_t bytes = (size_t)2 * dtype_size(m->kv_dtype);
    const size_t factors[] = {tiles * KV_TILE, (size_t)m->n_layers, (size_t)m->n_kv_heads,
                              (size_t)m->head_dim, (size_t)s->n_tasks};
    for (size_t i = 0; i < sizeof factors / sizeof factors[0]; i++)
        if (__builtin_mul_overflow(bytes, factors[i], &bytes) || bytes > lim->max_compiled)
            return err_set(err, ERR_ADAPTER, "compiled, %d virtual tokens for %d tasks would take "
                           "more than %zu bytes", s->n_tokens, s->n_tasks, lim->max_compiled);
    return 0;
}

static int check_n_tokens(struct adapter_spec *s, const struct peft_config *c,
                          const struct spec_limits *lim, struct err *err)
{
    uint64_t n = s->main->dims[s->kind == KIND_HIDDEN ? 1 : 0];
    if (n == 0)
        return err_set(err, ERR_ADAPTER, "no virtual tokens: the tensor has none");
    if (n >= (uint64_t)lim->shape->max_pos || n > (uint64_t)lim->max_virtual_tokens)
        return err_set(err, ERR_ADAPTER, "%llu virtual tokens; at most %d are accepted here",
                       (unsigned long long)n,
                       lim->max_virtual_tokens < lim->shape->max_pos ? lim->max_virtual_tokens
                                                                     : lim->shape->max_pos - 1);
    if (check_field("num_virtual_tokens", c->num_virtual_tokens, (int64_t)n, "the tensor has",
                    err) < 0 ||
        check_field("the length of cpt_token_ids", c->n_cpt_token_ids, (int64_t)n,
                    "the tensor has", err) < 0)
        return -1;
    if (s->kind == KIND_CARTRIDGE && c->num_frozen_tokens > (int64_t)n)
        return err_set(err, ERR_ADAPTER,
                       "adapter_config.json: num_frozen_tokens is %lld, more than the %llu virtual "
                       "tokens", (long long)c->num_frozen_tokens, (unsigned long long)n);
    s->n_tokens = (int)n;
    return check_compiled_size(s, lim, err);
}

int peft_files_check(struct adapter_spec *s, const struct adapter_file *config,
                     const struct adapter_file *weights, const struct spec_limits *lim,
                     struct err *err)
{
    struct peft_config c;
    int rc = -1;
    if (peft_config_parse(&c, config->bytes, config->len, err) < 0)
        goto done;
    s->kind = c.kind;
    s->base_hint = c.base_hint;
    c.base_hint = NULL;
    if (parse_tensors(s, weights, err) < 0 || find_tensors(s, err) < 0 ||
        check_config(&c, lim->shape, err) < 0 || check_shapes(s, &c, lim->shape, err) < 0 ||
        check_n_tokens(s, &c, lim, err) < 0)
        goto done;
    rc = 0;
done:
    peft_config_fini(&c);
    return rc;
}
