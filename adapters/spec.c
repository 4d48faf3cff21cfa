/* Which files an adapter may consist of, and the reading of text adapters. */
#include "adapters/spec.h"

#include <stdlib.h>
#include <string.h>

#include "adapters/peft_files.h"
#include "adapters/refuse.h"
#include "core/base/json_tree.h"
#include "core/base/mem.h"

enum {
    TEXT_DEPTH = 2,
    TEXT_ITEMS = 8,
    TEXT_BYTES_OF_TOKEN = 3, /* about, of a text */
};

static bool ends_with(const char *s, const char *end)
{
    size_t n = strlen(s), m = strlen(end);
    return n >= m && strcmp(s + n - m, end) == 0;
}

static int unknown_file(const char *name, struct err *err)
{
    static const char *const pickles[] = {".bin", ".pt", ".pth", ".pkl", ".ckpt"};
    for (size_t i = 0; i < sizeof pickles / sizeof pickles[0]; i++)
        if (ends_with(name, pickles[i]))
            return err_set(err, ERR_ADAPTER, "%.*s: " PEFT_FILES_PICKLE, refuse_shown(name), name);
    return err_param(err, ERR_INVALID, "file", "file \"%.*s\" is not accepted; send "
                     SPEC_CONFIG_FILE " and " SPEC_WEIGHTS_FILE ", or the JSON of a text adapter",
                     refuse_shown(name), name);
}

struct file_set {
    const struct adapter_file *config, *weights, *text;
};

static int sort_files(struct file_set *set, const struct adapter_file *files, int n,
                      struct err *err)
{
    memset(set, 0, sizeof *set);
    for (int i = 0; i < n; i++) {
        const char *name = files[i].name;
        const struct adapter_file **slot = strcmp(name, SPEC_CONFIG_FILE) == 0    ? &set->config
                                           : strcmp(name, SPEC_WEIGHTS_FILE) == 0 ? &set->weights
                                           : strcmp(name, SPEC_TEXT_FILE) == 0    ? &set->text
                                                                                  : NULL;
        if (!slot)
            return unknown_file(name, err);
        if (*slot)
            return err_param(err, ERR_INVALID, "file", "%s was sent twice", name);
        *slot = &files[i];
    }
    if (set->text && (set->config || set->weights))
        return err_param(err, ERR_INVALID, "file",
                         "either the two PEFT files or a text adapter, not both");
    if (!set->text && !set->config)
        return err_param(err, ERR_INVALID, "file", SPEC_CONFIG_FILE " is missing");
    if (!set->text && !set->weights)
        return err_param(err, ERR_INVALID, "file", SPEC_WEIGHTS_FILE " is missing");
    return 0;
}

static int check_size(const struct adapter_file *f, size_t most, struct err *err)
{
    if (f->len > most)
        return err_set(err, ERR_TOO_LARGE, "%s has %zu bytes; at most %zu are accepted", f->name,
                       f->len, most);
    return 0;
}

static int read_text(struct adapter_spec *s, const struct json_node *root, struct err *err)
{
    const struct json_node *kind = json_member(root, "kind"), *text = json_member(root, "text");
    if (!json_is(kind, JSON_STRING) || strcmp(kind->text, "text") != 0)
        return err_param(err, ERR_ADAPTER, "kind", "a text adapter is an object with \"kind\": "
                         "\"text\" and \"text\"");
    if (!json_is(text, JSON_STRING) || !text->text[0])
        return err_param(err, ERR_ADAPTER, "text", "\"text\" must be a string that is not empty");
    for (const struct json_node *v = root->first; v; v = v->next)
        if (v != kind && v != text)
            return err_set(err, ERR_ADAPTER, "unknown key \"%.*s\" in a text adapter; known are "
                           "\"kind\" and \"text\"", refuse_shown(v->key), v->key);
    s->text = xstrdup(text->text);
    return 0;
}

static int parse_text(struct adapter_spec *s, const struct adapter_file *f, struct err *err)
{
    const struct json_limits lim = {
        .max_len = SPEC_MAX_JSON, .max_depth = TEXT_DEPTH, .max_items = TEXT_ITEMS};
    struct err why = {0};
    if (check_size(f, SPEC_MAX_JSON, err) < 0)
        return -1;
    struct json_tree tree;
    if (json_tree_parse(&tree, f->bytes, f->len, &lim, &why) < 0)
        return refuse_content(err, "text adapter", &why);
    int rc = read_text(s, tree.root, err);
    json_tree_free(&tree);
    s->kind = KIND_TEXT;
    return rc;
}

int spec_parse(struct adapter_spec *s, const struct adapter_file *files, int n_files,
               const struct spec_limits *lim, struct err *err)
{
    struct file_set set;
    memset(s, 0, sizeof *s);
    s->n_tasks = 1;
    if (sort_files(&set, files, n_files, err) < 0)
        return -1;
    if (set.text)
        return parse_text(s, set.text, err);
    if (check_size(set.config, SPEC_MAX_JSON, err) < 0 ||
        check_size(set.weights, lim->max_bytes, err) < 0)
        return -1;
    return peft_files_check(s, set.config, set.weights, lim, err);
}

int64_t spec_total_tokens(const struct adapter_spec *s)
{
    int64_t each = s->text ? 1 + (int64_t)strlen(s->text) / TEXT_BYTES_OF_TOKEN : s->n_tokens;
    return each * s->n_tasks;
}

void spec_fini(struct adapter_spec *s)
{
    safetensors_fini(&s->tensors);
    free(s->text);
    free(s->base_hint);
    memset(s, 0, sizeof *s);
}

static void digest_file(struct digest *d, const struct adapter_file *f)
{
    digest_part(d, f->name, strlen(f->name));
    digest_part(d, f->bytes, f->len);
}

void spec_digest(const struct adapter_file *files, int n_files, char hex[DIGEST_HEX + 1])
{
    struct digest d;
    digest_init(&d);
    digest_part(&d, SPEC_DIGEST_TAG, sizeof SPEC_DIGEST_TAG - 1);
    bool is_swapped = n_files == 2 && strcmp(files[0].name, files[1].name) > 0;
    for (int i = 0; i < n_files; i++)
        digest_file(&d, &files[is_swapped ? n_files - 1 - i : i]);
    digest_hex(&d, hex);
}
