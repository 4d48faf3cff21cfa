/* A completion's way to the engine: parse, tokenize, adapt, post.
 *
 * Thread: loop; tokenize_texts may run on the pool, where it touches the token lists and
 * the choices' beginnings alone.
 */
#include "server/generation.h"

#include "core/base/clock.h"
#include "core/base/mem.h"
#include "server/bridge.h"
#include "server/http.h"
#include "server/loop.h"
#include "server/metrics.h"
#include "server/running.h"
#include "server/server.h"
#include "server/upload.h"

#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

enum {
    COMPLETION_ID = 12,     /* random bytes */
    INLINE_TEXT = 8 * 1024, /* bytes that are tokenised on the loop */
    TOKEN_BYTES = 48,       /* of text, collected and as JSON */
    ROW_BYTES = 64,         /* of a token's own score */
    SCORE_BYTES = 48,       /* of an alternative */
};

/* ---- parse --------------------------------------------------------------------------- */

/* A form's type is accepted for JSON's sake alone. */
static int check_form(const struct exchange *x, const char *body, size_t len,
                      struct err *err)
{
    const char *type = http_header(x->req, "Content-Type");
    size_t blank = 0;
    while (blank < len && strchr(" \t\r\n", body[blank]))
        blank++;
    if (!type || strncasecmp(type, "application/x-www-form-urlencoded", 33) != 0)
        return 0;
    if (blank < len && body[blank] == '{')
        return 0;
    return err_set(err, ERR_MEDIA_TYPE, "The body is a form; accepted is application/json");
}

static void start_head(struct exchange *x, struct generation *g)
{
    char hex[2 * COMPLETION_ID + 1];
    ids_next(&x->server->ids, hex, COMPLETION_ID);
    snprintf(g->id, sizeof g->id, "cmpl-%s", hex);
    g->head.id = g->id;
    g->head.model = g->req.model[0] ? g->req.model : x->server->base_name;
    g->head.created = (int64_t)time(NULL);
}

enum exchange_result generation_parse(struct exchange *x)
{
    struct err err = {0};
    const char *body;
    size_t len;
    struct generation *g = arena_alloc(&x->arena, sizeof *g);
    if (upload_bytes(http_body(x->req), &body, &len, &err) < 0 ||
        check_form(x, body, len, &err) < 0 ||
        completion_parse(&g->req, body, len, &x->arena, &err) < 0)
        return exchange_fail(x, &err);
    if (g->req.is_stream && http_is_1_0(x->req)) {
        err_param(&err, ERR_INVALID, "stream", "A stream needs HTTP/1.1");
        return exchange_fail(x, &err);
    }
    start_head(x, g);
    x->gen = g;
    return EXCHANGE_MORE;
}

/* ---- tokenize ------------------------------------------------------------------------ */

static struct job_prompt prompt_of(const struct generation *g, int i)
{
    const struct completion_prompt *p = &g->req.prompts[i];
    const struct token_list *l = &g->lists[i];
    return p->text ? (struct job_prompt){l->ids, (int)l->n}
                   : (struct job_prompt){p->ids, p->n_ids};
}

/* The tokenizer may have put a token in front of a text, which the text does not show. */
static bool hides_first(const struct tokenizer *t, const struct completion_prompt *p,
                        const struct job_prompt *ids)
{
    struct buf first = {0};
    if (!p->text || ids->n_ids == 0 || !tokenizer_is_special(t, ids->ids[0]))
        return false;
    tokenizer_decode(t, ids->ids, 1, 0, &first);
    bool is_there = first.len <= p->text_len &&
                    (!first.len || memcmp(p->text, first.data, first.len) == 0);
    buf_free(&first);
    return !is_there;
}

/* Of a text as it was sent; of tokens all that they say. */
static void add_prompt(struct buf *out, const struct tokenizer *t,
                       const struct completion_prompt *p, const struct job_prompt *ids)
{
    if (p->text)
        buf_add(out, p->text, p->text_len);
    else
        tokenizer_decode(t, ids->ids, (size_t)ids->n_ids, 0, out);
}

/* What an answer starts with: with echo the prompt's text; without, the places of its
 * tokens are counted from the prompt's end. A prompt that is too long will be refused. */
