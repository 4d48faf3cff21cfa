/* The settings: defaults, then the JSON file, then the flags, all through one table. */
#include "config/config.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/json_check.h"
#include "core/base/mem.h"

enum kind { KIND_STR, KIND_INT, KIND_BOOL };

enum { FILE_MAX = 1 << 20, FILE_MAX_ITEMS = 1000 };

struct setting { /* a row of CONFIG_KEYS */
    enum kind kind;
    const char *flag, *key; /* either may be NULL */
    size_t offset;          /* of the field in struct config */
    const char *text;       /* KIND_STR: default */
    const char *choices;    /* KIND_STR: "a|b" or NULL */
    int64_t number;         /* KIND_INT, KIND_BOOL: default */
    int64_t min, max;
    const char *unit;
    const char *doc;
};

/* clang-format off */
#define ROW_STR(field, flag_, key_, def, choices_, doc_)                                   \
    {.kind = KIND_STR, .flag = flag_, .key = key_, .text = def, .choices = choices_,       \
     .offset = offsetof(struct config, field), .doc = doc_},
#define ROW_INT(field, flag_, key_, def, min_, max_, unit_, doc_)                          \
    {.kind = KIND_INT, .flag = flag_, .key = key_, .number = def, .min = min_,             \
     .max = max_, .unit = unit_, .offset = offsetof(struct config, field), .doc = doc_},
#define ROW_BOOL(field, flag_, key_, def, doc_)                                            \
    {.kind = KIND_BOOL, .flag = flag_, .key = key_, .number = def,                         \
     .offset = offsetof(struct config, field), .doc = doc_},
/* clang-format on */

static const struct setting settings[] = {CONFIG_KEYS(ROW_STR, ROW_INT, ROW_BOOL)};

enum { N_SETTINGS = sizeof settings / sizeof *settings };

/* ---- one value ----------------------------------------------------------------------- */

static bool is_bytes(const struct setting *s)
{
    return s->kind == KIND_INT && strcmp(s->unit, "bytes") == 0;
}

static void add_accepted(struct buf *out, const struct setting *s)
{
    if (s->kind == KIND_BOOL)
        buf_add_str(out, "true or false");
    else if (s->kind == KIND_STR)
        buf_add_str(out, s->choices ? s->choices : "text");
    else if (s->max == INT64_MAX)
        buf_printf(out, "%" PRId64 " or more %s", s->min, s->unit);
    else
        buf_printf(out, "%" PRId64 " to %" PRId64 " %s", s->min, s->max, s->unit);
    if (is_bytes(s) && s->flag)
        buf_printf(out, " (--%s also takes k, M or G for KiB, MiB, GiB)", s->flag);
}

static bool is_control(char c)
{
    return (unsigned char)c < 0x20 || c == 0x7f;
}

/* Says what is wrong in one line, whatever bytes the value has. A flag's value stands in
 * quotes; one of the file is shown as the JSON that it is. */
static int refuse(const struct setting *s, const char *what, const char *value,
                  struct err *err)
{
    struct buf accepted = {0};
    char shown[81];
    const char *quote = strncmp(what, "--config ", 9) == 0 ? "" : "\"";
    snprintf(shown, sizeof shown, "%s", value);
    for (char *c = shown; *c; c++)
        if (is_control(*c))
            *c = '?';
    add_accepted(&accepted, s);
    if (s->kind == KIND_STR && !s->choices)
        buf_add_str(&accepted, " without control characters");
    err_set(err, ERR_INVALID, "%s: %s%s%s is not accepted; accepted: %s", what, quote, shown,
            quote, accepted.data);
    buf_free(&accepted);
    return -1;
}

static int refuse_missing(const struct setting *s, struct err *err)
{
    struct buf accepted = {0};
    add_accepted(&accepted, s);
    err_set(err, ERR_INVALID, "--%s: no value is given (%s); accepted: %s", s->flag, s->doc,
            accepted.data);
    buf_free(&accepted);
    return -1;
}

static bool is_choice(const char *choices, const char *value)
{
    size_t len = strlen(value);
    for (const char *at = choices; at; at = strchr(at, '|')) {
        at += *at == '|';
        if (strcspn(at, "|") == len && strncmp(at, value, len) == 0)
            return true;
    }
    return false;
}

