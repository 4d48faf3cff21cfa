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

void sched_init(struct sched *s, struct text_cache *text, int max_running, int max_compile,
                int chunk)
{
    size_t most = (size_t)sched_max_seqs(max_running);
    *s = (struct sched){.text = text, .chunk = chunk};
    fair_init(&s->fair, max_running, text->max_blocks);
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

static void find_text(struct sched *s, struct seq *q)
{
    int n = seq_find_text(q, s->text);
    s->text->n_found += (uint64_t)n;
    q->n_due -= n;
    q->domain->n_due -= n;
    fair_charge(q->domain, (int64_t)n * PRICE_FOUND);
}

/* What it finds is held before room is made for the rest: it could be what would go. */
static void take_blocks(struct sched *s, struct seq *q)
{
    q->n_blocks = seq_blocks_needed(q->n_prompt, q->max_new);
    q->blocks = xcalloc((size_t)q->n_blocks, sizeof *q->blocks);
    if (q->compile) {
        CHECK(kv_pool_take(s->text->pool, q->n_blocks, q->blocks));
        return;
    }
    memset(q->blocks, -1, (size_t)q->n_blocks * sizeof *q->blocks);
    if (!s->text->is_off && !seq_scores_prompt(q))
        s->text->n_asked += (uint64_t)q->n_prompt;
    find_text(s, q);
    CHECK(text_cache_take(s->text, q->n_blocks - q->n_kept, q->blocks + q->n_kept));
}

static void give_blocks(struct sched *s, struct seq *q)
{
    if (q->compile)
        kv_pool_give(s->text->pool, q->blocks, q->n_blocks);
    else
        text_cache_give(s->text, q->blocks, q->n_blocks);
    free(q->blocks);
    q->blocks = NULL;
}

/* q is out of its queue and runs from now on. */
static void start(struct sched *s, struct seq *q)
{
    struct domain *d = q->domain;
    q->n_due = q->n_prompt;
    d->n_due += q->n_due;
    take_blocks(s, q);
    s->running[s->n_running++] = q;
    if (q->job)
        fair_start(&s->fair, d, q->n_blocks);
    if (q->prefix)
        fair_charge(d, (int64_t)q->prefix->first_pos * PRICE_VIRTUAL);
}

static bool is_following(const struct sched *s, int i)
{
    int j = 0;
    while (j < i && !seq_follows(s->running[i], s->running[j]))
        j++;
    return j < i;
}

/* Prompts move on over what has been computed since the last step, and stop before what will be in
 * this one. The oldest never stops, so there is always one that reads what others wait for. */
static void find_texts(struct sched *s)
{
    if (s->text->is_off)
        return;
    for (int i = 0; i < s->n_running; i++)
        if (seq_is_prefill(s->running[i]))
            find_text(s, s->running[i]);
    for (int i = 0; i < s->n_running; i++)
        s->running[i]->is_following = seq_is_prefill(s->running[i]) && is_following(s, i);
}

void sched_admit(struct sched *s)
{
    fair_begin(&s->fair);
    for (struct seq *q; (q = compiles_next(&s->compiles, &s->fair));)
        start(s, q);
    for (struct domain *d; (d = fair_next(&s->fair));) {
        struct seq *q = d->waiting.first;
        CHECK(fair_leave(&s->fair, d, q));
        start(s, q);
    }
    find_texts(s);
}

static bool wants_prompt_rows(const struct seq *q)
{
    return seq_is_prefill(q) && !q->is_following;
}

/* Where its next row stands: a prefix's tokens count. */
static int position_of(const struct seq *q)
{
    return q->n_computed + (q->prefix ? q->prefix->first_pos : 0);
}

/* The position of the rows that come next: of each domain its furthest prompt, as any of them may
 * take its rows, and of the domains the mean, by the rows that they could get of a chunk like the
 * last. So one tenant's long prompt makes only its own rows dear. */
static double expected_position(const struct sched *s)
{
    double sum = 0, rows = 0;
    for (int i = 0; i < s->n_running; i++) {
        struct domain *d = s->running[i]->domain;
        int most = s->chunk > PACE_LEAST ? s->chunk : PACE_LEAST;
        double n = (double)(d->n_ahead < most ? d->n_ahead : most) * d->weight;
        d->n_ahead = 0; /* once is enough */
        sum += n * d->furthest;
        rows += n;
    }
    return rows > 0 ? sum / rows : 0;
}

struct pace_load sched_load(const struct sched *s)
{
    struct pace_load l = {0};
    for (int i = 0; i < s->n_running; i++)
        s->running[i]->domain->n_ahead = s->running[i]->domain->furthest = 0;
    for (int i = 0; i < s->n_running; i++) {
        const struct seq *q = s->running[i];
        int left = q->n_prompt - q->n_computed;
        l.n_decoding += !seq_is_prefill(q);
        if (!wants_prompt_rows(q))
            continue;
        l.n_left += left;
        q->domain->n_ahead += left;
        if (position_of(q) > q->domain->furthest)
            q->domain->furthest = position_of(q);
    }
    l.position = expected_position(s);
    return l;
}

static bool is_scored(const struct seq *q)
{
    return seq_is_prefill(q) && seq_scores_prompt(q);
}

/* SCHED_SCORED among the domains that have such prompts, by their weights, and a domain's among its
 * prompts, at least a row each: with a row of every other sequence there are at most max_seqs rows
 * more. */
static void share_scored(struct sched *s)
{
    uint64_t weights = 0;
    for (int i = 0; i < s->n_running; i++)
        s->running[i]->domain->n_scored = 0;
    for (int i = 0; i < s->n_running; i++)
        if (is_scored(s->running[i]) && !s->running[i]->domain->n_scored++)
            weights += s->running[i]->domain->weight;
    for (int i = 0; i < s->n_running; i++) {
        struct seq *q = s->running[i];
        if (!is_scored(q))
            continue;
        uint64_t n = SCHED_SCORED * (uint64_t)q->domain->weight / weights;
        int part = (int)n / q->domain->n_scored;
        q->n_scored = part > 1 ? part : 1;
    }
}

/* Prompt rows that q could use in this step. */
static int wanted_rows(const struct seq *q)
{
    int left = q->n_prompt - q->n_computed;
    return seq_scores_prompt(q) && left > q->n_scored ? q->n_scored : left;
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
        if (!wants_prompt_rows(q))
            continue;
        fair_want(&s->fair, d, wanted_rows(q));
        d->n_parts += q->compile || !d->n_left;
        d->n_left |= q->job != NULL;
    }
}

