/* Answers of the completions API as JSON. */
#include "server/completion.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "core/base/check.h"
#include "core/base/json_out.h"
#include "core/tokenizer.h"

/* ---- scores -------------------------------------------------------------------------- */

void choice_out_fini(struct choice_out *o)
{
    buf_free(&o->text);
    buf_free(&o->tokens);
    buf_free(&o->token_logprobs);
    buf_free(&o->top_logprobs);
    buf_free(&o->text_offset);
    detok_free(o->detok);
    *o = (struct choice_out){0};
}

void choice_out_clear(struct choice_out *o)
{
    buf_clear(&o->text);
    buf_clear(&o->tokens);
    buf_clear(&o->token_logprobs);
    buf_clear(&o->top_logprobs);
    buf_clear(&o->text_offset);
}

/* Decoders of the SentencePiece kind drop a blank at the start of a text, so a token's own
 * text is what it adds after itself; the texts of an answer's tokens then join to the
 * answer. */
static void add_token_text(struct buf *out, const struct tokenizer *t, int32_t id)
{
    const int32_t twice[2] = {id, id};
    struct buf one = {0}, two = {0};
    tokenizer_decode(t, twice, 1, 0, &one);
    tokenizer_decode(t, twice, 2, 0, &two);
    if (two.len >= one.len && (!one.len || memcmp(two.data, one.data, one.len) == 0))
        buf_add(out, two.data + one.len, two.len - one.len);
    else
        buf_add(out, one.data, one.len);
    buf_free(&one);
    buf_free(&two);
}

/* What a token is called in tokens and as a key of top_logprobs. */
static void add_token_name(struct buf *out, const struct tokenizer *t, int32_t id,
                           bool by_id)
{
    if (by_id)
        buf_printf(out, "token_id:%" PRId32, id);
    else
        add_token_text(out, t, id);
}

/* JSON has no infinities: a token that cannot come has the API's customary -9999. */
static void add_logprob(struct buf *out, float logprob)
{
    json_out_float(out, logprob == -INFINITY ? -9999.0f : logprob);
}

struct name_set { /* names given to one object so far, each once */
    struct buf bytes;
    size_t end[JOB_MAX_LOGPROBS + 1];
    int n;
};

/* Keeps the name that was appended to s->bytes after the last one, unless it is there
 * already. */
static bool keep_name(struct name_set *s)
{
    size_t first = s->n ? s->end[s->n - 1] : 0, len = s->bytes.len - first;
    for (int i = 0; i < s->n; i++) {
        size_t at = i ? s->end[i - 1] : 0;
        if (s->end[i] - at == len &&
            (!len || memcmp(s->bytes.data + at, s->bytes.data + first, len) == 0)) {
            s->bytes.len = first;
            return false;
        }
    }
    s->end[s->n++] = s->bytes.len;
    return true;
}

/* The chosen token and the alternatives, best first. Tokens may have one text (parts of
 * characters do): the first of them keeps it, the chosen one before all, so that tokens[i]
 * is always found. */
static void add_top(struct buf *out, const struct tokenizer *t, const struct token_out *row,
                    bool by_id)
{
    struct name_set names = {0};
    CHECK(row->n_top >= 0 && row->n_top <= JOB_MAX_LOGPROBS);
    for (int i = -1; i < row->n_top; i++) {
        const struct token_score *s = i < 0 ? &row->token : &row->top[i];
        size_t at = names.bytes.len;
        add_token_name(&names.bytes, t, s->id, by_id);
        if (!keep_name(&names))
            continue;
        buf_add_char(out, i < 0 ? '{' : ',');
        json_out_string(out, names.bytes.data ? names.bytes.data + at : NULL,
                        names.bytes.len - at);
        buf_add_char(out, ':');
        add_logprob(out, s->logprob);
    }
    buf_add_char(out, '}');
    buf_free(&names.bytes);
}

static size_t count_chars(const struct buf *text)
{
    size_t n = 0;
    for (size_t i = 0; i < text->len; i++)
        n += ((unsigned char)text->data[i] & 0xc0) != 0x80;
    return n;
}

/* A special token of the prompt shows as it is written, and keeps the blank of the token
 * after it, which a text's start would drop. */
static size_t count_shown(struct choice_out *o, const struct tokenizer *t, int32_t id,
                          const struct buf *text)
{
    bool is_special = o->is_in_prompt && tokenizer_is_special(t, id);
    bool is_hidden = is_special && o->hides_first && o->n_tokens == 0;
    size_t n = count_chars(text);
    struct buf own = {0};
    if (is_special || (o->is_after_special && text->len))
        add_token_text(&own, t, id);
    if (is_special && !is_hidden)
        n += count_chars(&own);
    else if (!is_special && own.len == text->len + 1)
        n++;
    o->is_after_special = is_special && !is_hidden;
    buf_free(&own);
    return n;
}

/* The tokens of one character stand at the same place: the text moves on when it is whole.
 */
static void add_offset(struct choice_out *o, const struct tokenizer *t, int32_t id)
{
    struct buf text = {0};
    if (!o->detok)
        o->detok = detok_new(t, NULL, 0);
    buf_printf(&o->text_offset, "%zu", o->n_offset_chars);
    detok_feed(o->detok, id, &text);
    o->n_offset_chars += count_shown(o, t, id, &text);
    buf_free(&text);
}

