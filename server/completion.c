/* From a completion request's body to checked parameters, field by field through a table.
 */
#include "server/completion.h"

#include <cjson/cJSON.h>
#include <float.h>
#include <limits.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/json_check.h"
#include "core/base/json_scan.h"

enum {
    MAX_DEPTH = 64,
    MAX_VALUES = 1 << 13, /* of JSON in a body, token ids apart: bounds what it can cost */
    MAX_COUNT = 1 << 30, /* of tokens: leaves room in an int to add a prompt and a prefix */
    MAX_STOP_BYTES = 1024,
};

struct parse { /* one call of completion_parse */
    struct completion *c;
    struct arena *arena;
    struct err *err;
    struct json_ids ids; /* the prompt, if it is of token ids in plain digits */
    const char *seed;    /* where its value stands in the body; NULL: nowhere */
    const cJSON *best_of, *stream_options; /* judged when all other fields are known */
};

struct field {
    const char *name;
    int (*set)(struct parse *p, const struct field *f,
               const cJSON *v); /* v is never null */
    size_t offset;              /* of what is set, in struct completion */
    double min, max;            /* of numbers */
    bool (*is_noop)(
        const cJSON *v); /* of what is not supported: values that change nothing */
};

/* ---- refusals ------------------------------------------------------------------------ */

/* Integers to the last digit, as far as a client can have meant one. */
static void print_number(char *out, size_t size, double d)
{
    bool is_integer = d == floor(d) && fabs(d) < 1e20;
    snprintf(out, size, is_integer ? "%.0f" : "%.15g", d);
}

/* "VALUE is not accepted for FIELD; accepted: ..." with a value short enough for a log
 * line. */
static int refuse(struct parse *p, const struct field *f, const cJSON *v,
                  const char *accepted)
{
    char value[48];
    if (cJSON_IsNumber(v))
        print_number(value, sizeof value, v->valuedouble);
    else if (cJSON_IsBool(v))
        snprintf(value, sizeof value, "%s", cJSON_IsTrue(v) ? "true" : "false");
    else
        snprintf(value, sizeof value, "this %s",
                 cJSON_IsString(v)  ? "string"
                 : cJSON_IsArray(v) ? "list"
                 : cJSON_IsNull(v)  ? "null"
                                    : "object");
    return err_param(p->err, ERR_INVALID, f->name, "%s: %s is not accepted; accepted: %s",
                     f->name, value, accepted);
}

static int refuse_range(struct parse *p, const struct field *f, const cJSON *v,
                        const char *kind)
{
    char accepted[96], min[32], max[32] = "9223372036854775807"; /* no double is 2^63-1 */
    print_number(min, sizeof min, f->min);
    if (f->max < 0x1p63)
        print_number(max, sizeof max, f->max);
    snprintf(accepted, sizeof accepted, "%s from %s to %s", kind, min, max);
    return refuse(p, f, v, accepted);
}

/* ---- plain kinds --------------------------------------------------------------------- */

static void *place(const struct parse *p, const struct field *f)
{
    return (char *)p->c + f->offset;
}

static int set_float(struct parse *p, const struct field *f, const cJSON *v)
{
    if (!cJSON_IsNumber(v) || !(v->valuedouble >= f->min && v->valuedouble <= f->max))
        return refuse_range(p, f, v, "a number");
    *(float *)place(p, f) = (float)v->valuedouble;
    return 0;
}

/* Above zero even as f32, so that what is divided or compared by it stays meaningful. */
static int set_share(struct parse *p, const struct field *f, const cJSON *v)
{
    if (!cJSON_IsNumber(v) ||
        !(v->valuedouble >= (double)FLT_MIN && v->valuedouble <= f->max))
        return refuse(p, f, v, "a number above 0 and at most 1");
    *(float *)place(p, f) = (float)v->valuedouble;
    return 0;
}

/* Whole numbers may be written 1.0. JSON numbers come as doubles: 2^63-1 does as 2^63. */
static int read_int(struct parse *p, const struct field *f, const cJSON *v, int64_t *out)
{
    double d = v->valuedouble;
    if (!cJSON_IsNumber(v) || !(d >= f->min && d <= f->max) || d != floor(d))
        return refuse_range(p, f, v, "an integer");
    *out = d >= 0x1p63 ? INT64_MAX : (int64_t)d;
    return 0;
}

static int set_int(struct parse *p, const struct field *f, const cJSON *v)
{
    int64_t value;
    if (read_int(p, f, v, &value) < 0)
        return -1;
    *(int *)place(p, f) = (int)value;
    return 0;
}