static void start_choice(struct exchange *x, struct generation *g, int index)
{
    const struct tokenizer *t = base_model_tokenizer(x->server->parts.base);
    const struct job_prompt p = prompt_of(g, index / g->req.n);
    const struct completion_prompt *asked = &g->req.prompts[index / g->req.n];
    struct choice_out *o = &g->choices[index];
    if (p.n_ids > engine_max_ctx(x->server->parts.engine))
        return;
    o->hides_first = hides_first(t, asked, &p);
    if (g->req.is_echo && index % g->req.n > 0)
        buf_add(&o->text, o[-1].text.data, o[-1].text.len);
    else if (g->req.is_echo)
        add_prompt(&o->text, t, asked, &p);
    else if (g->req.n_logprobs >= 0)
        o->detok = detok_new(t, p.ids, (size_t)p.n_ids);
}

static void tokenize_texts(void *ud)
{
    struct exchange *x = exchange_of(ud);
    struct generation *g = x->gen;
    const struct tokenizer *t = base_model_tokenizer(x->server->parts.base);
    for (int i = 0; i < g->req.n_prompts; i++) {
        const struct completion_prompt *p = &g->req.prompts[i];
        if (p->text && tokenizer_encode(t, p->text, p->text_len, TOKENIZER_ADD_SPECIAL,
                                        &g->lists[i], &g->tokenize_err) < 0)
            return;
    }
    for (int i = 0; i < g->req.n_prompts * g->req.n; i++)
        start_choice(x, g, i);
}

static void on_tokenized(void *ud)
{
    struct exchange *x = exchange_of(ud);
    x->is_work_live = false;
    x->gen->is_tokenized = true;
    exchange_run(x);
    exchange_release(x);
}

static int check_ids(const int32_t *ids, size_t n, int vocab, struct err *err)
{
    if (n == 0)
        return err_param(err, ERR_INVALID, "prompt", "prompt is empty: it gives no token");
    for (size_t i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= vocab)
            return err_param(err, ERR_INVALID, "prompt",
                             "prompt holds the token %d; accepted is 0 to %d", ids[i],
                             vocab - 1);
    return 0;
}

static int fill_prompts(struct exchange *x, struct generation *g, struct err *err)
{
    int vocab = base_model_shape(x->server->parts.base)->vocab;
    g->prompts = arena_array(&x->arena, (size_t)g->req.n_prompts, sizeof *g->prompts);
    for (int i = 0; i < g->req.n_prompts; i++) {
        const struct job_prompt p = prompt_of(g, i);
        if (check_ids(p.ids, (size_t)p.n_ids, vocab, err) < 0)
            return -1;
        g->prompts[i] = p;
        g->usage.prompt_tokens += p.n_ids;
    }
    return 0;
}

/* About the bytes of text that have to be made tokens, or tokens to be made text. */
static size_t work_of(const struct completion *c)
{
    size_t texts = 0, ids = 0;
    for (int i = 0; i < c->n_prompts; i++) {
        texts += c->prompts[i].text ? c->prompts[i].text_len : 0;
        ids += c->prompts[i].text ? 0 : 4 * (size_t)c->prompts[i].n_ids;
    }
    bool has_starts = c->is_echo || c->n_logprobs >= 0;
    return texts + (has_starts ? (size_t)c->n * (texts + ids) : 0);
}

static bool start_tokenizing(struct exchange *x, struct generation *g)
{
    g->lists = arena_array(&x->arena, (size_t)g->req.n_prompts, sizeof *g->lists);
    g->choices = xcalloc((size_t)g->req.n_prompts * (size_t)g->req.n, sizeof *g->choices);
    if (work_of(&g->req) <= INLINE_TEXT) {
        tokenize_texts(x);
        g->is_tokenized = true;
        return false;
    }
    x->is_work_live = true;
    loop_work(x->server->loop, tokenize_texts, on_tokenized, x);
    return true;
}

enum exchange_result generation_tokenize(struct exchange *x)
{
    struct generation *g = x->gen;
    struct err err = {0};
    if (!g->lists && start_tokenizing(x, g))
        return EXCHANGE_WAIT;
    if (!g->is_tokenized)
        return EXCHANGE_WAIT;
    if (g->tokenize_err.code)
        return exchange_fail(x, &g->tokenize_err);
    return fill_prompts(x, g, &err) < 0 ? exchange_fail(x, &err) : EXCHANGE_MORE;
}

