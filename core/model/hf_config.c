/* Reading of a Llama config.json: what it says, what it may not say, and the defaults. */
#include "core/model/hf_config.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <string.h>

#include "core/base/json_check.h"
#include "core/model/desc.h"

static const char config_name[] = "config.json";
static const char generation_name[] = "generation_config.json";

static cJSON *parse_object(const char *file, const char *json, size_t len, struct err *err)
{
    struct json_limits lim = {.max_len = 4 << 20, .max_depth = 32, .max_items = 1000000};
    struct err why = {0};
    if (json_check(json, len, &lim, &why) < 0) {
        err_set(err, ERR_INVALID, "%s: %s", file, why.msg);
        return NULL;
    }
    cJSON *root = cJSON_ParseWithLength(json, len);
    if (cJSON_IsObject(root))
        return root;
    cJSON_Delete(root);
    err_set(err, ERR_INVALID, "%s: not a JSON object", file);
    return NULL;
}

/* NULL for an absent key as for a null one: both mean the default. */
static const cJSON *get(const cJSON *obj, const char *key)
{
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(obj, key);
    return cJSON_IsNull(v) ? NULL : v;
}

static int as_int(const char *file, const char *key, const cJSON *v, int *out,
                  struct err *err)
{
    if (!cJSON_IsNumber(v) || v->valuedouble != floor(v->valuedouble) ||
        v->valuedouble < 0 || v->valuedouble > INT32_MAX)
        return err_set(err, ERR_INVALID, "%s: %s must be a whole number from 0 to %d", file,
                       key, INT32_MAX);
    *out = (int)v->valuedouble;
    return 0;
}

enum { REQUIRED = -1 };

static int get_int(const cJSON *obj, const char *key, int fallback, int *out,
                   struct err *err)
{
    const cJSON *v = get(obj, key);
    if (v)
        return as_int(config_name, key, v, out, err);
    if (fallback == REQUIRED)
        return err_set(err, ERR_INVALID, "%s: %s is missing", config_name, key);
    *out = fallback;
    return 0;
}

static int get_number(const cJSON *obj, const char *key, double fallback, double *out,
                      struct err *err)
{
    const cJSON *v = get(obj, key);
    if (v && !cJSON_IsNumber(v))
        return err_set(err, ERR_INVALID, "%s: %s must be a number", config_name, key);
    if (!v && isnan(fallback))
        return err_set(err, ERR_INVALID, "%s: %s is missing", config_name, key);
    *out = v ? v->valuedouble : fallback;
    return 0;
}

static int get_bool(const cJSON *obj, const char *key, bool *out, struct err *err)
{
    const cJSON *v = get(obj, key);
    if (v && !cJSON_IsBool(v))
        return err_set(err, ERR_INVALID, "%s: %s must be true or false", config_name, key);
    *out = cJSON_IsTrue(v);
    return 0;
}

static int want_string(const char *key, const cJSON *v, const char *accepted,
                       struct err *err)
{
    if (cJSON_IsString(v) && strcmp(v->valuestring, accepted) == 0)
        return 0;
    return err_set(err, ERR_INVALID, "%s: %s is \"%.60s\"; accepted: %s", config_name, key,
                   cJSON_IsString(v) ? v->valuestring : "(not a string)", accepted);
}

static int check_supported(const cJSON *root, struct err *err)
{
    const cJSON *archs = get(root, "architectures"), *v;
    if (!cJSON_IsArray(archs) || cJSON_GetArraySize(archs) != 1)
        return err_set(
            err, ERR_INVALID,
            "%s: architectures must name one architecture; accepted: LlamaForCausalLM",
            config_name);
    if (want_string("architectures", archs->child, "LlamaForCausalLM", err) < 0)
        return -1;
    if ((v = get(root, "model_type")) && want_string("model_type", v, "llama", err) < 0)
        return -1;
    if ((v = get(root, "hidden_act")) && want_string("hidden_act", v, "silu", err) < 0)
        return -1;
    if (get(root, "quantization_config"))
        return err_set(
            err, ERR_INVALID,
            "%s: quantization_config is not supported; accepted: F32, F16 and BF16 "
            "checkpoints",
            config_name);
    return 0;
}

static int read_dims(const cJSON *root, struct model_desc *d, struct err *err)
{
    if (get_int(root, "num_hidden_layers", REQUIRED, &d->n_layers, err) < 0 ||
        get_int(root, "hidden_size", REQUIRED, &d->dim, err) < 0 ||
        get_int(root, "intermediate_size", REQUIRED, &d->ffn, err) < 0 ||
        get_int(root, "vocab_size", REQUIRED, &d->vocab, err) < 0 ||
        get_int(root, "num_attention_heads", REQUIRED, &d->n_heads, err) < 0 ||
        get_int(root, "num_key_value_heads", d->n_heads, &d->n_kv_heads, err) < 0 ||
        get_int(root, "max_position_embeddings", 2048, &d->max_pos, err) < 0)
        return -1;
    bool has_head_dim = get(root, "head_dim") != NULL;
    if (!has_head_dim && (d->n_heads == 0 || d->dim % d->n_heads))
        return err_set(err, ERR_INVALID,
                       "%s: hidden_size %d is no multiple of num_attention_heads %d",
                       config_name, d->dim, d->n_heads);
    return get_int(root, "head_dim", has_head_dim ? 0 : d->dim / d->n_heads, &d->head_dim,
                   err);
}