static int set_bool(struct parse *p, const struct field *f, const cJSON *v)
{
    if (!cJSON_IsBool(v))
        return refuse(p, f, v, "true or false");
    *(bool *)place(p, f) = cJSON_IsTrue(v);
    return 0;
}

static int set_string(struct parse *p, const struct field *f, const cJSON *v)
{
    if (!cJSON_IsString(v))
        return refuse(p, f, v, "a string");
    *(const char **)place(p, f) = arena_strdup(p->arena, v->valuestring);
    return 0;
}

static int check_string(struct parse *p, const struct field *f, const cJSON *v)
{
    return cJSON_IsString(v) ? 0 : refuse(p, f, v, "a string");
}

/* ---- fields with a rule of their own ------------------------------------------------- */

static int set_top_k(struct parse *p, const struct field *f, const cJSON *v)
{
    if (set_int(p, f, v) < 0)
        return -1;
    if (p->c->sampling.top_k < 0)
        p->c->sampling.top_k = 0;
    return 0;
}

/* The digits themselves, which a double does not hold. False: not plain ones, or too many.
 */
static bool read_digits(const char *s, int64_t *out)
{
    bool is_negative = *s == '-';
    int64_t value = 0;
    s += is_negative;
    for (; *s >= '0' && *s <= '9'; s++)
        if (__builtin_mul_overflow(value, 10, &value) ||
            __builtin_sub_overflow(value, *s - '0', &value))
            return false;
    if (*s == '.' || *s == 'e' || *s == 'E' || (!is_negative && value == INT64_MIN))
        return false;
    *out = is_negative ? value : -value;
    return true;
}

static int set_seed(struct parse *p, const struct field *f, const cJSON *v)
{
    int64_t seed;
    if (read_int(p, f, v, &seed) < 0)
        return -1;
    bool is_exact = p->seed && read_digits(p->seed, &seed);
    if (!is_exact && fabs(v->valuedouble) >= 0x1p63)
        return refuse_range(p, f, v, "an integer"); /* its double hides how far it is out */
    p->c->sampling.seed = (uint64_t)seed;
    p->c->has_seed = true;
    return 0;
}

static int set_task(struct parse *p, const struct field *f, const cJSON *v)
{
    p->c->has_task = true;
    return read_int(p, f, v, &p->c->task_id);
}

/* The chat API's booleans reach here too: false asks for nothing, true does not say how
 * many. */
static int set_logprobs(struct parse *p, const struct field *f, const cJSON *v)
{
    return cJSON_IsFalse(v) ? 0 : set_int(p, f, v);
}

static int refuse_stop(struct parse *p, const struct field *f, const char *what,
                       size_t n, int max)
{
    return err_param(p->err, ERR_INVALID, f->name, "stop: %s, %zu, is more than %d", what, n,
                     max);
}

static int add_stop(struct parse *p, const struct field *f, const cJSON *v)
{
    struct completion *c = p->c;
    size_t len = cJSON_IsString(v) ? strlen(v->valuestring) : 0;
    if (len > MAX_STOP_BYTES)
        return refuse_stop(p, f, "the length of a string in bytes", len, MAX_STOP_BYTES);
    if (len == 0) {
        char accepted[96];
        snprintf(accepted, sizeof accepted,
                 "a string of 1 to %d bytes, or a list of up to %d of those",
                 MAX_STOP_BYTES, JOB_MAX_STOPS);
        return refuse(p, f, v, accepted);
    }
    c->stops[c->n_stops++] =
        (struct job_stop){.text = arena_strndup(p->arena, v->valuestring, len), .len = len};
    return 0;
}

static int set_stop(struct parse *p, const struct field *f, const cJSON *v)
{
    if (!cJSON_IsArray(v))
        return add_stop(p, f, v);
    size_t n = (size_t)cJSON_GetArraySize(v);
    if (n > JOB_MAX_STOPS)
        return refuse_stop(p, f, "the number of strings", n, JOB_MAX_STOPS);
    for (const cJSON *item = v->child; item; item = item->next)
        if (add_stop(p, f, item) < 0)
            return -1;
    return 0;
}

static int keep_best_of(struct parse *p, const struct field *f, const cJSON *v)
{
    (void)f;
    p->best_of = v;
    return 0;
}

