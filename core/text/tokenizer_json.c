/* Builds a tokenizer from a tokenizer.json, refusing by name what it does not know. */
#include "core/tokenizer.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/json_check.h"
#include "core/base/mem.h"
#include "core/text/tokenizer_parts.h"

enum { MAX_FILE = 128 << 20, MAX_DEPTH = 16, MAX_VALUES = 16 << 20 };

static int refuse(struct err *err, const char *what, const char *name, const char *accepted)
{
    return err_set(err, ERR_INVALID, "tokenizer.json: %s \"%.64s\" is not supported (%s)",
                   what, name ? name : "", accepted);
}

static int malformed(struct err *err, const char *what)
{
    return err_set(err, ERR_INVALID, "tokenizer.json: %s is missing or of the wrong kind",
                   what);
}

static const cJSON *get(const cJSON *object, const char *key)
{
    return cJSON_GetObjectItemCaseSensitive(object, key);
}

static const char *get_string(const cJSON *object, const char *key)
{
    return cJSON_GetStringValue(get(object, key));
}

static bool get_bool(const cJSON *object, const char *key, bool otherwise)
{
    const cJSON *v = get(object, key);
    return cJSON_IsBool(v) ? cJSON_IsTrue(v) : otherwise;
}

static bool is_absent(const cJSON *v)
{
    return !v || cJSON_IsNull(v);
}

static bool get_id(const cJSON *v, int32_t *id)
{
    if (!cJSON_IsNumber(v) || v->valuedouble < 0 || v->valuedouble >= VOCAB_MAX_IDS ||
        v->valuedouble != floor(v->valuedouble))
        return false;
    *id = (int32_t)v->valuedouble;
    return true;
}

/* {"String": "..."} or {"Regex": "..."}. */
static const char *get_pattern(const cJSON *object, bool *is_literal)
{
    const cJSON *pattern = get(object, "pattern");
    const char *s = get_string(pattern, "String");
    *is_literal = s != NULL;
    return s ? s : get_string(pattern, "Regex");
}

static int read_normalizer(struct normalizer *n, const cJSON *v, struct err *err);

static int read_normalizers(struct normalizer *n, const cJSON *list, struct err *err)
{
    const cJSON *v;
    if (!cJSON_IsArray(list))
        return malformed(err, "normalizer.normalizers");
    cJSON_ArrayForEach (v, list)
        if (read_normalizer(n, v, err) < 0)
            return -1;
    return 0;
}

static int read_replace(struct normalizer *n, const cJSON *v, struct err *err)
{
    bool is_literal;
    const char *from = get_pattern(v, &is_literal), *to = get_string(v, "content");
    if (!from || !to)
        return malformed(err, "normalizer Replace");
    if (!is_literal)
        return refuse(err, "normalizer Replace with the pattern", from, "strings are");
    return normalizer_add_replace(n, from, to, err);
}

static int read_normalizer(struct normalizer *n, const cJSON *v, struct err *err)
{
    static const struct {
        const char *name;
        enum norm_kind form;
    } forms[] = {
        {"NFC", NORM_NFC}, {"NFD", NORM_NFD}, {"NFKC", NORM_NFKC}, {"NFKD", NORM_NFKD}};
    const char *type = get_string(v, "type");
    if (!type)
        return malformed(err, "normalizer.type");
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++)
        if (strcmp(type, forms[i].name) == 0)
            return normalizer_add_form(n, forms[i].form, err);
    if (strcmp(type, "Sequence") == 0)
        return read_normalizers(n, get(v, "normalizers"), err);
    if (strcmp(type, "Replace") == 0)
        return read_replace(n, v, err);
    if (strcmp(type, "Prepend") == 0) {
        const char *to = get_string(v, "prepend");
        return to ? normalizer_add_prepend(n, to, err)
                  : malformed(err, "normalizer.prepend");
    }
    return refuse(err, "normalizer", type,
                  "NFC, NFD, NFKC, NFKD, Prepend, Replace, Sequence are");
}

