/* Who runs, and what the next step computes. */
#include "core/sched.h"

#include "core/base/check.h"
#include "core/base/mem.h"

#include <stdlib.h>
#include <string.h>

void sched_init(struct sched *s, int max_running, int prefill_chunk)
{
    *s = (struct sched){.max_running = max_running, .prefill_chunk = prefill_chunk};
    s->running = xcalloc((size_t)max_running, sizeof *s->running);
    s->picks = xcalloc((size_t)max_running, sizeof *s->picks);
    s->order = xcalloc((size_t)max_running, sizeof *s->order);
}

void sched_fini(struct sched *s)
{
    CHECK(!s->n_running && !s->n_waiting);
    free(s->running);
    free(s->picks);
    free(s->order);
    *s = (struct sched){0};
}

void sched_add(struct sched *s, struct seq *q)
{
    q->next = NULL;
    if (s->last)
        s->last->next = q;
    else
        s->first = q;
    s->last = q;
    s->n_waiting++;
}

static void unlink_waiting(struct sched *s, struct seq *before, struct seq *q)
{
    if (before)
        before->next = q->next;
    else
        s->first = q->next;
    if (s->last == q)
        s->last = before;
    q->next = NULL;
    s->n_waiting--;
}

void sched_admit(struct sched *s, struct kv_pool *pool)
{
    while (s->first && s->n_running < s->max_running) {
        struct seq *q = s->first;
        int need = seq_blocks_needed(q->n_prompt, q->max_new);
        if (need > pool->n_free)
            return; /* first come, first served: nobody overtakes, so nobody starves */
        q->blocks = xcalloc((size_t)need, sizeof *q->blocks);
        q->n_blocks = need;
        CHECK(kv_pool_take(pool, need, q->blocks));
        unlink_waiting(s, NULL, q);
        s->running[s->n_running++] = q;
    }
}

static int pick_rows(const struct seq *q, int *chunk)
{
    if (!seq_is_prefill(q))
        return 1;
    int left = q->n_prompt - q->n_computed, n = left < *chunk ? left : *chunk;
    *chunk -= n;
    return n;
}

static int compare_picks(const void *a, const void *b)
{
    const struct sched_pick *x = a, *y = b;
    uintptr_t p = (uintptr_t)x->seq->prefix, q = (uintptr_t)y->seq->prefix;
    if (p != q)
        return p < q ? -1 : 1;
    return x->age - y->age;
}

static void add_rows(struct batch *b, const struct sched_pick *p)
{
    const struct seq *q = p->seq;
    bool is_echo = q->job && q->job->is_echo && q->job->n_logprobs >= 0;
    batch_add_seq(b, q->blocks, q->prefix);
    for (int i = 0; i < p->n_rows; i++) {
        int slot = q->n_computed + i;
        bool is_last = slot + 1 >= q->n_prompt;
        bool wants = q->job && (is_last ? q->max_new > 0 : is_echo);
        struct batch_row *r = batch_add_row(b, slot, wants);
        if (q->embeds)
            r->embed = q->embeds + (size_t)slot * b->dim;
        else
            r->token = slot < q->n_prompt ? q->prompt[slot] : q->last;
    }
}

void sched_next(struct sched *s, struct batch *b)
{
    int n = 0, chunk = s->prefill_chunk;
    batch_clear(b);
    for (int i = 0; i < s->n_running; i++) {
        int rows = pick_rows(s->running[i], &chunk);
        if (rows)
            s->picks[n++] = (struct sched_pick){s->running[i], rows, i};
    }
    qsort(s->picks, (size_t)n, sizeof *s->picks, compare_picks);
    for (int i = 0; i < n; i++) {
        s->order[i] = s->picks[i].seq;
        add_rows(b, &s->picks[i]);
    }
}

void sched_remove(struct sched *s, struct seq *q, struct kv_pool *pool)
{
    for (int i = 0; i < s->n_running; i++) {
        if (s->running[i] != q)
            continue;
        memmove(s->running + i, s->running + i + 1,
                (size_t)(s->n_running - i - 1) * sizeof *s->running);
        s->n_running--;
        kv_pool_give(pool, q->blocks, q->n_blocks);
        free(q->blocks);
        q->blocks = NULL;
        return;
    }
    for (struct seq *w = s->first, *before = NULL; w; before = w, w = w->next)
        if (w == q) {
            unlink_waiting(s, before, q);
            return;
        }
    CHECK(!"sequence is neither running nor waiting");
}