static int set_stream_options(struct parse *p, const struct field *f, const cJSON *v)
{
    const cJSON *usage = cJSON_GetObjectItemCaseSensitive(v, "include_usage");
    if (!cJSON_IsObject(v) || (usage && !cJSON_IsBool(usage) && !cJSON_IsNull(usage)))
        return refuse(p, f, v, "{\"include_usage\": true or false}");
    p->c->has_usage_chunk = cJSON_IsTrue(usage);
    p->stream_options = v;
    return 0;
}

/* ---- prompts ------------------------------------------------------------------------- */

static const char prompt_forms[] =
    "a string, a list of strings, a list of token ids, or a list of "
    "those; none of them empty, no mix";

static int refuse_empty(struct parse *p, const struct field *f)
{
    return err_param(p->err, ERR_INVALID, f->name,
                     "prompt: an empty prompt is not accepted");
}

static int refuse_many(struct parse *p, const struct field *f, size_t n)
{
    return err_param(p->err, ERR_INVALID, f->name,
                     "prompt: %zu prompts are too many, at most %d", n, JOB_MAX_CHOICES);
}

static int fill_text(struct parse *p, const struct field *f, const cJSON *v,
                     struct completion_prompt *out)
{
    size_t len = strlen(v->valuestring);
    if (len == 0)
        return refuse_empty(p, f);
    out->text = arena_strndup(p->arena, v->valuestring, len);
    out->text_len = len;
    return 0;
}

/* The largest id that the vocabulary has is the server's to check. */
static int fill_ids(struct parse *p, const struct field *f, const cJSON *v,
                    struct completion_prompt *out)
{
    int n = cJSON_GetArraySize(v), i = 0;
    if (n == 0)
        return refuse_empty(p, f);
    int32_t *ids = arena_array(p->arena, (size_t)n, sizeof *ids);
    for (const cJSON *id = v->child; id; id = id->next) {
        double d = id->valuedouble;
        if (!cJSON_IsNumber(id))
            return refuse(p, f, id, prompt_forms);
        if (!(d >= 0 && d <= INT32_MAX) || d != floor(d))
            return refuse(p, f, id, "token ids that are integers, 0 or more");
        ids[i++] = (int32_t)d;
    }
    out->ids = ids;
    out->n_ids = n;
    return 0;
}

static int fill_prompt(struct parse *p, const struct field *f, const cJSON *v)
{
    struct completion_prompt *out = &p->c->prompts[p->c->n_prompts++];
    if (cJSON_IsString(v))
        return fill_text(p, f, v, out);
    return cJSON_IsArray(v) ? fill_ids(p, f, v, out) : refuse(p, f, v, prompt_forms);
}

/* What the body's scan has found already. */
static int take_ids(struct parse *p, const struct field *f)
{
    const struct json_ids *l = &p->ids;
    size_t n = l->is_nested ? l->n_lists : 1, from = 0;
    if (n > JOB_MAX_CHOICES)
        return refuse_many(p, f, n);
    int32_t *ids = arena_array(p->arena, l->n, sizeof *ids);
    if (l->n)
        memcpy(ids, l->ids, l->n * sizeof *ids);
    p->c->prompts = arena_array(p->arena, n, sizeof *p->c->prompts);
    for (size_t i = 0; i < n; i++) {
        size_t to = l->is_nested ? l->ends[i] : l->n;
        if (to == from)
            return refuse_empty(p, f);
        p->c->prompts[p->c->n_prompts++] =
            (struct completion_prompt){.ids = ids + from, .n_ids = (int)(to - from)};
        from = to;
    }
    return 0;
}

static bool is_list_of_prompts(const cJSON *v)
{
    return cJSON_IsArray(v) && (cJSON_IsString(v->child) || cJSON_IsArray(v->child));
}

static int set_prompt(struct parse *p, const struct field *f, const cJSON *v)
{
    if (p->ids.n || p->ids.n_lists)
        return take_ids(p, f);
    int n = is_list_of_prompts(v) ? cJSON_GetArraySize(v) : 1;
    if (n > JOB_MAX_CHOICES)
        return refuse_many(p, f, (size_t)n);
    p->c->prompts = arena_array(p->arena, (size_t)n, sizeof *p->c->prompts);
    if (!is_list_of_prompts(v))
        return fill_prompt(p, f, v);
    for (const cJSON *item = v->child; item; item = item->next) {
        if (cJSON_IsString(item) != cJSON_IsString(v->child))
            return refuse(p, f, item, prompt_forms);
        if (fill_prompt(p, f, item) < 0)
            return -1;
    }
    return 0;
}

