/* Who runs, and what the next step computes: continuous batching with chunked prompts.
 *
 * Thread: engine. Pure bookkeeping: no clock, no thread, no maths, hence testable alone. Sequences wait in
 * their tenant's order of arrival and are admitted when it is the tenant's turn (fair.h) and a place and
 * all the KV blocks they can ever need are free, so an admitted sequence never has to give way. Compiles
 * have places and blocks of their own (compiles.h); what they cost is charged to their tenants.
 *
 * Before each step every prompt takes what the text cache has of it (text_cache.h). One that comes
 * next to a block which an older one is computing waits for it, so that of several prompts with
 * one beginning, and of the choices of one prompt, only the first computes it. A shared block counts
 * for each that holds it as if it were its own: so what a sequence needs does not depend on what
 * others do. */
#ifndef PREFIXD_SCHED_H
#define PREFIXD_SCHED_H

#include "core/batch.h"
#include "core/compiles.h"
#include "core/fair.h"
#include "core/pace.h"
#include "core/seq.h"

enum { SCHED_SCORED = 64 };

struct sched {
    struct fair fair;     /* the waiting jobs are in its domains' queues */
    struct text_cache *text; /* the blocks of jobs, and through it the pool */
    struct seq **running; /* [n_running], oldest first; compiles among them */
    int n_running;
    struct compiles compiles;
    int chunk;                /* prompt rows of the next step: may be set anew before each */
    struct pace_step step;    /* what sched_next has chosen */
    struct sched_pick *picks; /* scratch */
    struct seq **order;       /* [batch's n_seqs]: whose rows batch.seqs[i] are, after sched_next */
};

struct sched_pick {
    struct seq *seq;
    int n_rows;
    int age; /* place among the running: ties keep it */
};

/* The most sequences that a step can have, if max_running is the number of ordinary places. */
int sched_max_seqs(int max_running);

/* max_compile: tokens of the longest compile. The pool needs compiles_blocks beside the cache's. */
void sched_init(struct sched *s, struct text_cache *text, int max_running, int max_compile,
                int chunk);
void sched_fini(struct sched *s);

void sched_add(struct sched *s, struct seq *q); /* to the end of its queue */
void sched_admit(struct sched *s); /* once per step, before sched_next */

/* What runs, for the choice of the next step's chunk. */
struct pace_load sched_load(const struct sched *s);

/* All decoding rows and up to `chunk` rows of prompts and compiles, sequences of one prefix side by
 * side; of prompts whose every row is scored no more than SCHED_SCORED, as logits are large. What is
 * chosen is charged: it is going to be computed. */
void sched_next(struct sched *s, struct batch *b);

/* Takes q out, running or waiting, and gives its blocks back. The caller frees it. */
void sched_remove(struct sched *s, struct seq *q);

/* The first sequence, running or waiting, that is_it says yes to. */
struct seq *sched_find(const struct sched *s, bool (*is_it)(const struct seq *q, const void *ud),
                       const void *ud);

#endif
