/* Checks an adapter_config.json field by field. */
#include "adapters/peft_config.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "adapters/refuse.h"
#include "core/base/json_tree.h"
#include "core/base/mem.h"
#include "core/base/utf8.h"

enum { MAX_DEPTH = 16, MAX_ITEMS = 100000, MAX_HINT = 512 };

/* Five factors of at most 2^20 apiece would overflow; P * L * 2 * token_dim * 4 with these
 * cannot. */
static const int64_t max_tokens = 1 << 24, max_layers = 1 << 14, max_dim = 1 << 20;

static int not_accepted(struct err *err, const char *key, const char *what)
{
    return err_set(err, ERR_ADAPTER, "adapter_config.json: %s %s", key, what);
}

static const struct json_node *find(const struct json_node *root, const char *key)
{
    const struct json_node *v = json_member(root, key);
    return json_is(v, JSON_NULL) ? NULL : v;
}

static int read_kind(struct peft_config *c, const struct json_node *root, struct err *err)
{
    const char *s = json_string(find(root, "peft_type"));
    if (!s)
        return not_accepted(err, "peft_type", "is missing or not a string");
    if (kind_from_peft_type(s, &c->kind) == 0)
        return 0;
    if (strcmp(s, "LORA") == 0)
        return err_set(err, ERR_ADAPTER,
                       "peft_type LORA is refused: LoRA changes the base's weights, and only "
                       "prompt-learning adapters (prompt, prefix, p-tuning...) are served");
    return err_set(err, ERR_ADAPTER,
                   "peft_type %.*s is refused; served are PROMPT_TUNING, P_TUNING, PREFIX_TUNING, "
                   "CARTRIDGE, CPT, MULTITASK_PROMPT_TUNING and HIDDEN_PREFIX",
                   refuse_shown(s), s);
}

/* What makes PEFT run something else than a causal model with a prompt in front. */
static int check_purpose(const struct json_node *root, struct err *err)
{
    const struct json_node *task = find(root, "task_type");
    const struct json_node *saved = find(root, "modules_to_save");
    if (task && (!json_is(task, JSON_STRING) || strcmp(task->text, "CAUSAL_LM") != 0))
        return not_accepted(err, "task_type", "must be CAUSAL_LM or null");
    if (saved && (!json_is(saved, JSON_ARRAY) || saved->first))
        return not_accepted(err, "modules_to_save",
                            "must be null or empty: it replaces weights of the base");
    return 0;
}

struct int_field {
    const char *key;
    size_t offset;
    int64_t least, most;
};

static int read_int(const struct json_node *root, const struct int_field *f, int64_t *out, struct err *err)
{
    const struct json_node *v = find(root, f->key);
    *out = PEFT_ABSENT;
    if (!v)
        return 0;
    double d = json_is(v, JSON_NUMBER) ? v->number : -1;
    if (!(d >= (double)f->least && d <= (double)f->most) || d != (double)(int64_t)d)
        return err_set(err, ERR_ADAPTER, "adapter_config.json: %s must be an integer from %lld "
                       "to %lld", f->key, (long long)f->least, (long long)f->most);
    *out = (int64_t)d;
    return 0;
}

static int read_ints(struct peft_config *c, const struct json_node *root, struct err *err)
{
    const struct int_field fields[] = {
        {"num_virtual_tokens", offsetof(struct peft_config, num_virtual_tokens), 1, max_tokens},
        {"token_dim", offsetof(struct peft_config, token_dim), 1, max_dim},
        {"num_layers", offsetof(struct peft_config, num_layers), 1, max_layers},
        {"num_attention_heads", offsetof(struct peft_config, num_attention_heads), 1, max_dim},
        {"num_tasks", offsetof(struct peft_config, num_tasks), 1, max_dim},
        {"num_ranks", offsetof(struct peft_config, num_ranks), 1, max_dim},
        {"num_frozen_tokens", offsetof(struct peft_config, num_frozen_tokens), 0, max_tokens},
    };
    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++) {
        int64_t *out = (int64_t *)(void *)((char *)c + fields[i].offset);
        if (read_int(root, &fields[i], out, err) < 0)
            return -1;
    }
    const struct int_field submodules = {"num_transformer_submodules", 0, 1, 1};
    int64_t one;
    return read_int(root, &submodules, &one, err);
}

static int read_cpt(struct peft_config *c, const struct json_node *root, struct err *err)
{
    const struct json_node *ids = find(root, "cpt_token_ids");
    c->n_cpt_token_ids = PEFT_ABSENT;
    if (c->kind != KIND_CPT || !ids)
        return 0;
    if (!json_is(ids, JSON_ARRAY))
        return not_accepted(err, "cpt_token_ids", "must be a list");
    c->n_cpt_token_ids = (int64_t)ids->n;
    return 0;
}

/* Only a hint: whatever is no string counts as none. */
static char *read_hint(const struct json_node *root)
{
    const char *s = json_string(find(root, "base_model_name_or_path"));
    return s && s[0] ? xstrndup(s, utf8_valid_len(s, strnlen(s, MAX_HINT))) : NULL;
}

static int read_all(struct peft_config *c, const struct json_node *root, struct err *err)
{
    if (!json_is(root, JSON_OBJECT))
        return err_set(err, ERR_ADAPTER, "adapter_config.json must be an object");
    if (read_kind(c, root, err) < 0 || check_purpose(root, err) < 0 ||
        read_ints(c, root, err) < 0 || read_cpt(c, root, err) < 0)
        return -1;
    c->base_hint = read_hint(root);
    return 0;
}

int peft_config_parse(struct peft_config *c, const void *bytes, size_t len, struct err *err)
{
    const struct json_limits lim = {
        .max_len = PEFT_CONFIG_MAX_BYTES, .max_depth = MAX_DEPTH, .max_items = MAX_ITEMS};
    struct err why = {0};
    memset(c, 0, sizeof *c);
    struct json_tree tree;
    if (json_tree_parse(&tree, bytes, len, &lim, &why) < 0)
        return refuse_content(err, "adapter_config.json", &why);
    int rc = read_all(c, tree.root, err);
    json_tree_free(&tree);
    return rc;
}

void peft_config_fini(struct peft_config *c)
{
    free(c->base_hint);
    memset(c, 0, sizeof *c);
}