/* ---- what is known but not supported ------------------------------------------------- */

static bool is_zero(const cJSON *v)
{
    return cJSON_IsNumber(v) && v->valuedouble == 0;
}

static bool is_one(const cJSON *v)
{
    return cJSON_IsNumber(v) && v->valuedouble == 1;
}

static bool is_false(const cJSON *v)
{
    return cJSON_IsFalse(v);
}

static bool is_true(const cJSON *v)
{
    return cJSON_IsTrue(v);
}

static bool is_empty(const cJSON *v)
{
    return cJSON_IsString(v) ? !*v->valuestring
                             : (cJSON_IsArray(v) || cJSON_IsObject(v)) && !v->child;
}

static bool is_text_format(const cJSON *v)
{
    const cJSON *type = cJSON_GetObjectItemCaseSensitive(v, "type");
    return cJSON_IsString(type) && strcmp(type->valuestring, "text") == 0;
}

static bool is_never(const cJSON *v)
{
    (void)v;
    return false;
}

static int check_noop(struct parse *p, const struct field *f, const cJSON *v)
{
    if (f->is_noop(v))
        return 0;
    return err_param(p->err, ERR_INVALID, f->name,
                     "%s is not supported; leave it out or give it as null", f->name);
}

/* ---- the table ----------------------------------------------------------------------- */

/* clang-format off */
#define AT(field) offsetof(struct completion, field)
#define NUMBER(name, field, set, min, max) {name, set, AT(field), min, max, NULL}
#define FIELD(name, field, set) {name, set, AT(field), 0, 0, NULL}
#define RULE(name, set) {name, set, 0, 0, 0, NULL}
#define UNSUPPORTED(name, is_noop) {name, check_noop, 0, 0, 0, is_noop}
/* clang-format on */

static const struct field fields[] = {
    FIELD("model", model, set_string),
    RULE("prompt", set_prompt),
    NUMBER("max_tokens", max_tokens, set_int, 0, MAX_COUNT),
    NUMBER("min_tokens", min_tokens, set_int, 0, MAX_COUNT),
    NUMBER("n", n, set_int, 1, JOB_MAX_CHOICES),
    NUMBER("temperature", sampling.temperature, set_float, 0, 2),
    NUMBER("top_p", sampling.top_p, set_share, 0, 1),
    NUMBER("top_k", sampling.top_k, set_top_k, -1, INT_MAX),
    NUMBER("min_p", sampling.min_p, set_float, 0, 1),
    NUMBER("seed", sampling.seed, set_seed, -0x1p63, 0x1p63),
    NUMBER("logprobs", n_logprobs, set_logprobs, 0, JOB_MAX_LOGPROBS),
    NUMBER("task_id", task_id, set_task, 0, 0x1p53),
    RULE("stop", set_stop),
    FIELD("echo", is_echo, set_bool),
    FIELD("stream", is_stream, set_bool),
    RULE("stream_options", set_stream_options),
    FIELD("ignore_eos", ignore_eos, set_bool),
    FIELD("return_tokens_as_token_ids", wants_token_ids, set_bool),
    RULE("user", check_string),
    RULE("best_of", keep_best_of),
    UNSUPPORTED("frequency_penalty", is_zero),
    UNSUPPORTED("presence_penalty", is_zero),
    UNSUPPORTED("repetition_penalty", is_one),
    UNSUPPORTED("length_penalty", is_one),
    UNSUPPORTED("logit_bias", is_empty),
    UNSUPPORTED("suffix", is_empty),
    UNSUPPORTED("use_beam_search", is_false),
    UNSUPPORTED("stop_token_ids", is_empty),
    UNSUPPORTED("bad_words", is_empty),
    UNSUPPORTED("logits_processors", is_empty),
    UNSUPPORTED("allowed_token_ids", is_never), /* an empty list would allow none */
    UNSUPPORTED("include_stop_str_in_output", is_false),
    UNSUPPORTED("skip_special_tokens", is_true),
    UNSUPPORTED("add_special_tokens", is_true),
    UNSUPPORTED("truncate_prompt_tokens", is_never),
    UNSUPPORTED("prompt_logprobs", is_never), /* 0 asks for the prompt's own */
    UNSUPPORTED("prompt_embeds", is_never),
    UNSUPPORTED("return_token_ids", is_false),
    UNSUPPORTED("response_format", is_text_format),
    UNSUPPORTED("structured_outputs", is_empty),
    UNSUPPORTED("guided_json", is_never),
    UNSUPPORTED("guided_regex", is_never),
    UNSUPPORTED("guided_choice", is_never),
    UNSUPPORTED("guided_grammar", is_never),
};

