/* Who runs, and what the next step computes. */
#include "core/sched.h"

#include "core/base/check.h"
#include "core/base/mem.h"

#include <stdlib.h>
#include <string.h>

int sched_max_seqs(int max_running)
{
    return max_running + fair_extra_places(max_running) + FAIR_COMPILES;
}

void sched_init(struct sched *s, int max_running, int max_job_blocks, int max_compile, int chunk)
{
    size_t most = (size_t)sched_max_seqs(max_running);
    *s = (struct sched){.chunk = chunk};
    fair_init(&s->fair, max_running, max_job_blocks);
    compiles_init(&s->compiles, max_compile);
    s->running = xcalloc(most, sizeof *s->running);
    s->picks = xcalloc(most, sizeof *s->picks);
    s->order = xcalloc(most, sizeof *s->order);
}

void sched_fini(struct sched *s)
{
    CHECK(!s->n_running && !s->fair.n_waiting && !s->compiles.n_waiting);
    fair_fini(&s->fair);
    free(s->running);
    free(s->picks);
    free(s->order);
    *s = (struct sched){0};
}

void sched_add(struct sched *s, struct seq *q)
{
    const struct job *j = q->job;
    q->domain = j ? fair_domain(&s->fair, j->domain, j->weight ? j->weight : 1)
                  : fair_domain(&s->fair, q->compile->domain, 0);
    fair_enter(&s->fair, q->domain);
    q->domain->n_seqs++;
    if (j)
        fair_wait(&s->fair, q->domain, q);
    else
        compiles_wait(&s->compiles, &s->fair, q->domain, q);
}

/* q is out of its queue and runs from now on. */
static void start(struct sched *s, struct seq *q, struct kv_pool *pool)
{
    struct domain *d = q->domain;
    q->n_blocks = seq_blocks_needed(q->n_prompt, q->max_new);
    q->blocks = xcalloc((size_t)q->n_blocks, sizeof *q->blocks);
    CHECK(kv_pool_take(pool, q->n_blocks, q->blocks));
    s->running[s->n_running++] = q;
    q->n_due = q->n_prompt;
    d->n_due += q->n_due;
    if (q->job)
        fair_start(&s->fair, d, q->n_blocks);
    if (q->prefix)
        fair_charge(d, (int64_t)q->prefix->first_pos * PRICE_VIRTUAL);
}

void sched_admit(struct sched *s, struct kv_pool *pool)
{
    fair_begin(&s->fair);
    for (struct seq *q; (q = compiles_next(&s->compiles, &s->fair));)
        start(s, q, pool);
    for (struct domain *d; (d = fair_next(&s->fair));) {
        struct seq *q = d->waiting.first;
        CHECK(fair_leave(&s->fair, d, q));
        start(s, q, pool);
    }
}

/* Where its next row stands: a prefix's tokens count. */
static int position_of(const struct seq *q)
{
    return q->n_computed + (q->prefix ? q->prefix->first_pos : 0);
}

struct pace_load sched_load(const struct sched *s)
{
    struct pace_load l = {0};
    for (int i = 0; i < s->n_running; i++) {
        const struct seq *q = s->running[i];
        if (!seq_is_prefill(q)) {
            l.n_decoding++;
            continue;
        }
        l.n_left += q->n_prompt - q->n_computed;
        l.furthest = position_of(q) > l.furthest ? position_of(q) : l.furthest;
    }
    return l;
}

static bool is_scored(const struct seq *q)
{
    return q->job && q->job->is_echo && q->job->n_logprobs >= 0;
}

/* Equal parts of SCHED_SCORED, at least a row each: with a row of every other sequence there are at
 * most max_seqs rows more. */
static void share_scored(struct sched *s)
{
    int n = 0;
    for (int i = 0; i < s->n_running; i++)
        n += seq_is_prefill(s->running[i]) && is_scored(s->running[i]);
    s->n_scored = n >= SCHED_SCORED ? 1 : SCHED_SCORED / (n ? n : 1);
}

/* Each of a domain's compiles has a part of its rows, and so have its requests together. */
static void count_parts(struct sched *s)
{
    for (int i = 0; i < s->n_running; i++) {
        struct domain *d = s->running[i]->domain;
        d->n_parts = d->n_left = 0;
    }
    for (int i = 0; i < s->n_running; i++) {
        struct seq *q = s->running[i];
        struct domain *d = q->domain;
        q->n_step = 0;
        if (!seq_is_prefill(q))
            continue;
        fair_want(&s->fair, d, q->n_prompt - q->n_computed);
        d->n_parts += q->compile || !d->n_left;
        d->n_left |= q->job != NULL;
    }
}