static int read_split(struct pretokenizer *p, const cJSON *v, struct err *err)
{
    bool is_literal, is_inverted = get_bool(v, "invert", false);
    const char *regex = get_pattern(v, &is_literal), *name = get_string(v, "behavior");
    enum pre_behaviour behaviour;
    if (!regex || !name)
        return malformed(err, "pre_tokenizer Split");
    if (strcmp(name, "Isolated") == 0)
        behaviour = PRE_ISOLATED;
    else if (strcmp(name, "Removed") == 0)
        behaviour = PRE_REMOVED;
    else if (strcmp(name, "MergedWithNext") == 0)
        behaviour = PRE_MERGED_WITH_NEXT;
    else
        return refuse(err, "pre_tokenizer Split with behavior", name,
                      "Isolated, Removed, MergedWithNext are");
    return pretokenizer_add_split(p, regex, is_literal, behaviour, is_inverted, err);
}

/* Sets when the replacement goes in front, from the newer or the older field. */
static int read_prepend_scheme(const cJSON *v, enum pre_prepend *prepend, struct err *err)
{
    const char *scheme = get_string(v, "prepend_scheme");
    if (!scheme)
        *prepend =
            get_bool(v, "add_prefix_space", true) ? PRE_PREPEND_ALWAYS : PRE_PREPEND_NEVER;
    else if (strcmp(scheme, "always") == 0)
        *prepend = PRE_PREPEND_ALWAYS;
    else if (strcmp(scheme, "first") == 0)
        *prepend = PRE_PREPEND_FIRST;
    else if (strcmp(scheme, "never") == 0)
        *prepend = PRE_PREPEND_NEVER;
    else
        return refuse(err, "prepend_scheme", scheme, "always, first, never are");
    return 0;
}

static int read_metaspace(struct pretokenizer *p, const cJSON *v, struct err *err)
{
    const char *replacement = get_string(v, "replacement");
    enum pre_prepend prepend;
    if (!replacement)
        return malformed(err, "pre_tokenizer.replacement");
    if (read_prepend_scheme(v, &prepend, err) < 0)
        return -1;
    return pretokenizer_add_metaspace(p, replacement, prepend, get_bool(v, "split", true),
                                      err);
}

static int read_pretokenizer(struct pretokenizer *p, const cJSON *v, struct err *err)
{
    const char *type = get_string(v, "type");
    const cJSON *list = get(v, "pretokenizers"), *item;
    if (!type)
        return malformed(err, "pre_tokenizer.type");
    if (strcmp(type, "Split") == 0)
        return read_split(p, v, err);
    if (strcmp(type, "Digits") == 0)
        return pretokenizer_add_digits(p, get_bool(v, "individual_digits", false), err);
    if (strcmp(type, "ByteLevel") == 0)
        return pretokenizer_add_byte_level(p, get_bool(v, "add_prefix_space", true),
                                           get_bool(v, "use_regex", true), err);
    if (strcmp(type, "Metaspace") == 0)
        return read_metaspace(p, v, err);
    if (strcmp(type, "Sequence") != 0)
        return refuse(err, "pre_tokenizer", type,
                      "ByteLevel, Digits, Metaspace, Sequence, Split are");
    if (!cJSON_IsArray(list))
        return malformed(err, "pre_tokenizer.pretokenizers");
    cJSON_ArrayForEach (item, list)
        if (read_pretokenizer(p, item, err) < 0)
            return -1;
    return 0;
}

static int set_decoder_string(char *to, size_t size, const char *from, struct err *err)
{
    if (strlen(from) >= size)
        return err_set(err, ERR_INVALID, "tokenizer.json: decoder: a string over %zu bytes",
                       size - 1);
    memcpy(to, from, strlen(from) + 1);
    return 0;
}

static int read_decoder_replace(struct decoder_spec *d, const cJSON *v, struct err *err)
{
    bool is_literal;
    const char *from = get_pattern(v, &is_literal), *to = get_string(v, "content");
    if (!from || !*from || !to)
        return malformed(err, "decoder Replace");
    if (!is_literal)
        return refuse(err, "decoder Replace with the pattern", from, "strings are");
    if (set_decoder_string(d->from, sizeof d->from, from, err) < 0)
        return -1;
    return set_decoder_string(d->to, sizeof d->to, to, err);
}