static const struct field *field_of(const char *name)
{
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++)
        if (strcmp(fields[i].name, name) == 0)
            return &fields[i];
    return NULL;
}

static int set_fields(struct parse *p, const cJSON *root)
{
    if (!cJSON_IsObject(root))
        return err_set(p->err, ERR_INVALID, "the body is not a JSON object");
    for (const cJSON *v = root->child; v; v = v->next) {
        const struct field *f = field_of(v->string);
        if (f && !cJSON_IsNull(v) && f->set(p, f, v) < 0)
            return -1;
    }
    return 0;
}

/* ---- rules between fields ------------------------------------------------------------ */

static int check_together(struct parse *p)
{
    struct completion *c = p->c;
    if (c->n_prompts == 0)
        return err_param(p->err, ERR_INVALID, "prompt", "prompt is required: %s",
                         prompt_forms);
    if (c->n_prompts * c->n > JOB_MAX_CHOICES)
        return err_param(p->err, ERR_INVALID, "n",
                         "n: %d prompts times %d choices are too many, at most %d together",
                         c->n_prompts, c->n, JOB_MAX_CHOICES);
    if (c->max_tokens == 0 && !c->is_echo)
        return err_param(p->err, ERR_INVALID, "max_tokens",
                         "max_tokens: 0 is accepted only together with echo");
    if (c->min_tokens > c->max_tokens)
        return err_param(p->err, ERR_INVALID, "min_tokens",
                         "min_tokens: %d is more than max_tokens, which is %d",
                         c->min_tokens, c->max_tokens);
    if (p->best_of && !(cJSON_IsNumber(p->best_of) && p->best_of->valuedouble == c->n))
        return err_param(
            p->err, ERR_INVALID, "best_of",
            "best_of is not supported; leave it out or give it as n, which is %d", c->n);
    if (p->stream_options && !c->is_stream)
        return err_param(p->err, ERR_INVALID, "stream_options",
                         "stream_options is accepted only together with stream");
    return 0;
}

/* ---- the whole ----------------------------------------------------------------------- */

/* Finds what the tree would give too slowly or not exactly. What was read as ids is blank in
 * the copy that *rest is set to (NULL: nothing was, or no memory for it). */
static int scan_body(struct parse *p, const char *body, size_t len, char **rest)
{
    struct json_scan s = {.text = body, .len = len};
    const char *key;
    size_t n;
    while ((key = json_scan_next(&s, &n))) {
        size_t at = s.at;
        if (json_scan_is(key, n, "seed"))
            p->seed = body + at;
        if (*rest || !json_scan_is(key, n, "prompt") || !json_scan_ids(&s, &p->ids))
            continue;
        if (!(*rest = malloc(len)))
            return err_set(p->err, ERR_NO_MEMORY, "There is no memory for this prompt");
        memcpy(*rest, body, len);
        memset(*rest + at + 1, ' ', s.at - at - 2); /* between its brackets */
    }
    return 0;
}

static int parse_text(struct parse *p, const char *text, size_t len)
{
    struct json_limits limits = {
        .max_len = len, .max_depth = MAX_DEPTH, .max_items = MAX_VALUES};
    if (json_check(text, len, &limits, p->err) < 0)
        return -1;
    cJSON *root = cJSON_ParseWithLength(text, len);
    if (!root) /* some versions of cJSON do not read numbers of 64 characters or more */
        return err_set(p->err, ERR_INVALID,
                       "the body cannot be read: a number is too long");
    int rc = set_fields(p, root);
    if (rc == 0)
        rc = check_together(p);
    cJSON_Delete(root);
    return rc;
}

int completion_parse(struct completion *c, const char *body, size_t len,
                     struct arena *arena, struct err *err)
{
    struct parse p = {.c = c, .arena = arena, .err = err};
    char *rest = NULL;
    *c = (struct completion){.model = "", .n = 1, .max_tokens = 16, .n_logprobs = -1};
    c->sampling = (struct sampling){.temperature = 1, .top_p = 1};
    int rc = scan_body(&p, body, len, &rest);
    if (rc == 0)
        rc = parse_text(&p, rest ? rest : body, len);
    free(rest);
    json_ids_free(&p.ids);
    return rc;
}
