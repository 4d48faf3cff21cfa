/* Text to tokens and back for clients.
 *
 * Thread: loop; run_tokenize may run on the pool, where it touches the request's text and
 * list alone. */
#include "server/tokenize_api.h"

#include "core/base/json_check.h"
#include "core/base/json_out.h"
#include "core/base/mem.h"
#include "server/http.h"
#include "server/loop.h"
#include "server/server.h"
#include "server/upload.h"

#include <cJSON.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { INLINE_TEXT = 8 * 1024, MAX_DEPTH = 8 };

struct tokenizing {
    const char *text; /* in the exchange's arena */
    size_t len;
    int flags;
    struct token_list ids;
    struct err err;
};

static cJSON *parse_object(struct exchange *x, struct err *err)
{
    const char *body;
    size_t len;
    struct json_limits lim = {.max_len = (size_t)x->server->cfg->max_body,
                              .max_depth = MAX_DEPTH,
                              .max_items = (size_t)x->server->cfg->max_body};
    if (upload_bytes(http_body(x->req), &body, &len, err) < 0 ||
        json_check(body, len, &lim, err) < 0)
        return NULL;
    cJSON *root = cJSON_ParseWithLength(body, len);
    if (cJSON_IsObject(root))
        return root;
    cJSON_Delete(root);
    err_set(err, ERR_INVALID, "The body has to be a JSON object");
    return NULL;
}

/* ---- tokenize ------------------------------------------------------------------------ */

static void run_tokenize(void *ud)
{
    struct exchange *x = exchange_of(ud);
    struct tokenizing *t = x->extra;
    tokenizer_encode(base_model_tokenizer(x->server->parts.base), t->text, t->len, t->flags,
                     &t->ids, &t->err);
}

static enum exchange_step_result answer_tokens(struct exchange *x)
{
    const struct tokenizing *t = x->extra;
    struct buf json = {0};
    if (t->err.code)
        return exchange_fail(x, &t->err);
    buf_add_str(&json, "{\"tokens\":[");
    for (size_t i = 0; i < t->ids.n; i++)
        buf_printf(&json, i ? ",%d" : "%d", t->ids.ids[i]);
    buf_printf(&json, "],\"count\":%zu,\"max_model_len\":%d}", t->ids.n,
               engine_max_ctx(x->server->parts.engine));
    return exchange_reply_json(x, 200, &json);
}

static void on_tokenized(void *ud)
{
    struct exchange *x = exchange_of(ud);
    x->is_work_live = false;
    answer_tokens(x);
    exchange_release(x);
}

static void free_tokenizing(struct exchange *x)
{
    struct tokenizing *t = x->extra;
    token_list_free(&t->ids);
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

enum exchange_step_result tokenize_api_tokenize(struct exchange *x)
{
    struct err err = {0};
    cJSON *root = parse_object(x, &err);
    if (!root)
        return exchange_fail(x, &err);
    struct tokenizing *t = arena_alloc(&x->arena, sizeof *t);
    int rc = read_text(x, root, t, &err);
    cJSON_Delete(root);
    if (rc < 0)
        return exchange_fail(x, &err);
    x->extra = t;
    x->fini_extra = free_tokenizing;
    if (t->len <= INLINE_TEXT) {
        run_tokenize(x);
        return answer_tokens(x);
    }
    x->is_work_live = true;
    loop_work(x->server->loop, run_tokenize, on_tokenized, x);
    return STEP_WAIT;
}

/* ---- detokenize ---------------------------------------------------------------------- */

static int read_ids(const struct exchange *x, const cJSON *root, struct token_list *ids,
                    struct err *err)
{
    int vocab = base_model_shape(x->server->parts.base)->vocab;
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(root, "tokens"), *v;
    if (!cJSON_IsArray(list))
        return err_param(err, ERR_INVALID, "tokens",
                         "tokens has to be a list of token ids");
    cJSON_ArrayForEach(v, list)
    {
        double d = cJSON_IsNumber(v) ? v->valuedouble : -1;
        if (!(d >= 0 && d < vocab && d == floor(d)))
            return err_param(err, ERR_INVALID, "tokens",
                             "tokens has to hold integers from 0 to %d", vocab - 1);
        token_list_add(ids, (int32_t)d);
    }
    return 0;
}

enum exchange_step_result tokenize_api_detokenize(struct exchange *x)
{
    struct err err = {0};
    struct token_list ids = {0};
    struct buf text = {0}, json = {0};
    cJSON *root = parse_object(x, &err);
    if (!root)
        return exchange_fail(x, &err);
    int rc = read_ids(x, root, &ids, &err);
    cJSON_Delete(root);
    if (rc == 0) {
        tokenizer_decode(base_model_tokenizer(x->server->parts.base), ids.ids, ids.n, 0,
                         &text);
        buf_add_str(&json, "{\"content\":");
        json_out_string(&json, text.data, text.len);
        buf_add_str(&json, ",\"prompt\":");
        json_out_string(&json, text.data, text.len);
        buf_add_char(&json, '}');
    }
    token_list_free(&ids);
    buf_free(&text);
    return rc < 0 ? exchange_fail(x, &err) : exchange_reply_json(x, 200, &json);
}