static int read_decoder_strip(struct decoder_spec *d, const cJSON *v, struct err *err)
{
    const char *content = get_string(v, "content");
    const cJSON *start = get(v, "start"), *stop = get(v, "stop");
    int32_t n_start, n_stop;
    if (!content || !*content || !get_id(start, &n_start) || !get_id(stop, &n_stop))
        return malformed(err, "decoder Strip");
    if (n_stop != 0)
        return refuse(err, "decoder", "Strip", "only at the start it is");
    d->n_strip = n_start;
    return set_decoder_string(d->strip, sizeof d->strip, content, err);
}

static int read_decoder_metaspace(struct decoder_spec *d, const cJSON *v, struct err *err)
{
    const char *replacement = get_string(v, "replacement");
    enum pre_prepend prepend;
    if (!replacement || !*replacement)
        return malformed(err, "decoder.replacement");
    if (read_prepend_scheme(v, &prepend, err) < 0)
        return -1;
    d->drops_first = prepend != PRE_PREPEND_NEVER;
    d->to[0] = ' ';
    return set_decoder_string(d->from, sizeof d->from, replacement, err);
}

/* The steps in the only order in which the text of a token does not depend on the tokens
 * after it. */
enum decoder_stage {
    STAGE_START,
    STAGE_REPLACE,
    STAGE_FALLBACK,
    STAGE_WHOLE,
    STAGE_FUSE,
    STAGE_STRIP
};

struct decoder_row {
    const char *type;
    enum decoder_stage stage, least, most; /* where it leads, and from where it may come */
    int (*read)(struct decoder_spec *, const cJSON *, struct err *);
};

static int read_decoder_byte_level(struct decoder_spec *d, const cJSON *v, struct err *err)
{
    (void)v;
    (void)err;
    d->byte_level = true;
    return 0;
}

static int read_decoder_fallback(struct decoder_spec *d, const cJSON *v, struct err *err)
{
    (void)v;
    (void)err;
    d->byte_fallback = true;
    return 0;
}

static int read_decoder_fuse(struct decoder_spec *d, const cJSON *v, struct err *err)
{
    (void)d;
    (void)v;
    (void)err;
    return 0;
}

static const struct decoder_row decoder_rows[] = {
    {"Replace", STAGE_REPLACE, STAGE_START, STAGE_START, read_decoder_replace},
    {"ByteFallback", STAGE_FALLBACK, STAGE_START, STAGE_REPLACE, read_decoder_fallback},
    {"ByteLevel", STAGE_WHOLE, STAGE_START, STAGE_START, read_decoder_byte_level},
    {"Metaspace", STAGE_WHOLE, STAGE_START, STAGE_START, read_decoder_metaspace},
    {"Fuse", STAGE_FUSE, STAGE_START, STAGE_FUSE, read_decoder_fuse},
    {"Strip", STAGE_STRIP, STAGE_FUSE, STAGE_FUSE, read_decoder_strip},
};

static int read_decoder(struct decoder_spec *d, enum decoder_stage *stage, const cJSON *v,
                        struct err *err)
{
    static const char accepted[] =
        "ByteLevel, Metaspace, or Replace, ByteFallback, Fuse, Strip "
        "in this order are";
    const char *type = get_string(v, "type");
    const cJSON *list = get(v, "decoders"), *item;
    if (!type)
        return refuse(err, "decoder", "null", accepted);
    for (size_t i = 0; i < sizeof decoder_rows / sizeof *decoder_rows; i++) {
        const struct decoder_row *row = &decoder_rows[i];
        if (strcmp(type, row->type) != 0)
            continue;
        if (*stage < row->least || *stage > row->most ||
            (row->stage == STAGE_STRIP && d->byte_level))
            break;
        *stage = row->stage;
        return row->read(d, v, err);
    }
    if (strcmp(type, "Sequence") != 0)
        return refuse(err, "decoder", type, accepted);
    if (!cJSON_IsArray(list) || !list->child)
        return malformed(err, "decoder.decoders");
    cJSON_ArrayForEach (item, list)
        if (read_decoder(d, stage, item, err) < 0)
            return -1;
    return 0;
}

