/* Who runs, and what the next step computes: continuous batching with chunked prompts.
 *
 * Thread: engine. Pure bookkeeping: no clock, no thread, no maths, hence testable alone. Sequences wait
 * in order of arrival and are admitted when a place and all the KV blocks they can ever need are free, so
 * an admitted sequence never has to give way. */
#ifndef PREFIXD_SCHED_H
#define PREFIXD_SCHED_H

#include "core/batch.h"
#include "core/seq.h"

struct sched {
    struct seq **running; /* [n_running], oldest first */
    int n_running, max_running;
    struct seq *first, *last; /* waiting */
    int n_waiting;
    int prefill_chunk;
    struct sched_pick *picks; /* scratch */
    struct seq **order;       /* [batch's n_seqs]: whose rows batch.seqs[i] are, after sched_next */
};

struct sched_pick {
    struct seq *seq;
    int n_rows;
    int age; /* place among the running: ties keep it */
};

void sched_init(struct sched *s, int max_running, int prefill_chunk);
void sched_fini(struct sched *s);

void sched_add(struct sched *s, struct seq *q); /* to the end of the queue */
void sched_admit(struct sched *s, struct kv_pool *pool);

/* All decoding rows and up to prefill_chunk prompt rows, sequences of one prefix side by side. */
void sched_next(struct sched *s, struct batch *b);

/* Takes q out, running or waiting, and gives its blocks back. The caller frees it. */
void sched_remove(struct sched *s, struct seq *q, struct kv_pool *pool);

#endif
