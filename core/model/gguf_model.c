/* A GGUF file of architecture llama as a source: metadata to description, tensors to
 * slots. */
#include "core/model/gguf_model.h"

#include <stdio.h>
#include <string.h>

#include "core/base/mem.h"
#include "core/model/desc.h"
#include "core/model/gguf.h"
#include "core/model/source.h"

static int bad_key(struct err *err, const char *key, const char *what)
{
    return err_set(err, ERR_INVALID, "GGUF metadata %s: %s", key, what);
}

static int get_int(const struct gguf *g, const char *key, int *out, struct err *err)
{
    uint64_t v;
    if (!gguf_find(g, key))
        return bad_key(err, key, "missing");
    if (!gguf_u64(g, key, &v) || v > INT32_MAX)
        return bad_key(err, key, "must be one whole number from 0 to 2147483647");
    *out = (int)v;
    return 0;
}

static int get_int_or(const struct gguf *g, const char *key, int fallback, int *out,
                      struct err *err)
{
    *out = fallback;
    return gguf_find(g, key) ? get_int(g, key, out, err) : 0;
}

static int get_number_or(const struct gguf *g, const char *key, double fallback,
                         double *out, struct err *err)
{
    *out = fallback;
    if (gguf_find(g, key) && !gguf_f64(g, key, out))
        return bad_key(err, key, "must be a floating-point number");
    return 0;
}

static int want_string(const struct gguf *g, const char *key, const char *accepted,
                       struct err *err)
{
    struct gguf_string s;
    if (!gguf_string(g, key, &s))
        return err_set(err, ERR_INVALID, "GGUF metadata %s is missing; accepted: %s", key,
                       accepted);
    if (gguf_string_is(s, accepted))
        return 0;
    return err_set(err, ERR_INVALID, "GGUF metadata %s is \"%.*s\"; accepted: %s", key,
                   (int)(s.len < 60 ? s.len : 60), s.s, accepted);
}

/* Keys that relatives of the architecture use and that would change the computation. */
static int check_unsupported(const struct gguf *g, struct err *err)
{
    static const char *const keys[] = {
        "llama.expert_count",    "llama.attention.sliding_window", "llama.attention.scale",
        "llama.embedding_scale", "llama.residual_scale",           "llama.logit_scale",
        "llama.attention.clamp_kqv", "llama.attention.max_alibi_bias",
    };
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        uint64_t u;
        double f;
        bool is_zero =
            (gguf_u64(g, keys[i], &u) && u == 0) || (gguf_f64(g, keys[i], &f) && f == 0);
        if (gguf_find(g, keys[i]) && !is_zero)
            return bad_key(err, keys[i], "not supported");
    }
    return 0;
}

static int read_dims(const struct gguf *g, struct model_desc *d, struct err *err)
{
    int value_length;
    if (get_int(g, "llama.block_count", &d->n_layers, err) < 0 ||
        get_int(g, "llama.embedding_length", &d->dim, err) < 0 ||
        get_int(g, "llama.feed_forward_length", &d->ffn, err) < 0 ||
        get_int(g, "llama.context_length", &d->max_pos, err) < 0 ||
        get_int(g, "llama.attention.head_count", &d->n_heads, err) < 0 ||
        get_int_or(g, "llama.attention.head_count_kv", d->n_heads, &d->n_kv_heads, err) < 0)
        return -1;
    bool has_length = gguf_find(g, "llama.attention.key_length") != NULL;
    if (!has_length && (d->n_heads == 0 || d->dim % d->n_heads))
        return bad_key(err, "llama.attention.head_count",
                       "does not divide the embedding length");
    if (get_int_or(g, "llama.attention.key_length", has_length ? 0 : d->dim / d->n_heads,
                   &d->head_dim, err) < 0 ||
        get_int_or(g, "llama.attention.value_length", d->head_dim, &value_length, err) < 0)
        return -1;
    if (value_length != d->head_dim)
        return bad_key(err, "llama.attention.value_length", "must equal the key length");
    return 0;
}