/* What was refused because there is too much now is counted by what it was. */
static enum exchange_result refuse_for_now(struct exchange *x, const struct err *err)
{
    const struct metrics *m = &x->server->metrics;
    if (err->code == ERR_QUEUE_FULL)
        metrics_add_throttle(m, "queue_full");
    if (err->code == ERR_NO_MEMORY)
        metrics_add_throttle(m, "memory");
    if (err->code == ERR_LOADING)
        metrics_add_throttle(m, "loading");
    return exchange_fail(x, err);
}

/* ---- adapt --------------------------------------------------------------------------- */

/* NULL: the base itself. */
static const char *adapter_name(const char *model, const char *base)
{
    size_t n = strlen(base);
    if (model[0] == '\0' || strcmp(model, base) == 0)
        return NULL;
    return strncmp(model, base, n) == 0 && model[n] == ':' ? model + n + 1 : model;
}

/* 1: pinned; 0: it is being loaded. */
static int acquire(struct exchange *x, const char *name, struct err *err)
{
    struct generation *g = x->gen;
    struct server *s = x->server;
    struct adapter_load *load = NULL;
    if (g->wait.is_done)
        return loads_take(s, &g->wait, &g->version, err) < 0 ? -1 : 1;
    if (g->wait.load)
        return 0;
    int rc = adapters_acquire(s->parts.adapters, x->caller.tenant, name, &g->version, &load,
                              err);
    if (rc == 0) {
        running_set_version(x->running, name, adapter_load_owner(load),
                            adapter_load_version(load));
        loads_wait(s, &g->wait, load, x);
    }
    return rc;
}

static int use_version(struct exchange *x, const char *name, struct err *err)
{
    struct generation *g = x->gen;
    g->adapter = name;
    running_set_version(x->running, name, adapter_version_owner(g->version),
                        adapter_version_digest(g->version));
    g->job.prefix =
        adapter_version_prefix(g->version, g->req.has_task, g->req.task_id, err);
    return g->job.prefix ? 0 : -1;
}

enum exchange_result generation_adapt(struct exchange *x)
{
    struct generation *g = x->gen;
    struct err err = {0};
    const char *name = adapter_name(g->req.model, x->server->base_name);
    int rc = name ? acquire(x, name, &err) : 1;
    if (!name)
        return EXCHANGE_MORE;
    if (rc == 0)
        return EXCHANGE_WAIT;
    if (rc < 0 && err.code == ERR_MODEL_NOT_FOUND)
        err_param(&err, ERR_MODEL_NOT_FOUND, "model", "The model `%.100s` does not exist",
                  g->req.model);
    if (rc < 0 || use_version(x, name, &err) < 0)
        return refuse_for_now(x, &err);
    http_add_header(x->req, "X-Adapter-Id", name);
    http_add_header(x->req, "X-Adapter-Version", adapter_version_digest(g->version));
    g->usage.virtual_tokens = g->job.prefix->n_tokens * g->req.n_prompts;
    return EXCHANGE_MORE;
}

/* ---- post ---------------------------------------------------------------------------- */

static void fill_job(const struct exchange *x, struct generation *g)
{
    const struct completion *c = &g->req;
    struct job *j = &g->job;
    j->domain = (uint32_t)x->caller.tenant;
    j->weight = x->caller.weight;
    j->prompts = g->prompts;
    j->n_prompts = c->n_prompts;
    j->n = c->n;
    j->sampling = c->sampling;
    if (!c->has_seed)
        randombytes_buf(&j->sampling.seed, sizeof j->sampling.seed);
    j->max_tokens = c->max_tokens;
    j->min_tokens = c->min_tokens;
    j->ignore_eos = c->ignore_eos;
    memcpy(j->stops, c->stops, sizeof j->stops);
    j->n_stops = c->n_stops;
    j->n_logprobs = c->n_logprobs;
    j->is_echo = c->is_echo;
}

/* About the memory that the answer takes at its largest. A stream's is written as it comes.
 */