static bool has_control(const char *text)
{
    while (*text && !is_control(*text))
        text++;
    return *text;
}

/* No name, path or origin has a use for control characters, and all of them come to stand
 * in headers or log lines. */
static int put_text(struct config *cfg, const struct setting *s, const char *what,
                    const char *value, const char *shown, struct err *err)
{
    char **field = (void *)((char *)cfg + s->offset);
    if (has_control(value) || (s->choices && !is_choice(s->choices, value)))
        return refuse(s, what, shown, err);
    free(*field);
    *field = xstrdup(value);
    return 0;
}

static int put_int(struct config *cfg, const struct setting *s, const char *what,
                   int64_t value, const char *shown, struct err *err)
{
    int64_t *field = (void *)((char *)cfg + s->offset);
    if (value < s->min || value > s->max)
        return refuse(s, what, shown, err);
    *field = value;
    return 0;
}

static void put_bool(struct config *cfg, const struct setting *s, bool value)
{
    bool *field = (void *)((char *)cfg + s->offset);
    *field = value;
}

/* Plain decimal digits, with k, M or G after them where bytes are counted. */
static int read_int(const struct setting *s, const char *text, int64_t *out)
{
    char *end;
    int shift = 0;
    if (text[0] < '0' || text[0] > '9')
        return -1;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    if (errno)
        return -1;
    if (is_bytes(s) && *end) {
        shift = *end == 'k' || *end == 'K' ? 10 : *end == 'M' ? 20 : *end == 'G' ? 30 : 0;
        end += shift > 0;
    }
    if (*end || value > INT64_MAX >> shift)
        return -1;
    *out = (int64_t)value << shift;
    return 0;
}

static int put_flag(struct config *cfg, const struct setting *s, const char *value,
                    struct err *err)
{
    char what[64];
    int64_t number;
    snprintf(what, sizeof what, "--%s", s->flag);
    switch (s->kind) {
    case KIND_STR:
        return put_text(cfg, s, what, value, value, err);
    case KIND_INT:
        if (read_int(s, value, &number) < 0)
            return refuse(s, what, value, err);
        return put_int(cfg, s, what, number, value, err);
    case KIND_BOOL:
        if (!is_choice("true|false", value))
            return refuse(s, what, value, err);
        put_bool(cfg, s, value[0] == 't');
    }
    return 0;
}

static void put_default(struct config *cfg, const struct setting *s)
{
    char **text = (void *)((char *)cfg + s->offset);
    int64_t *number = (void *)((char *)cfg + s->offset);
    if (s->kind == KIND_STR)
        *text = xstrdup(s->text);
    else if (s->kind == KIND_INT)
        *number = s->number;
    else
        put_bool(cfg, s, s->number != 0);
}

/* ---- the JSON file ------------------------------------------------------------------- */

static int read_file(const char *path, struct buf *out, struct err *err)
{
    char chunk[4096];
    size_t n;
    FILE *f = fopen(path, "rb");
    if (!f)
        return err_set(err, ERR_INVALID, "--config %.120s: %s; accepted: a JSON file",
                       path, strerror(errno));
    while (out->len <= FILE_MAX && (n = fread(chunk, 1, sizeof chunk, f)) > 0)
        buf_add(out, chunk, n);
    int is_bad = ferror(f);
    fclose(f);
    if (is_bad || out->len > FILE_MAX)
        return err_set(
            err, ERR_INVALID,
            "--config %.120s: it cannot be read; accepted: a JSON file up to %d bytes",
            path, FILE_MAX);
    return 0;
}

static int put_json(struct config *cfg, const struct setting *s, const cJSON *v,
                    const char *path, struct err *err)
{
    int rc = -1;
    char what[200], *json = cJSON_PrintUnformatted(v);
    const char *shown = json ? json : "";
    snprintf(what, sizeof what, "--config %.120s: %s", path, s->key);
    if (s->kind == KIND_STR && cJSON_IsString(v)) {
        rc = put_text(cfg, s, what, v->valuestring, shown, err);
    } else if (s->kind == KIND_INT && cJSON_IsNumber(v)) {
        rc = put_int(cfg, s, what, (int64_t)v->valuedouble, shown, err);
    } else if (s->kind == KIND_BOOL && cJSON_IsBool(v)) {
        put_bool(cfg, s, cJSON_IsTrue(v));
        rc = 0;
    } else {
        refuse(s, what, shown, err);
    }
    cJSON_free(json);
    return rc;
}

