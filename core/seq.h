/* A sequence: the engine's side of one choice of a job, or of one soft prompt being compiled.
 *
 * Thread: engine. Borrows the job's tokens; it holds its KV blocks from admission to its end, and
 * shares those that hold the same text as others' (text_cache.h). */
#ifndef PREFIXD_SEQ_H
#define PREFIXD_SEQ_H

#include "core/kv_pool.h"
#include "core/stop.h"
#include "core/text_cache.h"
#include "core/tokenizer.h"

struct compile { /* lent by a blocked caller; done and result are guarded by the engine's lock */
    const float *rows;  /* [n, dim], or NULL: ids */
    const int32_t *ids;
    int n;
    uint32_t domain;
    bool is_done;
    struct kv_prefix *result;
    struct err err;
    struct compile *next;
};

struct seq {
    struct job *job;          /* NULL when compiling */
    struct compile *compile;
    struct domain *domain;    /* while the scheduler has it */
    int choice;               /* of the job */
    const int32_t *prompt;    /* [n_prompt]; NULL: rows of embeddings */
    const float *embeds;      /* [n_prompt, dim] */
    int n_prompt;
    const struct kv_prefix *prefix;
    int max_new;
    int n_step;               /* prompt rows in this step */
    int n_scored;             /* the most of them if every row of the prompt is scored */
    int n_due;                /* prompt rows not yet charged to the domain, once admitted */
    int n_computed;           /* own tokens whose keys stand in the blocks */
    int n_cached;             /* of the prompt's, those that were found and not computed */
    int n_kept;               /* blocks that others find */
    bool is_following;        /* in this step: another computes the text that it comes to next */
    int n_generated;
    int32_t last;             /* the newest token, not yet computed */
    int32_t tail[KV_TILE];    /* by place in their block: those generated last */
    int32_t *blocks;          /* [n_blocks] once admitted */
    int n_blocks;
    struct detok *detok;
    struct stop stop;
    uint64_t turn;            /* its place in the waiting queue: lower first */
    uint64_t since;           /* of a compile: the round in which it came */
    int room;                 /* of a running compile */
    struct seq *next;         /* in the waiting queue */
};

struct seq_queue {
    struct seq *first, *last;
    int n;
};

void seq_queue_add(struct seq_queue *w, struct seq *q); /* behind all of the same or an earlier turn */
bool seq_queue_remove(struct seq_queue *w, struct seq *q); /* false: it is not in this queue */

struct seq *seq_new_choice(struct job *j, int choice, const struct tokenizer *t);
struct seq *seq_new_compile(struct compile *c);
void seq_free(struct seq *s); /* its blocks must have been given back */

/* Takes from the cache what it has of the prompt, from where the sequence is, but not the last token,
 * whose logits are needed. Blocks that it had for that are given back. How many tokens it need not
 * compute. */
int seq_find_text(struct seq *s, struct text_cache *c);

/* Lets others find the blocks that the first n_computed tokens fill. */
void seq_keep_text(struct seq *s, struct text_cache *c, int n_computed);

/* q comes next to a block of its prompt that p, admitted before it, is computing; and no more slowly
 * than q would, as those do whose every row is scored. */
bool seq_follows(const struct seq *q, const struct seq *p);

/* Blocks for all tokens it can ever hold. */
int seq_blocks_needed(int n_prompt, int max_new);

/* Prompt rows that nobody looks at can be found; whose scores are wanted must be computed. */
static inline bool seq_scores_prompt(const struct seq *s)
{
    return s->job && s->job->is_echo && s->job->n_logprobs >= 0;
}

static inline bool seq_is_prefill(const struct seq *s)
{
    return s->n_computed < s->n_prompt;
}

#endif
