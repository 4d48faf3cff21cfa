/* A completion's way back: events of the engine into one answer, or into the chunks of a
 * stream.
 *
 * Thread: loop. */
#include "core/base/check.h"
#include "core/base/clock.h"
#include "server/bridge.h"
#include "server/generation.h"
#include "server/http.h"
#include "server/metrics.h"
#include "server/server.h"
#include "server/sse.h"

#include <string.h>

enum { MAX_CHUNKS_KEPT = 64 * 1024 };

/* ---- collecting ---------------------------------------------------------------------- */

static void add_scores(struct exchange *x, const struct event *ev)
{
    struct generation *g = x->gen;
    g->choices[ev->choice].is_in_prompt = ev->kind == EVENT_PROMPT;
    if (g->req.n_logprobs >= 0)
        choice_out_add_scores(&g->choices[ev->choice],
                              base_model_tokenizer(x->server->parts.base), ev->tokens,
                              ev->n_tokens, g->req.wants_token_ids);
}

/* By the engine's clock: several tokens may come in one wake. */
static void note_times(struct exchange *x, const struct event *ev)
{
    struct generation *g = x->gen;
    int64_t now = ev->made_us, *last = &g->token_us[ev->choice];
    if (!g->ttft_us) {
        g->ttft_us = now - x->start_us;
        g->first_us = now;
        metrics_add_ttft(&x->server->metrics, x, g->ttft_us);
    }
    if (*last)
        metrics_add_gap(&x->server->metrics, x, now - *last);
    *last = g->last_us = now;
}

/* As often as the prompt's tokens, which is once for all choices of it: what its first one
 * did not have to compute. That is known when its first event comes. */
static void count_cached(struct generation *g, const struct event *ev)
{
    bool is_first = ev->kind == EVENT_END || ev->kind == EVENT_TOKEN;
    if (is_first && ev->choice % g->req.n == 0 && !g->has_begun[ev->choice])
        g->usage.cached_tokens += ev->n_cached;
    g->has_begun[ev->choice] |= is_first;
}

static void end_choice(struct generation *g, const struct event *ev)
{
    struct choice_out *o = &g->choices[ev->choice];
    if (ev->finish == FINISH_CANCELLED)
        return;
    o->finish_reason = ev->finish == FINISH_STOP ? "stop" : "length";
    o->stop_reason = ev->stop_index >= 0 && ev->stop_index < g->req.n_stops
                         ? g->req.stops[ev->stop_index].text
                         : NULL;
    g->n_ended++;
}

/* Token by token, for what never comes to an end; the end knows of tokens without an event.
 */
static void count_tokens(struct exchange *x, const struct event *ev)
{
    struct generation *g = x->gen;
    int *n = &g->n_tokens[ev->choice];
    int now = ev->kind == EVENT_END     ? ev->n_generated
              : ev->kind == EVENT_TOKEN ? *n + ev->n_tokens
                                        : *n;
    g->usage.completion_tokens += now - *n;
    *n = now;
    generation_note_tokens(x);
}

void generation_event(struct exchange *x, const struct event *ev)
{
    struct generation *g = x->gen;
    g->is_started = true;
    if (ev->kind == EVENT_DONE || ev->kind == EVENT_FAILED) {
        g->is_final = true;
        generation_settle(x);
        if (ev->kind == EVENT_FAILED && !exchange_is_over(x))
            exchange_fail(x, &ev->err);
        return;
    }
    CHECK(ev->choice >= 0 && ev->choice < g->n_choices);
    count_cached(g, ev);
    count_tokens(x, ev);
    if (ev->kind == EVENT_END)
        end_choice(g, ev);
    if (exchange_is_over(x))
        return;
    g->is_dirty[ev->choice] = true;
    if (ev->kind == EVENT_TOKEN)
        note_times(x, ev);
    if (ev->kind == EVENT_TOKEN || ev->kind == EVENT_PROMPT)
        add_scores(x, ev);
    if (ev->kind == EVENT_TOKEN || ev->kind == EVENT_END)
        buf_add(&g->choices[ev->choice].text, ev->text, ev->text_len);
}

/* ---- answering ----------------------------------------------------------------------- */