static const struct setting *setting_of_key(const char *key)
{
    for (size_t i = 0; i < N_SETTINGS; i++)
        if (settings[i].key && strcmp(settings[i].key, key) == 0)
            return &settings[i];
    return NULL;
}

static int put_object(struct config *cfg, const cJSON *root, const char *path,
                      struct err *err)
{
    if (!cJSON_IsObject(root))
        return err_set(err, ERR_INVALID, "--config %.120s: not a JSON object", path);
    for (const cJSON *v = root->child; v; v = v->next) {
        const struct setting *s = setting_of_key(v->string);
        if (!s)
            return err_set(
                err, ERR_INVALID,
                "--config %.120s: unknown key \"%.64s\"; accepted: the keys that --help lists",
                path, v->string);
        if (put_json(cfg, s, v, path, err) < 0)
            return -1;
    }
    return 0;
}

/* No setting is negative or fractional, so the strict number check costs nothing and makes
 * every integer exact. */
static int put_file(struct config *cfg, const char *path, struct err *err)
{
    static const struct json_limits limits = {.max_len = FILE_MAX,
                                              .max_depth = 2,
                                              .max_items = FILE_MAX_ITEMS,
                                              .integers_only = true};
    struct buf text = {0};
    struct err why = {0};
    int rc = read_file(path, &text, err);
    if (rc == 0) {
        rc = json_check(text.data ? text.data : "", text.len, &limits, &why);
        if (rc < 0)
            err_set(err, ERR_INVALID, "--config %.120s: %s", path, why.msg);
    }
    if (rc == 0) {
        cJSON *root = cJSON_ParseWithLength(text.data, text.len);
        rc = put_object(cfg, root, path, err);
        cJSON_Delete(root);
    }
    buf_free(&text);
    return rc;
}

/* ---- flags --------------------------------------------------------------------------- */

static const struct setting *setting_of_flag(const char *name, size_t len)
{
    for (size_t i = 0; i < N_SETTINGS; i++)
        if (settings[i].flag && strlen(settings[i].flag) == len &&
            strncmp(settings[i].flag, name, len) == 0)
            return &settings[i];
    return NULL;
}

/* Collects the text given for each setting; of a flag given twice the last one counts. */
static enum config_action read_flags(const char *given[N_SETTINGS], int argc, char **argv,
                                     struct err *err)
{
    for (int i = 1; i < argc; i++) {
        const char *arg = argv[i];
        if (strcmp(arg, "--help") == 0)
            return CONFIG_HELP;
        if (strcmp(arg, "--version") == 0)
            return CONFIG_VERSION;
        size_t len = strcspn(arg, "=");
        const struct setting *s =
            strncmp(arg, "--", 2) == 0 ? setting_of_flag(arg + 2, len - 2) : NULL;
        if (!s) {
            err_set(err, ERR_INVALID,
                    "unknown flag \"%.64s\"; accepted: the flags that --help lists", arg);
            return CONFIG_BAD;
        }
        const char *value = arg[len] ? arg + len + 1 : argv[++i];
        if (!value || (!arg[len] && strncmp(value, "--", 2) == 0)) {
            refuse_missing(s, err);
            return CONFIG_BAD;
        }
        given[s - settings] = value;
    }
    return CONFIG_RUN;
}

static int put_all(struct config *cfg, const char *given[N_SETTINGS], struct err *err)
{
    const char *file = given[setting_of_flag("config", 6) - settings];
    for (size_t i = 0; i < N_SETTINGS; i++)
        put_default(cfg, &settings[i]);
    if (file && *file && put_file(cfg, file, err) < 0)
        return -1;
    for (size_t i = 0; i < N_SETTINGS; i++)
        if (given[i] && put_flag(cfg, &settings[i], given[i], err) < 0)
            return -1;
    if (!*cfg->model)
        return err_set(
            err, ERR_INVALID,
            "--model: not given; accepted: a Hugging Face directory or a GGUF file");
    return 0;
}

