/* The body of POST /v1/completions: checked parameters out of JSON, and answers back into JSON.
 *
 * Thread: loop (parsing uses cJSON). Pure: no sockets, no clock, no engine. What is allocated lives in
 * the arena given to completion_parse (the exchange's).
 *
 *     struct completion c;
 *     if (completion_parse(&c, body, len, &arena, &err) < 0) -> 400 with err.param
 */
#ifndef PREFIXD_COMPLETION_H
#define PREFIXD_COMPLETION_H

#include "core/base/arena.h"
#include "core/base/buf.h"
#include "core/base/err.h"
#include "core/engine.h"
#include "core/tokenizer.h"

#include <stdbool.h>
#include <stdint.h>

struct completion_prompt { /* text or tokens */
    const char *text; /* NULL: tokens given */
    size_t text_len;
    const int32_t *ids;
    int n_ids;
};

struct completion {
    const char *model; /* "" when absent or null */
    struct completion_prompt *prompts;
    int n_prompts;
    int n;
    struct sampling sampling;
    bool has_seed;
    int max_tokens, min_tokens;
    struct job_stop stops[JOB_MAX_STOPS];
    int n_stops;
    int n_logprobs; /* -1: not asked for */
    bool is_echo, is_stream, has_usage_chunk, ignore_eos, wants_token_ids;
    bool has_task;
    int64_t task_id;
};

int completion_parse(struct completion *c, const char *body, size_t len, struct arena *arena,
                     struct err *err);

/* ---- answers ------------------------------------------------------------------------------------ */

struct completion_usage {
    int prompt_tokens, completion_tokens, virtual_tokens, cached_tokens;
};

/* What is common to all chunks of an answer. Strings are borrowed. */
struct completion_head {
    const char *id;    /* "cmpl-..." */
    const char *model; /* as the client named it, or the base's name */
    int64_t created;
};

/* One choice's growing answer; zeroed to start, choice_out_fini at the end. */
struct choice_out {
    struct buf text;
    struct buf tokens, token_logprobs, top_logprobs, text_offset; /* inner parts of JSON arrays */
    size_t n_offset_chars; /* characters so far, for text_offset */
    struct detok *detok;   /* finds text_offset; without echo the one who fills sets detok_new(prompt)
                              before the first score; owned. NULL: made as at the start of a text */
    bool is_in_prompt; /* whose special tokens show in the text; set before scores come */
    bool hides_first;  /* but for this one */
    bool is_after_special;
    int n_tokens;          /* scores added so far */
    const char *finish_reason; /* NULL while running */
    const char *stop_reason;   /* the stop string that ended it, or NULL */
};

void choice_out_fini(struct choice_out *o);
void choice_out_clear(struct choice_out *o); /* after a chunk: text and scores; places go on */

/* Adds the logprobs rows of an event's tokens (EVENT_PROMPT or EVENT_TOKEN). Keys of top_logprobs and
 * tokens are token texts, or "token_id:NN" when by_id. */
void choice_out_add_scores(struct choice_out *o, const struct tokenizer *t, const struct token_out *tokens,
                           int n_tokens, bool by_id);

/* The whole answer, not streamed. has_logprobs: the choices carry a logprobs object (else null). */
void completion_render(struct buf *out, const struct completion_head *h, const struct choice_out *choices,
                       int n_choices, bool has_logprobs, const struct completion_usage *usage);

/* One streamed chunk (JSON only, no framing) for one choice: what `o` holds since the last chunk. The
 * caller calls choice_out_clear after. */
void completion_render_chunk(struct buf *out, const struct completion_head *h, int index,
                             const struct choice_out *o, bool has_logprobs, bool has_null_usage);

/* The last chunk of stream_options.include_usage: no choices, usage alone. */
void completion_render_usage_chunk(struct buf *out, const struct completion_head *h,
                                   const struct completion_usage *usage);

/* {"error":{"message","type","param","code"}} for any answer, streamed or not. */
void completion_render_error(struct buf *out, const struct err *err, const char *request_id);

#endif
