/* A sequence's birth and end. */
#include "core/seq.h"

#include "core/base/check.h"
#include "core/base/mem.h"

#include <stdlib.h>

struct seq *seq_new_choice(struct job *j, int choice, const struct tokenizer *t)
{
    const struct job_prompt *p = &j->prompts[choice / j->n];
    struct seq *s = xcalloc(1, sizeof *s);
    s->job = j;
    s->choice = choice;
    s->prompt = p->ids;
    s->n_prompt = p->n_ids;
    s->prefix = j->prefix;
    s->max_new = j->max_tokens;
    s->detok = detok_new(t, p->ids, (size_t)p->n_ids);
    stop_init(&s->stop, j->stops, j->n_stops);
    return s;
}

struct seq *seq_new_compile(struct compile *c)
{
    struct seq *s = xcalloc(1, sizeof *s);
    s->compile = c;
    s->prompt = c->ids;
    s->embeds = c->rows;
    s->n_prompt = c->n;
    return s;
}

void seq_free(struct seq *s)
{
    if (!s)
        return;
    CHECK(s->blocks == NULL);
    detok_free(s->detok);
    stop_fini(&s->stop);
    free(s);
}

int seq_blocks_needed(int n_prompt, int max_new)
{
    /* the last generated token is never fed back, but its slot costs nothing worth a special case */
    return (n_prompt + max_new + KV_TILE - 1) / KV_TILE;
}

void seq_queue_add(struct seq_queue *w, struct seq *q)
{
    struct seq *before = NULL;
    if (w->last && w->last->turn <= q->turn)
        before = w->last;
    else
        for (struct seq *at = w->first; at && at->turn <= q->turn; at = at->next)
            before = at;
    q->next = before ? before->next : w->first;
    if (before)
        before->next = q;
    else
        w->first = q;
    if (!q->next)
        w->last = q;
    w->n++;
}

bool seq_queue_remove(struct seq_queue *w, struct seq *q)
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