static void take_rows(struct seq *q, int most)
{
    int left = wanted_rows(q) - q->n_step;
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
    share_scored(s);
    count_parts(s);
    fair_deal(&s->fair, s->chunk);
    for (int i = 0; i < s->n_running; i++) {
        struct domain *d = s->running[i]->domain;
        if (d->n_parts)
            d->n_part = d->n_left = d->n_rows / d->n_parts;
    }
    for (int i = 0; i < s->n_running; i++) {
        struct seq *q = s->running[i];
        if (wants_prompt_rows(q))
            take_rows(q, q->compile ? q->domain->n_part : q->domain->n_left);
    }
    for (int i = 0; i < s->n_running; i++) {
        struct seq *q = s->running[(s->fair.round + (unsigned)i) % (unsigned)s->n_running];
        if (wants_prompt_rows(q))
            take_rows(q, s->chunk);
    }
}

/* The rows of q in this step, charged to its domain. */
static int pick_rows(struct seq *q)
{
    struct domain *d = q->domain;
    if (!seq_is_prefill(q)) {
        q->tail[q->n_computed % KV_TILE] = q->last;
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
        bool wants = q->job && (is_last ? q->max_new > 0 : seq_scores_prompt(q));
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

static void stop(struct sched *s, int i)
{
    struct seq *q = s->running[i];
    memmove(s->running + i, s->running + i + 1, (size_t)(s->n_running - i - 1) * sizeof *s->running);
    s->n_running--;
    q->domain->n_due -= q->n_due;
    if (q->compile)
        compiles_end(&s->compiles, q->domain, q);
    else
        fair_end(&s->fair, q->domain, q->n_blocks);
    give_blocks(s, q);
}

static int place_of(const struct sched *s, const struct seq *q)
{
    for (int i = 0; i < s->n_running; i++)
        if (s->running[i] == q)
            return i;
    return -1;
}

void sched_remove(struct sched *s, struct seq *q)
{
    int place = place_of(s, q);
    if (place >= 0)
        stop(s, place);
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