static int read_scaling(const struct gguf *g, struct model_desc *d, struct err *err)
{
    static const char type_key[] = "llama.rope.scaling.type";
    static const char factor_key[] = "llama.rope.scaling.factor";
    /* The last is what files said before the type existed. */
    static const char old_key[] = "llama.rope.scale_linear";
    struct gguf_string type = {"none", 4};
    if (gguf_find(g, type_key) && !gguf_string(g, type_key, &type))
        return bad_key(err, type_key, "must be a string");
    bool is_linear = gguf_string_is(type, "linear") ||
                     (!gguf_find(g, type_key) && gguf_find(g, old_key));
    if (!is_linear && !gguf_string_is(type, "none"))
        return err_set(
            err, ERR_INVALID,
            "GGUF metadata %s is \"%.*s\"; accepted: none, linear, and llama3 as factors "
            "in a tensor",
            type_key, (int)(type.len < 40 ? type.len : 40), type.s);
    if (!is_linear)
        return 0;
    d->rope.kind = ROPE_LINEAR;
    return get_number_or(g, gguf_find(g, factor_key) ? factor_key : old_key, 1,
                         &d->rope.factor, err);
}

static int read_rope(const struct gguf *g, struct model_desc *d, struct err *err)
{
    int rotated;
    if (get_number_or(g, "llama.rope.freq_base", 10000, &d->rope.theta, err) < 0 ||
        get_int_or(g, "llama.rope.dimension_count", d->head_dim, &rotated, err) < 0)
        return -1;
    if (rotated != d->head_dim)
        return bad_key(err, "llama.rope.dimension_count",
                       "partial rotation is not supported; accepted: the head dimension");
    return read_scaling(g, d, err);
}

static int read_ids(const struct gguf *g, struct model_desc *d, struct err *err)
{
    static const char *const eos_keys[] = {"tokenizer.ggml.eos_token_id",
                                           "tokenizer.ggml.eot_token_id"};
    if (get_int_or(g, "tokenizer.ggml.bos_token_id", -1, &d->bos, err) < 0)
        return -1;
    for (int i = 0; i < 2; i++) {
        int id;
        if (!gguf_find(g, eos_keys[i]))
            continue;
        if (get_int(g, eos_keys[i], &id, err) < 0 || desc_add_eos(d, id, err) < 0)
            return -1;
    }
    return 0;
}

static const struct gguf_tensor *find_tensor(const struct gguf *g, const char *name)
{
    for (size_t i = 0; i < g->n_tensors; i++)
        if (gguf_string_is(g->tensors[i].name, name))
            return &g->tensors[i];
    return NULL;
}

/* What Hugging Face files say in config.json, GGUF files say by what tensors they hold. */
static int read_from_tensors(const struct gguf *g, struct model_desc *d, struct err *err)
{
    const struct gguf_tensor *embed = find_tensor(g, "token_embd.weight");
    if (!embed || embed->n_dims != 2)
        return err_set(err, ERR_INVALID,
                       "GGUF: tensor \"token_embd.weight\" is missing or no matrix");
    if (embed->dims[1] > INT32_MAX)
        return err_set(err, ERR_INVALID, "GGUF: the vocabulary is too large");
    d->vocab = (int)embed->dims[1];
    d->is_tied = !find_tensor(g, "output.weight");
    d->has_attn_bias = find_tensor(g, "blk.0.attn_q.bias") != NULL;
    d->has_mlp_bias = find_tensor(g, "blk.0.ffn_gate.bias") != NULL;
    int vocab;
    if (get_int_or(g, "llama.vocab_size", d->vocab, &vocab, err) < 0)
        return -1;
    if (vocab != d->vocab)
        return bad_key(err, "llama.vocab_size",
                       "differs from the rows of token_embd.weight");
    return 0;
}