static int rope_kind(const cJSON *rope, enum rope_kind *kind, struct err *err)
{
    const cJSON *v = get(rope, "rope_type");
    if (!v)
        v = get(rope, "type");
    const char *name = !v                  ? "default"
                       : cJSON_IsString(v) ? v->valuestring
                                           : "(not a string)";
    static const char *const kinds[] = {
        [ROPE_DEFAULT] = "default", [ROPE_LINEAR] = "linear", [ROPE_LLAMA3] = "llama3"};
    for (int i = ROPE_DEFAULT; i <= ROPE_LLAMA3; i++)
        if (strcmp(name, kinds[i]) == 0) {
            *kind = (enum rope_kind)i;
            return 0;
        }
    return err_set(
        err, ERR_INVALID,
        "%s: rope type \"%.40s\" is not supported; accepted: default, linear, llama3",
        config_name, name);
}

static int check_partial(const cJSON *obj, struct err *err)
{
    double part;
    if (get_number(obj, "partial_rotary_factor", 1, &part, err) < 0)
        return -1;
    if (part != 1)
        return err_set(err, ERR_INVALID, "%s: partial_rotary_factor is %g; accepted: 1",
                       config_name, part);
    return 0;
}

static int read_scaling(const cJSON *root, const cJSON *rope, struct model_desc *d,
                        struct err *err)
{
    struct rope_desc *r = &d->rope;
    if (r->kind != ROPE_DEFAULT && get_number(rope, "factor", NAN, &r->factor, err) < 0)
        return -1;
    if (r->kind != ROPE_LLAMA3)
        return 0;
    const char *key = "original_max_position_embeddings";
    if (get_number(rope, "low_freq_factor", NAN, &r->low_freq_factor, err) < 0 ||
        get_number(rope, "high_freq_factor", NAN, &r->high_freq_factor, err) < 0)
        return -1;
    return get_int(get(root, key) ? root : rope, key, d->max_pos, &r->original_max_pos,
                   err);
}

/* "rope_parameters" is transformers 5, "rope_scaling" beside "rope_theta" what was
 * before. */
static int read_rope(const cJSON *root, struct model_desc *d, struct err *err)
{
    const cJSON *rope = get(root, "rope_parameters"), *v;
    const char *key = rope ? "rope_parameters" : "rope_scaling";
    if (!rope)
        rope = get(root, "rope_scaling");
    if (rope && !cJSON_IsObject(rope))
        return err_set(err, ERR_INVALID, "%s: %s must be an object", config_name, key);
    cJSON_ArrayForEach(v, rope)
        if (cJSON_IsObject(v))
            return err_set(err, ERR_INVALID,
                           "%s: %s per layer type (\"%.40s\") is not supported",
                           config_name, key, v->string);
    if (get_number(root, "rope_theta", 10000, &d->rope.theta, err) < 0 ||
        get_number(rope, "rope_theta", d->rope.theta, &d->rope.theta, err) < 0 ||
        check_partial(root, err) < 0 || check_partial(rope, err) < 0 ||
        rope_kind(rope, &d->rope.kind, err) < 0)
        return -1;
    return read_scaling(root, rope, d, err);
}

/* A number, a list of numbers, or nothing. */
static int add_eos(const char *file, const cJSON *root, struct model_desc *d,
                   struct err *err)
{
    const cJSON *v = get(root, "eos_token_id"), *item = cJSON_IsArray(v) ? v->child : v;
    for (; item; item = cJSON_IsArray(v) ? item->next : NULL) {
        int id;
        if (as_int(file, "eos_token_id", item, &id, err) < 0 ||
            desc_add_eos(d, id, err) < 0)
            return -1;
    }
    return 0;
}

static int read_bos(const cJSON *root, struct model_desc *d, struct err *err)
{
    d->bos = -1;
    return get(root, "bos_token_id") ? get_int(root, "bos_token_id", -1, &d->bos, err) : 0;
}

static int read_config(const cJSON *root, struct model_desc *d, struct err *err)
{
    double eps;
    if (check_supported(root, err) < 0 || read_dims(root, d, err) < 0 ||
        get_number(root, "rms_norm_eps", 1e-6, &eps, err) < 0 ||
        get_bool(root, "tie_word_embeddings", &d->is_tied, err) < 0 ||
        get_bool(root, "attention_bias", &d->has_attn_bias, err) < 0 ||
        get_bool(root, "mlp_bias", &d->has_mlp_bias, err) < 0 ||
        read_rope(root, d, err) < 0 || read_bos(root, d, err) < 0 ||
        add_eos(config_name, root, d, err) < 0)
        return -1;
    d->norm_eps = (float)eps;
    struct err why = {0};
    if (desc_check(d, &why) < 0)
        return err_set(err, why.code, "%s: %s", config_name, why.msg);
    return 0;
}

int hf_config_parse(const char *json, size_t len, struct model_desc *out, struct err *err)
{
    memset(out, 0, sizeof *out);
    cJSON *root = parse_object(config_name, json, len, err);
    if (!root)
        return -1;
    int rc = read_config(root, out, err);
    cJSON_Delete(root);
    return rc;
}

int hf_config_add_generation(const char *json, size_t len, struct model_desc *desc,
                             struct err *err)
{
    cJSON *root = parse_object(generation_name, json, len, err);
    if (!root)
        return -1;
    int rc = add_eos(generation_name, root, desc, err);
    cJSON_Delete(root);
    return rc;
}
