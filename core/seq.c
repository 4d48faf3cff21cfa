/* A sequence's birth and end. */
#include "core/seq.h"

#include "core/base/check.h"
#include "core/base/mem.h"

#include <stdlib.h>
#include <string.h>

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

/* ---- text that is found again ---------------------------------------------------------------- */

static int32_t token_at(const struct seq *s, int slot)
{
    return slot < s->n_prompt ? s->prompt[slot] : s->tail[slot % KV_TILE];
}

/* What block i says, all of whose tokens are known. */
static struct text_key key_of(const struct seq *s, int i)
{
    struct text_key key = {.domain = s->job->domain, .before = i ? s->blocks[i - 1] : -1};
    if (s->prefix)
        memcpy(key.prefix, s->prefix->digest, sizeof key.prefix);
    for (int t = 0; t < KV_TILE; t++)
        key.ids[t] = token_at(s, i * KV_TILE + t);
    return key;
}

/* Blocks of the prompt that need not be computed, if the cache has them. */
static int n_findable(const struct seq *s)
{
    return s->job && !seq_scores_prompt(s) ? (s->n_prompt - 1) / KV_TILE : 0;
}

static bool find_block(struct seq *s, struct text_cache *c, int i)
{
    struct text_key key = key_of(s, i);
    int32_t found = text_cache_find(c, &key);
    if (found < 0)
        return false;
    if (s->blocks[i] >= 0)
        text_cache_give(c, &s->blocks[i], 1);
    s->blocks[i] = found;
    return true;
}

int seq_find_text(struct seq *s, struct text_cache *c)
{
    int before = s->n_computed;
    while (s->n_kept < n_findable(s) && find_block(s, c, s->n_kept))
        s->n_computed = ++s->n_kept * KV_TILE;
    s->n_cached += s->n_computed - before;
    return s->n_computed - before;
}

void seq_keep_text(struct seq *s, struct text_cache *c, int n_computed)
{
    for (; s->job && s->n_kept < n_computed / KV_TILE; s->n_kept++) {
        struct text_key key = key_of(s, s->n_kept);
        s->blocks[s->n_kept] = text_cache_keep(c, &key, s->blocks[s->n_kept]);
    }
}

bool seq_follows(const struct seq *q, const struct seq *p)
{
    int i = q->n_kept, at = i * KV_TILE;
    if (!p->job || seq_scores_prompt(p) || p->domain != q->domain || p->n_kept != i || !seq_is_prefill(p) ||
        i >= n_findable(q) || p->n_prompt < at + KV_TILE ||
        memcmp(q->prompt + at, p->prompt + at, KV_TILE * sizeof *q->prompt) != 0)
        return false;
    struct text_key a = key_of(q, i), b = key_of(p, i);
    return memcmp(&a, &b, sizeof a) == 0;
}

/* ---- queues ----------------------------------------------------------------------------------- */

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