static int read_desc(const struct gguf *g, struct model_desc *d, struct err *err)
{
    static const char eps_key[] = "llama.attention.layer_norm_rms_epsilon";
    double eps;
    memset(d, 0, sizeof *d);
    if (want_string(g, "general.architecture", "llama", err) < 0 ||
        check_unsupported(g, err) < 0 || read_dims(g, d, err) < 0)
        return -1;
    if (!gguf_f64(g, eps_key, &eps))
        return bad_key(err, eps_key, "must be a floating-point number");
    d->norm_eps = (float)eps;
    if (read_rope(g, d, err) < 0 || read_ids(g, d, err) < 0 ||
        read_from_tensors(g, d, err) < 0)
        return -1;
    struct err why = {0};
    if (desc_check(d, &why) < 0)
        return err_set(err, why.code, "GGUF metadata: %s", why.msg);
    return 0;
}

/* llama.cpp rotates neighbours, so its converter moved the rows of q and k; all others
 * lie as they were. */
static int interleaved_rows(const struct source *src, const char *name)
{
    size_t slot;
    int layer;
    if (!roles_find(ROLE_NAMES_GGUF, name, src->desc.n_layers, &slot))
        return 0;
    enum role role = roles_of_slot(slot, &layer);
    bool is_rotated =
        role == ROLE_Q || role == ROLE_K || role == ROLE_Q_BIAS || role == ROLE_K_BIAS;
    return is_rotated ? src->desc.head_dim : 0;
}

/* One divisor per rotated pair: how converters store llama3 scaling. */
static int take_rope_factors(struct source *src, const struct gguf_tensor *t,
                             struct err *err)
{
    if (t->format != FORMAT_F32 || t->n_dims != 1 ||
        t->dims[0] != (uint64_t)src->desc.head_dim / 2)
        return err_set(err, ERR_INVALID,
                       "GGUF: tensor \"rope_freqs.weight\" must be F32 [%d]",
                       src->desc.head_dim / 2);
    for (uint64_t i = 0; i < t->dims[0]; i++) {
        float factor;
        memcpy(&factor, t->data + i * sizeof factor, sizeof factor);
        if (!(factor > 0))
            return err_set(err, ERR_INVALID,
                           "GGUF: tensor \"rope_freqs.weight\" must hold numbers above 0");
    }
    src->rope_factors = t->data;
    return 0;
}

static int claim(struct source *src, const struct gguf_tensor *from, struct err *err)
{
    char name[257];
    snprintf(name, sizeof name, "%.*s", (int)from->name.len, from->name.s);
    if (strcmp(name, "rope_freqs.weight") == 0)
        return take_rope_factors(src, from, err);
    if (from->n_dims > 2)
        return err_set(err, ERR_INVALID, "GGUF: tensor \"%.100s\" has %d dimensions", name,
                       from->n_dims);
    struct source_tensor t = {
        .data = from->data,
        .format = from->format,
        .n_out = from->n_dims == 2 ? from->dims[1] : from->dims[0],
        .n_in = from->n_dims == 2 ? from->dims[0] : 0,
        .interleaved = interleaved_rows(src, name),
    };
    return source_claim(src, name, &t, err);
}

static int fill(struct source *src, const struct gguf *g, struct err *err)
{
    for (size_t i = 0; i < g->n_tensors; i++)
        if (claim(src, &g->tensors[i], err) < 0)
            return -1;
    return source_complete(src, err);
}

/* On success the source owns the mapping. */
static struct source *to_source(const struct gguf *g, struct mapped_file *f,
                                struct err *err)
{
    struct model_desc desc;
    if (read_desc(g, &desc, err) < 0)
        return NULL;
    struct source *src = source_new(&desc, ROLE_NAMES_GGUF);
    if (fill(src, g, err) < 0) {
        source_free(src);
        return NULL;
    }
    src->files = xcalloc(1, sizeof *src->files);
    src->files[0] = *f;
    src->n_files = 1;
    return src;
}

struct source *gguf_model_open(const char *path, struct err *err)
{
    struct mapped_file f;
    struct gguf g;
    if (mapped_file_open(&f, path, err) < 0)
        return NULL;
    struct source *src = NULL;
    if (gguf_parse(&g, f.data, f.len, err) == 0) {
        src = to_source(&g, &f, err);
        gguf_fini(&g);
    }
    if (!src)
        mapped_file_close(&f);
    return src;
}