static enum exchange_result fail_unfinished(struct exchange *x)
{
    struct err err = {0};
    if (x->server->state >= SERVER_DRAINING)
        err_set(&err, ERR_CLOSING, "The server is shutting down");
    else
        err_set(&err, ERR_INTERNAL, "The engine ended the request before it was complete");
    return exchange_fail(x, &err);
}

static enum exchange_result answer_whole(struct exchange *x)
{
    struct generation *g = x->gen;
    struct buf json = {0};
    if (!g->is_final)
        return EXCHANGE_WAIT;
    if (g->n_ended < g->n_choices)
        return fail_unfinished(x);
    completion_render(&json, &g->head, g->choices, g->n_choices, g->req.n_logprobs >= 0,
                      &g->usage);
    return exchange_reply_json(x, 200, &json);
}

static void add_chunk(struct generation *g, int i, struct buf *out)
{
    struct choice_out *o = &g->choices[i];
    g->is_dirty[i] = false;
    if (o->text.len == 0 && o->tokens.len == 0 && !o->finish_reason)
        return;
    sse_begin_data(out);
    completion_render_chunk(out, &g->head, i, o, g->req.n_logprobs >= 0,
                            g->req.has_usage_chunk);
    sse_end_data(out);
    choice_out_clear(o);
}

static enum exchange_result end_stream(struct exchange *x, struct buf *out)
{
    struct generation *g = x->gen;
    if (g->n_ended < g->n_choices)
        return fail_unfinished(x);
    if (g->req.has_usage_chunk) {
        buf_clear(out);
        sse_begin_data(out);
        completion_render_usage_chunk(out, &g->head, &g->usage);
        sse_end_data(out);
        exchange_add_stream(x, out);
    }
    return exchange_end_stream(x);
}

/* What a reader does not take has to wait in memory; there is an end to that. */
static bool is_too_slow(struct exchange *x)
{
    struct err err = {0};
    if (!x->is_streaming || http_stream_unsent(x->req) <= x->server->max_backlog)
        return false;
    err_set(&err, ERR_CANCELLED, "The stream was read too slowly: more than %zu bytes wait",
            x->server->max_backlog);
    bridge_cancel(x);
    exchange_fail(x, &err);
    return true;
}

/* Memory of one chunk is that of the next, whoever's it is; of a huge one it is not kept. */
static struct buf *chunks_of(struct server *s)
{
    if (s->chunks.cap > MAX_CHUNKS_KEPT)
        buf_free(&s->chunks);
    buf_clear(&s->chunks);
    return &s->chunks;
}

static enum exchange_result answer_stream(struct exchange *x)
{
    struct generation *g = x->gen;
    struct buf *out = chunks_of(x->server);
    if (is_too_slow(x))
        return EXCHANGE_DONE;
    bool is_cut = g->is_final && g->n_ended == 0 && g->n_choices > 0;
    if (!x->is_streaming && is_cut)
        return fail_unfinished(x);
    if (!x->is_streaming)
        exchange_begin_stream(x);
    for (int i = 0; i < g->n_choices; i++)
        if (g->is_dirty[i])
            add_chunk(g, i, out);
    if (out->len)
        g->written_us = clock_us();
    exchange_add_stream(x, out);
    return g->is_final ? end_stream(x, out) : EXCHANGE_WAIT;
}

enum exchange_result generation_answer(struct exchange *x)
{
    if (!x->gen->is_started)
        return EXCHANGE_WAIT; /* until the first event a refusal still has a status of its own
                           */
    return x->gen->req.is_stream ? answer_stream(x) : answer_whole(x);
}

/* Proxies give up on a connection that stays silent. */
void generation_tick(struct exchange *x, int64_t now_us)
{
    struct generation *g = x->gen;
    struct buf out = {0};
    if (!g->req.is_stream || now_us - g->written_us < x->server->keepalive_ms * 1000LL)
        return;
    if (!x->is_streaming)
        exchange_begin_stream(x);
    sse_add_comment(&out, g->is_started ? "working" : "waiting");
    exchange_add_stream(x, &out);
    buf_free(&out);
    g->written_us = now_us;
}
