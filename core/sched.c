/* Who runs, and what the next step computes. */
#include "core/sched.h"

#include "core/base/check.h"
#include "core/base/mem.h"

#include <stdlib.h>
#include <string.h>

void sched_init(struct sched *s, int max_running, int max_job_blocks, int prefill_chunk)
{
    size_t most = (size_t)max_running + 1; /* and one compile */
    *s = (struct sched){.max_running = max_running,
                        .max_job_blocks = max_job_blocks,
                        .prefill_chunk = prefill_chunk};
    s->running = xcalloc(most, sizeof *s->running);
    s->picks = xcalloc(most, sizeof *s->picks);
    s->order = xcalloc(most, sizeof *s->order);
}

void sched_fini(struct sched *s)
{
    CHECK(!s->n_running && !s->waiting.n && !s->compiles.n);
    free(s->running);
    free(s->picks);
    free(s->order);
    *s = (struct sched){0};
}

static void push(struct seq_queue *w, struct seq *q)
{
    q->next = NULL;
    if (w->last)
        w->last->next = q;
    else
        w->first = q;
    w->last = q;
    w->n++;
}

/* false: q is not in this queue. */
static bool unlink_from(struct seq_queue *w, struct seq *q)
{
    struct seq *before = NULL;
    for (struct seq *at = w->first; at != q; before = at, at = at->next)
        if (!at)
            return false;
    if (before)
        before->next = q->next;
    else
        w->first = q->next;
    if (w->last == q)
        w->last = before;
    q->next = NULL;
    w->n--;
    return true;
}

void sched_add(struct sched *s, struct seq *q)
{
    push(q->compile ? &s->compiles : &s->waiting, q);
}

static void start(struct sched *s, struct seq_queue *from, struct kv_pool *pool, int n_blocks)
{
    struct seq *q = from->first;
    q->blocks = xcalloc((size_t)n_blocks, sizeof *q->blocks);
    q->n_blocks = n_blocks;
    CHECK(kv_pool_take(pool, n_blocks, q->blocks));
    CHECK(unlink_from(from, q));
    s->running[s->n_running++] = q;
    if (q->compile)
        s->has_compile = true;
    else
        s->n_job_blocks += n_blocks;
}

void sched_admit(struct sched *s, struct kv_pool *pool)
{
    if (s->compiles.first && !s->has_compile)
        start(s, &s->compiles, pool, seq_blocks_needed(s->compiles.first->n_prompt, 0));
    while (s->waiting.first && s->n_running - s->has_compile < s->max_running) {
        const struct seq *q = s->waiting.first;
        int need = seq_blocks_needed(q->n_prompt, q->max_new);
        if (need > s->max_job_blocks - s->n_job_blocks)
            return; /* first come, first served: nobody overtakes, so nobody starves */
        start(s, &s->waiting, pool, need);
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

static void stop(struct sched *s, int i, struct kv_pool *pool)
{
    struct seq *q = s->running[i];
    memmove(s->running + i, s->running + i + 1, (size_t)(s->n_running - i - 1) * sizeof *s->running);
    s->n_running--;
    if (q->compile)
        s->has_compile = false;
    else
        s->n_job_blocks -= q->n_blocks;
    kv_pool_give(pool, q->blocks, q->n_blocks);
    free(q->blocks);
    q->blocks = NULL;
}

void sched_remove(struct sched *s, struct seq *q, struct kv_pool *pool)
{
    for (int i = 0; i < s->n_running; i++)
        if (s->running[i] == q) {
            stop(s, i, pool);
            return;
        }
    CHECK(unlink_from(q->compile ? &s->compiles : &s->waiting, q));
}
