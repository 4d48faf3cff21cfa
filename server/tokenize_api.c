/* Text to tokens and back for clients.
 *
 * Thread: loop; run_tokenize and run_detokenize may run on the pool, where they touch the
 * request's struct tokenizing alone. */
#include "server/tokenize_api.h"

#include "core/base/json_check.h"
#include "core/base/json_out.h"
#include "core/base/json_scan.h"
#include "core/base/mem.h"
#include "server/http.h"
#include "server/loop.h"
#include "server/server.h"
#include "server/upload.h"

#include <cJSON.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    INLINE_TEXT = 8 * 1024, /* bytes, or four for each id, that are worked on at once */
    MAX_DEPTH = 8,
    MAX_VALUES = 1 << 13, /* of JSON in a body, token ids apart */
};

struct tokenizing { /* either way */
    const char *text; /* in the exchange's arena */
    size_t len;
    int flags;
    struct token_list ids;
    struct buf json; /* the answer */
    struct err err;
};

static const struct tokenizer *tokenizer_of(const struct exchange *x)
{
    return base_model_tokenizer(x->server->parts.base);
}

/* ---- bodies -------------------------------------------------------------------------- */

/* "tokens" in plain digits; *rest is then a copy of the body without them. */
static int scan_ids(const char *body, size_t len, struct json_ids *ids, char **rest,
                    struct err *err)
{
    struct json_scan s = {.text = body, .len = len};
    const char *key;
    size_t n;
    while ((key = json_scan_next(&s, &n))) {
        size_t at = s.at;
        if (!json_scan_is(key, n, "tokens") || !json_scan_ids(&s, ids))
            continue;
        if (!(*rest = malloc(len)))
            return err_set(err, ERR_NO_MEMORY, "There is no memory for these tokens");
        memcpy(*rest, body, len);
        memset(*rest + at + 1, ' ', s.at - at - 2);
        return 0;
    }
    return 0;
}

static cJSON *parse_object(const char *body, size_t len, struct err *err)
{
    struct json_limits lim = {
        .max_len = len, .max_depth = MAX_DEPTH, .max_items = MAX_VALUES};
    if (json_check(body, len, &lim, err) < 0)
        return NULL;
    cJSON *root = cJSON_ParseWithLength(body, len);
    if (cJSON_IsObject(root))
        return root;
    cJSON_Delete(root);
    err_set(err, ERR_INVALID, "The body has to be a JSON object");
    return NULL;
}

/* ---- on the pool or at once ---------------------------------------------------------- */

static enum exchange_result answer(struct exchange *x)
{
    struct tokenizing *t = x->extra;
    if (t->err.code)
        return exchange_fail(x, &t->err);
    return exchange_reply_json(x, 200, &t->json);
}

static void on_worked(void *ud)
{
    struct exchange *x = exchange_of(ud);
    x->is_work_live = false;
    answer(x);
    exchange_release(x);
}

static void free_tokenizing(struct exchange *x)
{
    struct tokenizing *t = x->extra;
    token_list_free(&t->ids);
    buf_free(&t->json);
}

static struct tokenizing *new_tokenizing(struct exchange *x)
{
    struct tokenizing *t = arena_alloc(&x->arena, sizeof *t);
    x->extra = t;
    x->fini_extra = free_tokenizing;
    return t;
}

static enum exchange_result work(struct exchange *x, void (*run)(void *ud), size_t size)
{
    if (size <= INLINE_TEXT) {
        run(x);
        return answer(x);
    }
    x->is_work_live = true;
    loop_work(x->server->loop, run, on_worked, x);
    return EXCHANGE_WAIT;
}

/* ---- tokenize ------------------------------------------------------------------------ */

static void add_id(struct buf *out, int32_t id)
{
    char digits[12], *at = digits + sizeof digits;
    do
        *--at = (char)('0' + id % 10);
    while (id /= 10);
    buf_add(out, at, (size_t)(digits + sizeof digits - at));
}

static void run_tokenize(void *ud)
{
    struct exchange *x = exchange_of(ud);
    struct tokenizing *t = x->extra;
    struct token_list *l = &t->ids;
    if (tokenizer_encode(tokenizer_of(x), t->text, t->len, t->flags, l, &t->err) < 0)
        return;
    buf_add_str(&t->json, "{\"tokens\":[");
    for (size_t i = 0; i < l->n; i++) {
        if (i)
            buf_add_char(&t->json, ',');
        add_id(&t->json, l->ids[i]);
    }
    buf_printf(&t->json, "],\"count\":%zu,\"max_model_len\":%d}", l->n,
               engine_max_ctx(x->server->parts.engine));
}