enum config_action config_from_args(struct config *cfg, int argc, char **argv,
                                    struct err *err)
{
    const char *given[N_SETTINGS] = {0};
    *cfg = (struct config){0};
    enum config_action action = read_flags(given, argc, argv, err);
    if (action == CONFIG_RUN && put_all(cfg, given, err) < 0) {
        config_fini(cfg);
        action = CONFIG_BAD;
    }
    return action;
}

bool config_wants_json(int argc, char **argv)
{
    bool wants = false;
    for (int i = 1; i < argc; i++) {
        bool is_word = strcmp(argv[i], "--log-format") == 0 && i + 1 < argc;
        if (is_word || strncmp(argv[i], "--log-format=", 13) == 0)
            wants = strcmp(is_word ? argv[i + 1] : argv[i] + 13, "json") == 0;
    }
    return wants;
}

void config_fini(struct config *cfg)
{
    for (size_t i = 0; i < N_SETTINGS; i++) {
        char **text = (void *)((char *)cfg + settings[i].offset);
        if (settings[i].kind == KIND_STR)
            free(*text);
    }
    *cfg = (struct config){0};
}

/* ---- what people read ---------------------------------------------------------------- */

static void add_default(struct buf *out, const struct setting *s)
{
    if (s->kind == KIND_STR)
        buf_add_str(out, *s->text ? s->text : "none");
    else if (s->kind == KIND_INT)
        buf_printf(out, "%" PRId64, s->number);
    else
        buf_add_str(out, s->number ? "true" : "false");
}

static void add_help_row(struct buf *out, const char *dashes, const char *name,
                         const struct setting *s)
{
    buf_printf(out, "  %s%-*s %s\n      ", dashes, (int)(30 - strlen(dashes)), name,
               s->doc);
    add_accepted(out, s);
    buf_add_str(out, "; default ");
    add_default(out, s);
    buf_add_char(out, '\n');
}

void config_help(struct buf *out)
{
    buf_add_str(out, "usage: prefixd --model PATH [--flag VALUE | --flag=VALUE]...\n"
                     "       prefixd tenant|key|backup --help   tenants, keys and copies of a "
                     "state folder\n\n"
                     "Flags (they win over the file of --config):\n");
    for (size_t i = 0; i < N_SETTINGS; i++)
        if (settings[i].flag)
            add_help_row(out, "--", settings[i].flag, &settings[i]);
    buf_add_str(out, "  --help                         this list\n"
                     "  --version                      name and version\n\n"
                     "Keys of the JSON file, besides each flag's name with _ for -:\n");
    for (size_t i = 0; i < N_SETTINGS; i++)
        if (!settings[i].flag)
            add_help_row(out, "", settings[i].key, &settings[i]);
}

/* A bar inside a cell would end it. */
static void add_cell(struct buf *out, const char *before, const char *text,
                     const char *after)
{
    buf_printf(out, "| %s", before);
    for (; *text; text++) {
        if (*text == '|')
            buf_add_char(out, '\\');
        buf_add_char(out, *text);
    }
    buf_printf(out, "%s ", after);
}

static void add_markdown_row(struct buf *out, const struct setting *s)
{
    struct buf accepted = {0}, def = {0};
    add_accepted(&accepted, s);
    add_default(&def, s);
    add_cell(out, s->flag ? "`--" : "", s->flag ? s->flag : "", s->flag ? "`" : "");
    add_cell(out, s->key ? "`" : "", s->key ? s->key : "", s->key ? "`" : "");
    add_cell(out, "", def.data, "");
    add_cell(out, "", accepted.data, "");
    add_cell(out, "", s->doc, "");
    buf_add_str(out, "|\n");
    buf_free(&accepted);
    buf_free(&def);
}

void config_markdown(struct buf *out)
{
    buf_add_str(out,
                "| flag | key | default | accepted | meaning |\n|---|---|---|---|---|\n");
    for (size_t i = 0; i < N_SETTINGS; i++)
        add_markdown_row(out, &settings[i]);
}