/* The ids of a template's special token, by its name in the template's own table. */
static int add_template_ids(struct token_list *to, const cJSON *template, const char *name,
                            struct err *err)
{
    const cJSON *ids = get(get(get(template, "special_tokens"), name), "ids"), *v;
    if (!cJSON_IsArray(ids))
        return malformed(err, "post_processor.special_tokens");
    cJSON_ArrayForEach (v, ids) {
        int32_t id;
        if (!get_id(v, &id))
            return malformed(err, "post_processor.special_tokens");
        token_list_add(to, id);
    }
    return 0;
}

static int read_template(struct tokenizer *t, const cJSON *template, struct err *err)
{
    const cJSON *single = get(template, "single"), *item;
    bool has_text = false;
    if (!cJSON_IsArray(single))
        return malformed(err, "post_processor.single");
    cJSON_ArrayForEach (item, single) {
        const char *name = get_string(get(item, "SpecialToken"), "id");
        const char *sequence = get_string(get(item, "Sequence"), "id");
        if (name) {
            if (add_template_ids(has_text ? &t->after : &t->before, template, name, err) <
                0)
                return -1;
        } else if (!sequence || strcmp(sequence, "A") != 0 || has_text) {
            return malformed(err, "post_processor.single");
        } else {
            has_text = true;
        }
    }
    return has_text ? 0 : malformed(err, "post_processor.single");
}

static int read_post_processor(struct tokenizer *t, bool *has_template, const cJSON *v,
                               struct err *err)
{
    const char *type = get_string(v, "type");
    const cJSON *list = get(v, "processors"), *item;
    if (!type)
        return malformed(err, "post_processor.type");
    if (strcmp(type, "ByteLevel") == 0)
        return 0; /* it only moves offsets */
    if (strcmp(type, "TemplateProcessing") == 0 && !*has_template) {
        *has_template = true;
        return read_template(t, v, err);
    }
    if (strcmp(type, "Sequence") != 0)
        return refuse(err, "post_processor", type,
                      "ByteLevel, Sequence and one TemplateProcessing are");
    if (!cJSON_IsArray(list))
        return malformed(err, "post_processor.processors");
    cJSON_ArrayForEach (item, list)
        if (read_post_processor(t, has_template, item, err) < 0)
            return -1;
    return 0;
}

static int read_vocab(struct bpe *b, const cJSON *vocab, struct err *err)
{
    const cJSON *v;
    if (!cJSON_IsObject(vocab))
        return malformed(err, "model.vocab");
    cJSON_ArrayForEach (v, vocab) {
        int32_t id;
        if (!get_id(v, &id))
            return err_set(err, ERR_INVALID,
                           "tokenizer.json: model.vocab: the id of \"%.64s\" is "
                           "not an integer from 0 to %d",
                           v->string, VOCAB_MAX_IDS - 1);
        if (vocab_add(&b->vocab, id, v->string, strlen(v->string), err) < 0)
            return -1;
    }
    return 0;
}

/* "left right", or ["left", "right"] for pieces that hold spaces. */
static int read_merge(struct bpe *b, const cJSON *v, uint32_t rank, struct err *err)
{
    const char *left, *right;
    size_t left_len;
    if (cJSON_IsString(v)) {
        left = v->valuestring;
        right = strchr(left, ' ');
        if (!right || strchr(right + 1, ' '))
            return malformed(err, "model.merges");
        left_len = (size_t)(right++ - left);
    } else {
        left = cJSON_GetStringValue(cJSON_GetArrayItem(v, 0));
        right = cJSON_GetStringValue(cJSON_GetArrayItem(v, 1));
        if (!left || !right || cJSON_GetArraySize(v) != 2)
            return malformed(err, "model.merges");
        left_len = strlen(left);
    }
    return bpe_add_merge(b, rank, left, left_len, right, strlen(right), err);
}

