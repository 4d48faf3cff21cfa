/* PUBLIC. The engine: jobs in, events out, on a thread of its own. It knows no HTTP, no JSON, no adapter
 * and no tenant's name; what customises a job is one pointer to an immutable `struct kv_prefix`.
 *
 *     struct engine_opts opts = {.n_threads = 2, .wake = my_wake, .wake_ud = loop};
 *     struct engine *e = engine_open(base, &opts, &err);
 *     engine_post(e, job, &err);                      loop thread; the engine borrows the job
 *     ... wake(ud) is called from the engine thread ...
 *     for (struct event *ev = engine_drain(e); ev; ev = next) { next = ev->next; ...; event_free(ev); }
 *     engine_close(e);
 *
 * Exactness and batch invariance: the tokens and log-probabilities of a choice depend on its prompt, its
 * prefix, its sampling settings and the model alone; bitwise the same in any batch, with any chunking of
 * the prompt and any number of threads, whether or not the text cache had its beginning.
 */
#ifndef PREFIXD_ENGINE_H
#define PREFIXD_ENGINE_H

#include "core/base/dtype.h"
#include "core/base/err.h"
#include "core/base_model.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    KV_TILE = 16,         /* tokens in a tile of a prefix and in a block of the KV pool */
    KV_LAYOUT = 2,        /* raised whenever the bytes of a prefix lie otherwise than before */
    KV_PREFIX_DIGEST = 16,
    JOB_MAX_CHOICES = 128, /* prompts times n */
    JOB_MAX_STOPS = 16,
    JOB_MAX_LOGPROBS = 20,
};

/* ---- prefixes ------------------------------------------------------------------------------------ */

/* What every adapter version compiles to: K and V of P virtual tokens in every layer, keys already
 * rotated. Immutable; borrowed by every job that names it and freed by its owner after the last one.
 *   k, v: [n_layers, n_kv_heads, n_tiles] tiles as core/kv_tile.h describes them
 * The last tile is padded with zeros. The digest is of all the rest: what was computed after one prefix
 * holds after any of the same digest. */
struct kv_prefix {
    int n_tokens, n_tiles;
    int first_pos; /* position of the first real token: n_tokens for every PEFT type */
    enum dtype dtype;
    size_t bytes;
    const void *k, *v;
    unsigned char digest[KV_PREFIX_DIGEST];
};

struct engine;

/* Raw keys and values, as PREFIX_TUNING and CARTRIDGE store them: kv is [P, L, 2, n_kv_heads * head_dim]
 * f32, keys already rotated. Reorders and casts. Refused (ERR_ADAPTER) if anything is not finite before
 * or after the cast. Thread: any. */
struct kv_prefix *kv_prefix_from_kv(const struct base_model *b, const float *kv, int n_tokens,
                                    struct err *err);

/* Hidden vectors before every layer's input: hidden is [L, P, dim] f32. Per layer: input norm, Wk, Wv,
 * rotation at 0..P-1 (Xiao and Zhu, Foundations of Large Language Models, ch. 3). Thread: any; costs two
 * small matrix products per layer on the calling thread. */
struct kv_prefix *kv_prefix_from_hidden(const struct base_model *b, const float *hidden, int n_tokens,
                                        struct err *err);

/* Soft prompt: rows is [P, dim] f32 at the embedding layer; or token ids with their own embeddings. One
 * causal pass of the frozen base at positions 0..P-1, done by the engine between and beside the running
 * sequences' rows in bounded chunks, charged to the tenant `domain`. Blocks until done. Thread: any but the loop's and the engine's. */
struct kv_prefix *engine_prefix_from_rows(struct engine *e, uint32_t domain, const float *rows,
                                          int n_tokens, struct err *err);
struct kv_prefix *engine_prefix_from_tokens(struct engine *e, uint32_t domain, const int32_t *ids,
                                            int n_tokens, struct err *err);

void kv_prefix_free(struct kv_prefix *p); /* accepts NULL */

/* What a prefix of so many tokens takes in memory, K and V together; 0: it cannot be held. */
size_t kv_prefix_bytes(const struct model_shape *s, int n_tokens);

/* A prefix whose bytes were kept: k, then v, bytes / 2 each, as they lay in the prefix that was made for
 * this very base. read fills `to` with the next len bytes, or fails. Thread: any. */
struct kv_prefix *kv_prefix_from_bytes(const struct base_model *b, int n_tokens, int first_pos,
                                       int (*read)(void *ud, void *to, size_t len, struct err *err),
                                       void *ud, struct err *err);

/* ---- jobs ---------------------------------------------------------------------------------------- */

struct sampling {
    float temperature; /* 0: greedy */
    float top_p;       /* 1: off */
    float min_p;       /* 0: off */
    int top_k;         /* 0: off */
    uint64_t seed;     /* noise depends on (seed, choice's index within its prompt, position) alone */
};

struct job_prompt {
    const int32_t *ids; /* at least one */
    int n_ids;
};

struct job_stop {
    const char *text; /* not empty */
    size_t len;
};

struct job { /* everything above the line is set by the caller and unchanged until the final event */
    const struct kv_prefix *prefix; /* NULL: none */
    uint32_t domain;                /* the tenant's number: text cache and queue are private to it */
    uint32_t weight;                /* of that tenant beside the others; 0 means 1 */
    const struct job_prompt *prompts;
    int n_prompts;
    int n; /* choices per prompt; choice c belongs to prompt c / n */
    struct sampling sampling;
    int max_tokens, min_tokens; /* max_tokens 0: only prompt log-probabilities (is_echo) */
    bool ignore_eos;
    struct job_stop stops[JOB_MAX_STOPS];
    int n_stops;
    int n_logprobs;  /* -1: none asked for; else 0..20 alternatives per token */
    bool is_echo;    /* with n_logprobs >= 0: EVENT_PROMPT with the prompt's log-probabilities */
    void *ud;
    atomic_bool cancelled; /* the one field the caller may set while the job is lent */
    /* ------------------------------------------------------------------ the engine's own: */
    struct job *next;
    int n_live;
    int64_t admitted_us; /* when its first sequence began to run, on CLOCK_MONOTONIC; 0: none did */
};