static void add_row(struct choice_out *o, const struct tokenizer *t,
                    const struct token_out *row, bool by_id)
{
    struct buf *parts[] = {&o->tokens, &o->token_logprobs, &o->top_logprobs,
                           &o->text_offset};
    struct buf name = {0};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        if (parts[i]->len)
            buf_add_char(parts[i], ',');
    add_token_name(&name, t, row->token.id, by_id);
    json_out_string(&o->tokens, name.data, name.len);
    add_logprob(&o->token_logprobs, row->token.logprob);
    if (isnan(row->token.logprob))
        buf_add_str(&o->top_logprobs, "null");
    else
        add_top(&o->top_logprobs, t, row, by_id);
    add_offset(o, t, row->token.id);
    o->n_tokens++;
    buf_free(&name);
}

void choice_out_add_scores(struct choice_out *o, const struct tokenizer *t,
                           const struct token_out *tokens, int n_tokens, bool by_id)
{
    for (int i = 0; i < n_tokens; i++)
        add_row(o, t, &tokens[i], by_id);
}

/* ---- answers ------------------------------------------------------------------------- */

static void add_head(struct buf *out, const struct completion_head *h)
{
    buf_add_str(out, "{\"id\":");
    json_out_str(out, h->id);
    buf_printf(out, ",\"object\":\"text_completion\",\"created\":%" PRId64 ",\"model\":",
               h->created);
    json_out_str(out, h->model);
    buf_add_str(out, ",\"choices\":[");
}

static void add_list(struct buf *out, const char *key, const struct buf *items)
{
    buf_printf(out, "\"%s\":[", key);
    buf_add(out, items->data, items->len);
    buf_add_char(out, ']');
}

static void add_scores(struct buf *out, const struct choice_out *o)
{
    buf_add_char(out, '{');
    add_list(out, "tokens", &o->tokens);
    buf_add_char(out, ',');
    add_list(out, "token_logprobs", &o->token_logprobs);
    buf_add_char(out, ',');
    add_list(out, "top_logprobs", &o->top_logprobs);
    buf_add_char(out, ',');
    add_list(out, "text_offset", &o->text_offset);
    buf_add_char(out, '}');
}

static void add_choice(struct buf *out, int index, const struct choice_out *o,
                       bool has_logprobs)
{
    buf_printf(out, "{\"index\":%d,\"text\":", index);
    json_out_string(out, o->text.data, o->text.len);
    buf_add_str(out, ",\"logprobs\":");
    if (has_logprobs)
        add_scores(out, o);
    else
        buf_add_str(out, "null");
    buf_add_str(out, ",\"finish_reason\":");
    json_out_str(out, o->finish_reason);
    buf_add_str(out, ",\"stop_reason\":");
    json_out_str(out, o->stop_reason);
    buf_add_char(out, '}');
}

static void add_usage(struct buf *out, const struct completion_usage *u)
{
    buf_printf(
        out,
        ",\"usage\":{\"prompt_tokens\":%d,\"completion_tokens\":%d,\"total_tokens\":%lld,"
        "\"prompt_tokens_details\":{\"cached_tokens\":%d,\"virtual_tokens\":%d}}",
        u->prompt_tokens, u->completion_tokens,
        (long long)u->prompt_tokens + u->completion_tokens, u->cached_tokens,
        u->virtual_tokens);
}

void completion_render(struct buf *out, const struct completion_head *h,
                       const struct choice_out *choices, int n_choices, bool has_logprobs,
                       const struct completion_usage *usage)
{
    add_head(out, h);
    for (int i = 0; i < n_choices; i++) {
        if (i)
            buf_add_char(out, ',');
        add_choice(out, i, &choices[i], has_logprobs);
    }
    buf_add_char(out, ']');
    add_usage(out, usage);
    buf_add_char(out, '}');
}

/* A chunk that ends a choice may bring no token: then it has no logprobs object either. */
void completion_render_chunk(struct buf *out, const struct completion_head *h, int index,
                             const struct choice_out *o, bool has_logprobs,
                             bool has_null_usage)
{
    add_head(out, h);
    add_choice(out, index, o, has_logprobs && o->tokens.len > 0);
    buf_add_char(out, ']');
    if (has_null_usage)
        buf_add_str(out, ",\"usage\":null");
    buf_add_char(out, '}');
}

void completion_render_usage_chunk(struct buf *out, const struct completion_head *h,
                                   const struct completion_usage *usage)
{
    add_head(out, h);
    buf_add_char(out, ']');
    add_usage(out, usage);
    buf_add_char(out, '}');
}

void completion_render_error(struct buf *out, const struct err *err, const char *request_id)
{
    buf_add_str(out, "{\"error\":{\"message\":");
    json_out_str(out, err->msg[0] ? err->msg : err_text(err->code));
    buf_add_str(out, ",\"type\":");
    json_out_str(out, err_api_type(err->code));
    buf_add_str(out, ",\"param\":");
    json_out_str(out, err->param[0] ? err->param : NULL);
    buf_add_str(out, ",\"code\":");
    json_out_str(out, err_api_code(err->code));
    if (request_id) {
        buf_add_str(out, ",\"request_id\":");
        json_out_str(out, request_id);
    }
    buf_add_str(out, "}}");
}