static int read_merges(struct bpe *b, const cJSON *merges, struct err *err)
{
    const cJSON *v;
    uint32_t rank = 0;
    if (!cJSON_IsArray(merges))
        return malformed(err, "model.merges");
    cJSON_ArrayForEach (v, merges)
        if (read_merge(b, v, rank++, err) < 0)
            return -1;
    return 0;
}

/* Model settings that would change the tokens and are in none of the supported families. */
static int check_model(const cJSON *model, struct err *err)
{
    const char *type = get_string(model, "type");
    const cJSON *dropout = get(model, "dropout");
    if (!cJSON_IsObject(model))
        return malformed(err, "model");
    if (type && strcmp(type, "BPE") != 0)
        return refuse(err, "model type", type, "BPE is");
    if (!is_absent(dropout) && !(cJSON_IsNumber(dropout) && dropout->valuedouble == 0))
        return refuse(err, "model setting", "dropout", "null is");
    static const char *const affixes[] = {"continuing_subword_prefix",
                                          "end_of_word_suffix"};
    for (int i = 0; i < 2; i++) {
        const char *s = get_string(model, affixes[i]);
        if (s ? *s : !is_absent(get(model, affixes[i])))
            return refuse(err, "model setting", affixes[i], "null or an empty string is");
    }
    return 0;
}

static int read_model(struct bpe *b, const cJSON *model, struct err *err)
{
    if (check_model(model, err) < 0 || read_vocab(b, get(model, "vocab"), err) < 0 ||
        read_merges(b, get(model, "merges"), err) < 0)
        return -1;
    const char *unk = get_string(model, "unk_token");
    b->unk_id = unk ? vocab_find(&b->vocab, unk, strlen(unk)) : -1;
    if (unk && b->unk_id < 0)
        return malformed(err, "the unk_token in model.vocab");
    b->fuse_unk = get_bool(model, "fuse_unk", false);
    b->byte_fallback = get_bool(model, "byte_fallback", false);
    b->ignore_merges = get_bool(model, "ignore_merges", false);
    return 0;
}

static int read_added(struct tokenizer *t, const cJSON *list, struct err *err)
{
    const cJSON *v;
    if (is_absent(list))
        return 0;
    if (!cJSON_IsArray(list))
        return malformed(err, "added_tokens");
    cJSON_ArrayForEach (v, list) {
        const char *content = get_string(v, "content");
        struct added_token token = {.is_special = get_bool(v, "special", false)};
        if (!content || !get_id(get(v, "id"), &token.id))
            return malformed(err, "added_tokens");
        token.is_normalized = get_bool(v, "normalized", !token.is_special);
        token.single_word = get_bool(v, "single_word", false);
        token.lstrip = get_bool(v, "lstrip", false);
        token.rstrip = get_bool(v, "rstrip", false);
        if (tokenizer_add_token(t, &token, content, strlen(content), err) < 0)
            return -1;
    }
    return 0;
}

/* Everything but the last step, which the settings beside the file may still change. */
static int read_root(struct tokenizer *t, const cJSON *root, struct err *err)
{
    const cJSON *normalizer = get(root, "normalizer"), *pre = get(root, "pre_tokenizer"),
                *post = get(root, "post_processor");
    enum decoder_stage stage = STAGE_START;
    bool has_template = false;
    if (!cJSON_IsObject(root))
        return malformed(err, "the outermost object");
    if (read_model(&t->bpe, get(root, "model"), err) < 0)
        return -1;
    if (!is_absent(normalizer) && read_normalizer(&t->normalizer, normalizer, err) < 0)
        return -1;
    if (!is_absent(pre) && read_pretokenizer(&t->pretokenizer, pre, err) < 0)
        return -1;
    if (read_decoder(&t->decoder_spec, &stage, get(root, "decoder"), err) < 0)
        return -1;
    if (!is_absent(post) && read_post_processor(t, &has_template, post, err) < 0)
        return -1;
    return read_added(t, get(root, "added_tokens"), err);
}

