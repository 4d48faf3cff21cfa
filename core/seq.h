/* A sequence: the engine's side of one choice of a job, or of one soft prompt being compiled.
 *
 * Thread: engine. Borrows the job's tokens; its KV blocks are its own from admission to its end. */
#ifndef PREFIXD_SEQ_H
#define PREFIXD_SEQ_H

#include "core/kv_pool.h"
#include "core/stop.h"
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
    int n_due;                /* prompt rows not yet charged to the domain, once admitted */
    int n_computed;           /* own tokens whose keys stand in the blocks */
    int n_generated;
    int32_t last;             /* the newest token, not yet computed */
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

/* Blocks for all tokens it can ever hold. */
int seq_blocks_needed(int n_prompt, int max_new);

static inline bool seq_is_prefill(const struct seq *s)
{
    return s->n_computed < s->n_prompt;
}

#endif