/* llama-server adds no special tokens unless asked, vLLM does unless told not to. */
static int read_special(const cJSON *root, bool is_prompt, int *flags, struct err *err)
{
    static const char *const names[] = {"add_special", "add_special_tokens"};
    *flags = is_prompt ? TOKENIZER_ADD_SPECIAL : 0;
    for (int i = 0; i < 2; i++) {
        const cJSON *v = cJSON_GetObjectItemCaseSensitive(root, names[i]);
        if (!v || cJSON_IsNull(v))
            continue;
        if (!cJSON_IsBool(v))
            return err_param(err, ERR_INVALID, names[i], "%s has to be true or false",
                             names[i]);
        *flags = cJSON_IsTrue(v) ? TOKENIZER_ADD_SPECIAL : 0;
    }
    return 0;
}

static int read_text(struct exchange *x, const cJSON *root, struct tokenizing *t,
                     struct err *err)
{
    const cJSON *prompt = cJSON_GetObjectItemCaseSensitive(root, "prompt");
    const cJSON *content = cJSON_GetObjectItemCaseSensitive(root, "content");
    const cJSON *text = content ? content : prompt;
    if (!cJSON_IsString(text))
        return err_param(err, ERR_INVALID, content ? "content" : "prompt",
                         "content (or prompt) has to be a string");
    t->len = strlen(text->valuestring);
    t->text = arena_strndup(&x->arena, text->valuestring, t->len);
    return read_special(root, !content, &t->flags, err);
}

enum exchange_result tokenize_api_tokenize(struct exchange *x)
{
    const char *body;
    size_t len;
    struct err err = {0};
    cJSON *root = NULL;
    if (upload_bytes(http_body(x->req), &body, &len, &err) < 0 ||
        !(root = parse_object(body, len, &err)))
        return exchange_fail(x, &err);
    struct tokenizing *t = new_tokenizing(x);
    int rc = read_text(x, root, t, &err);
    cJSON_Delete(root);
    return rc < 0 ? exchange_fail(x, &err) : work(x, run_tokenize, t->len);
}

/* ---- detokenize ---------------------------------------------------------------------- */

static void run_detokenize(void *ud)
{
    struct exchange *x = exchange_of(ud);
    struct tokenizing *t = x->extra;
    struct buf text = {0};
    tokenizer_decode(tokenizer_of(x), t->ids.ids, t->ids.n, 0, &text);
    buf_add_str(&t->json, "{\"content\":");
    json_out_string(&t->json, text.data, text.len);
    buf_add_str(&t->json, ",\"prompt\":");
    json_out_string(&t->json, text.data, text.len);
    buf_add_char(&t->json, '}');
    buf_free(&text);
}

static int add_id_of(double d, int vocab, struct token_list *out, struct err *err)
{
    if (!(d >= 0 && d < vocab && d == floor(d)))
        return err_param(err, ERR_INVALID, "tokens",
                         "tokens has to hold integers from 0 to %d", vocab - 1);
    token_list_add(out, (int32_t)d);
    return 0;
}

static int take_ids(const cJSON *root, const struct json_ids *ids, int vocab,
                    struct token_list *out, struct err *err)
{
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(root, "tokens"), *v;
    if (!cJSON_IsArray(list) || ids->is_nested)
        return err_param(err, ERR_INVALID, "tokens",
                         "tokens has to be a list of token ids");
    for (size_t i = 0; i < ids->n; i++)
        if (add_id_of(ids->ids[i], vocab, out, err) < 0)
            return -1;
    cJSON_ArrayForEach(v, list)
        if (add_id_of(cJSON_IsNumber(v) ? v->valuedouble : -1, vocab, out, err) < 0)
            return -1;
    return 0;
}

static int read_ids(struct exchange *x, struct token_list *out, struct err *err)
{
    const char *body;
    size_t len;
    char *rest = NULL;
    struct json_ids ids = {0};
    cJSON *root = NULL;
    int rc = upload_bytes(http_body(x->req), &body, &len, err);
    if (rc == 0)
        rc = scan_ids(body, len, &ids, &rest, err);
    if (rc == 0 && !(root = parse_object(rest ? rest : body, len, err)))
        rc = -1;
    if (rc == 0)
        rc = take_ids(root, &ids, base_model_shape(x->server->parts.base)->vocab, out, err);
    cJSON_Delete(root);
    json_ids_free(&ids);
    free(rest);
    return rc;
}

enum exchange_result tokenize_api_detokenize(struct exchange *x)
{
    struct err err = {0};
    struct tokenizing *t = new_tokenizing(x);
    if (read_ids(x, &t->ids, &err) < 0)
        return exchange_fail(x, &err);
    return work(x, run_detokenize, 4 * t->ids.n);
}