/* ---- events -------------------------------------------------------------------------------------- */

enum event_kind {
    EVENT_PROMPT, /* log-probabilities of prompt tokens, in order, in one or more pieces */
    EVENT_TOKEN,  /* a new token of a choice; text may be empty while bytes are held back */
    EVENT_END,    /* a choice is complete; text may hold what was held back */
    EVENT_DONE,   /* final: every choice is complete (or the job was cancelled); the job is yours again */
    EVENT_FAILED, /* final: err says why */
};

enum finish { FINISH_STOP, FINISH_LENGTH, FINISH_CANCELLED };

struct token_score {
    int32_t id;
    float logprob; /* natural log, of the raw logits; NaN for the first prompt token (no left side) */
};

struct token_out {
    struct token_score token;
    int n_top;
    const struct token_score *top; /* best first; ties by lower id; inside the event */
};

struct event { /* owned by the receiver; event_free */
    struct event *next;
    enum event_kind kind;
    struct job *job;
    int choice;
    int64_t made_us;     /* when its step was over, on CLOCK_MONOTONIC */
    enum finish finish;  /* EVENT_END */
    int stop_index;      /* EVENT_END: which stop string ended it, -1: none */
    int n_generated;     /* EVENT_END: tokens made, a final EOS included */
    int n_cached;        /* EVENT_TOKEN, EVENT_END: tokens of its prompt that the text cache had */
    const char *text;    /* EVENT_TOKEN, EVENT_END: valid UTF-8, whole characters, stop strings never shown */
    size_t text_len;
    int n_tokens;        /* EVENT_TOKEN: 1; EVENT_PROMPT: the piece's */
    const struct token_out *tokens;
    struct err err;      /* EVENT_FAILED */
};

void event_free(struct event *ev);

/* ---- the engine ---------------------------------------------------------------------------------- */

struct engine_opts {
    int n_threads;      /* compute threads, the engine's own included; 0: number of cores */
    int max_ctx;        /* virtual + prompt + generated tokens of a sequence; 0: the model's maximum */
    size_t kv_bytes;    /* the KV pool; 0: a default that fits max_ctx times some sequences */
    int max_batch;      /* sequences running at once; 0: 32. A quarter as many again wait for tenants
                         * that have none running. */
    int max_queue;      /* sequences waiting at once, of each tenant; 0: 1024 */
    int prefill_chunk;  /* the most prompt rows of a step; 0: 256 */
    int step_target_ms; /* how long a step of decoding rows may take with prompt rows beside them; 0: twice
                         * what it takes without, -1: as long as it takes */
    bool no_text_cache; /* every prompt is computed from its first token on */
    int n_engines;      /* on this machine, for the default of kv_bytes; 0: 1 */
    void (*wake)(void *ud); /* engine thread: events wait and the outbox was empty. May be NULL. */
    void *wake_ud;
};

enum { ENGINE_STEP_TIMES = 42 };

/* How long a step of the i-th bucket of step_times took at most, in microseconds: from 100 on, each a quarter
 * more than the one before, so that a tail can be told within a quarter; the last has no bound. */
static inline uint64_t engine_step_bound_us(int i)
{
    uint64_t bound = 100;
    while (i-- > 0)
        bound += bound / 4;
    return bound;
}

struct engine_stats { /* counters since start, and gauges */
    uint64_t steps, step_us;
    uint64_t step_times[ENGINE_STEP_TIMES]; /* steps, by how long they took */
    uint64_t prefill_rows;   /* prompt rows of requests computed; a prefix costs none */
    uint64_t decode_rows;
    uint64_t compile_rows;   /* rows of soft prompts and text adapters */
    uint64_t prefix_reads;   /* prefixes read, once per step each */
    uint64_t prefix_rows;    /* rows that read a prefix: rows per read = sharing factor */
    uint64_t generated_tokens;
    uint64_t text_asked;     /* prompt tokens that were looked for in the text cache */
    uint64_t text_found;     /* of those */
    uint64_t text_evicted;   /* blocks that it lost because room was needed */
    int running, waiting;    /* sequences */
    int compiling;           /* soft prompts and texts, those that wait included */
    int kv_blocks_used, kv_blocks_total;
    int kv_blocks_cached;    /* not in use: kept for the text that they hold */
    size_t kv_block_bytes;
};

struct engine *engine_open(const struct base_model *b, const struct engine_opts *opts,
                           struct err *err);

/* What the options came to. Thread: any. */
int engine_max_ctx(const struct engine *e);

/* On 0 the engine borrows j until it emits EVENT_DONE or EVENT_FAILED for it; meanwhile the caller may
 * only set j->cancelled. On -1 err says why: ERR_CONTEXT (with the numbers), ERR_QUEUE_FULL, ERR_CLOSING.
 * Thread: loop. */
int engine_post(struct engine *e, struct job *j, struct err *err);

/* All events so far, oldest first. Thread: loop. */
struct event *engine_drain(struct engine *e);

void engine_stats(struct engine *e, struct engine_stats *out); /* any */

/* Ends every job with EVENT_DONE (FINISH_CANCELLED), stops the thread, leaves the last events to
 * engine_drain; engine_free releases the rest. Thread: loop. */
void engine_close(struct engine *e);
void engine_free(struct engine *e);

#endif