static void take_rows(const struct sched *s, struct seq *q, int most)
{
    int left = q->n_prompt - q->n_computed - q->n_step;
    if (is_scored(q) && left > s->n_scored - q->n_step)
        left = s->n_scored - q->n_step;
    int n = left < most ? left : most;
    n = n < q->domain->n_rows ? n : q->domain->n_rows;
    q->n_step += n;
    q->domain->n_rows -= n;
    if (q->job)
        q->domain->n_left -= n;
}

/* Divides the step's prompt rows among the domains and their parts; of requests the oldest
 * come first. What is over goes to each in turn. */
static void deal_prompt_rows(struct sched *s)
{
    count_parts(s);
    share_scored(s);
    fair_deal(&s->fair, s->chunk);
    for (int i = 0; i < s->n_running; i++) {
        struct domain *d = s->running[i]->domain;
        if (d->n_parts)
            d->n_part = d->n_left = d->n_rows / d->n_parts;
    }
    for (int i = 0; i < s->n_running; i++) {
        struct seq *q = s->running[i];
        if (seq_is_prefill(q))
            take_rows(s, q, q->compile ? q->domain->n_part : q->domain->n_left);
    }
    for (int i = 0; i < s->n_running; i++) {
        struct seq *q = s->running[(s->fair.round + (unsigned)i) % (unsigned)s->n_running];
        if (seq_is_prefill(q))
            take_rows(s, q, s->chunk);
    }
}

/* The rows of q in this step, charged to its domain. */
static int pick_rows(struct seq *q)
{
    struct domain *d = q->domain;
    if (!seq_is_prefill(q)) {
        fair_charge(d, PRICE_GENERATED);
        return 1;
    }
    int n = q->n_step;
    q->n_due -= n;
    d->n_due -= n;
    fair_charge(d, (int64_t)n * PRICE_PROMPT);
    if (q->n_computed + n == q->n_prompt && q->max_new > 0)
        fair_charge(d, PRICE_GENERATED);
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
    batch_add_seq(b, q->blocks, q->prefix);
    for (int i = 0; i < p->n_rows; i++) {
        int slot = q->n_computed + i;
        bool is_last = slot + 1 >= q->n_prompt;
        bool wants = q->job && (is_last ? q->max_new > 0 : is_scored(q));
        struct batch_row *r = batch_add_row(b, slot, wants);
        if (q->embeds)
            r->embed = q->embeds + (size_t)slot * b->dim;
        else
            r->token = slot < q->n_prompt ? q->prompt[slot] : q->last;
    }
}

static void count_rows(struct pace_step *step, const struct seq *q, int n)
{
    if (!seq_is_prefill(q)) {
        step->n_decoding++;
        return;
    }
    step->n_prompt += n;
    step->positions += (int64_t)n * position_of(q) + (int64_t)n * (n - 1) / 2;
}

void sched_next(struct sched *s, struct batch *b)
{
    int n = 0;
    batch_clear(b);
    s->step = (struct pace_step){0};
    deal_prompt_rows(s);
    for (int i = 0; i < s->n_running; i++) {
        int rows = pick_rows(s->running[i]);
        if (!rows)
            continue;
        s->picks[n++] = (struct sched_pick){s->running[i], rows, i};
        count_rows(&s->step, s->running[i], rows);
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
    q->domain->n_due -= q->n_due;
    if (q->compile)
        compiles_end(&s->compiles, q->domain, q);
    else
        fair_end(&s->fair, q->domain, q->n_blocks);
    kv_pool_give(pool, q->blocks, q->n_blocks);
    free(q->blocks);
    q->blocks = NULL;
}

static int place_of(const struct sched *s, const struct seq *q)
{
    for (int i = 0; i < s->n_running; i++)
        if (s->running[i] == q)
            return i;
    return -1;
}

void sched_remove(struct sched *s, struct seq *q, struct kv_pool *pool)
{
    int place = place_of(s, q);
    if (place >= 0)
        stop(s, place, pool);
    else
        CHECK(q->compile ? compiles_leave(&s->compiles, q->domain, q)
                         : fair_leave(&s->fair, q->domain, q));
    q->domain->n_seqs--;
    q->domain = NULL;
}

static struct seq *find_in(const struct seq_queue *w,
                           bool (*is_it)(const struct seq *q, const void *ud), const void *ud)
{
    struct seq *q = w->first;
    while (q && !is_it(q, ud))
        q = q->next;
    return q;
}

struct seq *sched_find(const struct sched *s, bool (*is_it)(const struct seq *q, const void *ud),
                       const void *ud)
{
    for (int i = 0; i < s->n_running; i++)
        if (is_it(s->running[i], ud))
            return s->running[i];
    for (const struct domain *d = s->fair.domains; d; d = d->next) {
        struct seq *q = find_in(&d->waiting, is_it, ud);
        if (q || (q = find_in(&d->compiles, is_it, ud)))
            return q;
    }
    return NULL;
}