static size_t estimate(const struct exchange *x, const struct generation *g)
{
    const struct completion *c = &g->req;
    size_t limit = (size_t)engine_max_ctx(x->server->parts.engine), n = 0;
    size_t more = (size_t)c->max_tokens < limit ? (size_t)c->max_tokens : limit;
    size_t each = c->n_logprobs < 0 ? TOKEN_BYTES
                                    : TOKEN_BYTES + ROW_BYTES +
                                          SCORE_BYTES * (size_t)c->n_logprobs;
    for (int i = 0; i < c->n_prompts; i++) {
        size_t prompt = (size_t)g->prompts[i].n_ids;
        n += (c->is_echo && c->n_logprobs >= 0 ? prompt : 0) + more;
        if (prompt + more > limit)
            return 0; /* the engine will refuse it, and say why */
    }
    return c->is_stream ? 0 : n * (size_t)c->n * each;
}

static int take_answer(struct exchange *x, struct generation *g, struct err *err)
{
    size_t n = estimate(x, g);
    if (n > GENERATION_MAX_ANSWER)
        return err_param(err, ERR_INVALID, "max_tokens",
                         "The answer may take %zu MiB, more than %d: lower max_tokens, n, "
                         "logprobs or the number of prompts, or ask for a stream",
                         n >> 20, GENERATION_MAX_ANSWER >> 20);
    if (!budget_take(&g->answer, &x->server->answers, x->caller.tenant, n))
        return err_set(err, ERR_NO_MEMORY,
                       "There is no memory for this answer beside those being made");
    return 0;
}

void generation_note_tokens(struct exchange *x)
{
    const struct completion_usage *u = &x->gen->usage;
    running_set_tokens(x->running, u->prompt_tokens, u->virtual_tokens,
                       u->completion_tokens);
}

/* What the engine would refuse for its length anyway is not asked for. */
static int take_limits(struct exchange *x, const struct generation *g, struct err *err)
{
    int64_t limit = engine_max_ctx(x->server->parts.engine);
    int n = g->req.n_prompts * g->req.n;
    int64_t more = g->req.max_tokens < limit ? g->req.max_tokens : limit;
    return limits_take(x, n, g->usage.prompt_tokens + more * n, err);
}

void generation_settle(struct exchange *x)
{
    const struct generation *g = x->gen;
    int64_t used = g->usage.prompt_tokens + g->usage.completion_tokens;
    limits_settle(x, g->n_choices ? used : 0);
}

enum exchange_result generation_post(struct exchange *x)
{
    struct generation *g = x->gen;
    struct err err = {0};
    if (x->server->has_cancelled) {
        err_set(&err, ERR_CLOSING, "The server is shutting down");
        return exchange_fail(x, &err);
    }
    int may_run = take_limits(x, g, &err);
    if (may_run == 0)
        return EXCHANGE_WAIT;
    if (may_run < 0)
        return exchange_fail(x, &err);
    fill_job(x, g);
    if (take_answer(x, g, &err) < 0 || bridge_post(x, &err) < 0)
        return refuse_for_now(x, &err);
    size_t n = (size_t)g->req.n_prompts * (size_t)g->req.n;
    g->n_choices = (int)n;
    g->is_dirty = arena_array(&x->arena, n, sizeof *g->is_dirty);
    g->token_us = arena_array(&x->arena, n, sizeof *g->token_us);
    g->n_tokens = arena_array(&x->arena, n, sizeof *g->n_tokens);
    g->has_begun = arena_array(&x->arena, n, sizeof *g->has_begun);
    g->written_us = g->posted_us = clock_us();
    generation_note_tokens(x);
    return EXCHANGE_MORE;
}

void generation_fini(struct exchange *x)
{
    struct generation *g = x->gen;
    if (!g)
        return;
    generation_settle(x);
    loads_leave(x->server, &g->wait);
    for (int i = 0; g->lists && i < g->req.n_prompts; i++)
        token_list_free(&g->lists[i]);
    for (int i = 0; g->choices && i < g->req.n_prompts * g->req.n; i++)
        choice_out_fini(&g->choices[i]);
    free(g->choices);
    budget_drop(&g->answer);
    if (g->version)
        adapters_release(g->version);
}