static cJSON *parse(const char *json, size_t len, struct err *err)
{
    struct json_limits lim = {
        .max_len = MAX_FILE, .max_depth = MAX_DEPTH, .max_items = MAX_VALUES};
    if (json_check(json, len, &lim, err) < 0)
        return NULL;
    cJSON *root = cJSON_ParseWithLength(json, len);
    if (!root)
        err_set(err, ERR_NO_MEMORY, "tokenizer.json: not enough memory to parse it");
    return root;
}

/* A special token of tokenizer_config.json: a string, or an object with its content. */
static int add_configured(const struct tokenizer *t, const cJSON *config, const char *which,
                          struct token_list *to, struct err *err)
{
    const cJSON *v = get(config, which);
    const char *s = cJSON_IsObject(v) ? get_string(v, "content") : cJSON_GetStringValue(v);
    if (!s)
        return 0;
    int32_t id = tokenizer_find(t, s);
    if (id < 0)
        return err_set(err, ERR_INVALID, "tokenizer_config.json: %s \"%.64s\" is no token",
                       which, s);
    token_list_add(to, id);
    return 0;
}

/* As transformers does: where the config says whether BOS and EOS are added, that alone
 * counts. */
static int apply_config(struct tokenizer *t, const cJSON *config, struct err *err)
{
    if (!get(config, "add_bos_token") && !get(config, "add_eos_token"))
        return 0;
    t->before.n = t->after.n = 0;
    if (get_bool(config, "add_bos_token", false) &&
        add_configured(t, config, "bos_token", &t->before, err) < 0)
        return -1;
    if (get_bool(config, "add_eos_token", false))
        return add_configured(t, config, "eos_token", &t->after, err);
    return 0;
}

/* config may be NULL: none. */
static struct tokenizer *open_bytes(const char *json, size_t len, const struct buf *config,
                                    struct err *err)
{
    struct tokenizer *t = xcalloc(1, sizeof *t);
    int rc = -1;
    cJSON *root = parse(json, len, err);
    if (root)
        rc = read_root(t, root, err);
    cJSON_Delete(root);
    if (rc == 0 && config) {
        root = parse(config->data, config->len, err);
        rc = root ? apply_config(t, root, err) : -1;
        cJSON_Delete(root);
    }
    if (rc == 0)
        rc = tokenizer_seal(t, err);
    if (rc == 0)
        return t;
    tokenizer_free(t);
    return NULL;
}

struct tokenizer *tokenizer_open_json(const char *json, size_t len, struct err *err)
{
    return open_bytes(json, len, NULL, err);
}

/* 1: read, 0: there is no such file, -1: it cannot be read. */
static int read_file(const char *dir, const char *name, struct buf *out, struct err *err)
{
    struct buf path = {0};
    buf_printf(&path, "%s/%s", dir, name);
    FILE *f = fopen(path.data, "rb");
    int error = errno;
    buf_free(&path);
    if (!f && error == ENOENT)
        return 0;
    if (!f)
        return err_set(err, ERR_IO, "%s: %s", name, strerror(error));
    size_t got = 1;
    while (got && out->len <= MAX_FILE) {
        buf_reserve(out, 1 << 20);
        got = fread(out->data + out->len, 1, 1 << 20, f);
        out->len += got;
    }
    bool is_bad = ferror(f) != 0;
    fclose(f);
    if (is_bad || out->len > MAX_FILE)
        return err_set(err, ERR_IO, "%s: %s", name,
                       is_bad ? "reading failed" : "too large");
    return 1;
}

struct tokenizer *tokenizer_open_dir(const char *dir, struct err *err)
{
    struct buf json = {0}, config = {0};
    struct tokenizer *t = NULL;
    int rc = read_file(dir, "tokenizer.json", &json, err);
    if (rc == 0)
        err_set(err, ERR_IO, "tokenizer.json: there is none beside the model");
    if (rc == 1) {
        rc = read_file(dir, "tokenizer_config.json", &config, err);
        if (rc >= 0)
            t = open_bytes(json.data, json.len, rc ? &config : NULL, err);
    }
    buf_free(&json);
    buf_free(&config);
    return t;
}
