/* Whose turn it is: what every tenant's sequences cost, hold, and may still take. */
#include "core/fair.h"

#include "core/base/check.h"
#include "core/base/mem.h"

#include <stdlib.h>

enum { UNIT = 1 << 16 }; /* of a counter */

int fair_extra_places(int max_running)
{
    return (max_running + 3) / 4;
}

void fair_init(struct fair *f, int max_running, int max_blocks)
{
    int n_extra = fair_extra_places(max_running);
    *f = (struct fair){.max_running = max_running, .n_extra = n_extra, .max_blocks = max_blocks};
    f->eaters = xcalloc((size_t)(max_running + n_extra + FAIR_COMPILES), sizeof(struct domain *));
}

void fair_fini(struct fair *f)
{
    for (struct domain *d = f->domains, *next; d; d = next) {
        next = d->next;
        CHECK(!d->n_seqs);
        free(d);
    }
    free(f->eaters);
    *f = (struct fair){0};
}

/* ---- domains and their counters ------------------------------------------------------------------ */

static bool has_work(const struct domain *d)
{
    return d->waiting.n || d->n_running;
}

/* Where a domain starts that becomes backlogged: at the smallest counter of those that wait. If nobody
 * does there is no contest to join, and it starts no lower than the last one that was admitted. */
static uint64_t floor_of(const struct fair *f)
{
    uint64_t waiting = UINT64_MAX, running = UINT64_MAX;
    for (const struct domain *d = f->domains; d; d = d->next) {
        if (d->waiting.n && d->counter < waiting)
            waiting = d->counter;
        if (d->n_running && d->counter < running)
            running = d->counter;
    }
    if (waiting != UINT64_MAX)
        return waiting;
    return running != UINT64_MAX && running > f->last_counter ? running : f->last_counter;
}

static bool has_any_work(const struct fair *f)
{
    const struct domain *d = f->domains;
    while (d && !d->n_seqs)
        d = d->next;
    return d != NULL;
}

void fair_begin(struct fair *f)
{
    uint64_t lowest = floor_of(f);
    bool is_idle = !has_any_work(f);
    f->round++;
    for (struct domain **at = &f->domains, *d; (d = *at);) {
        if (d->n_seqs || (d->counter > lowest && !is_idle)) {
            at = &d->next;
            continue;
        }
        *at = d->next;
        free(d);
    }
}

/* Room is kept for newcomers only where there can be any. */
static void count_seen(struct fair *f, uint32_t id)
{
    if (!f->n_seen)
        f->first_id = id;
    if (f->n_seen < 2 && (!f->n_seen || id != f->first_id))
        f->n_seen++;
}

struct domain *fair_domain(struct fair *f, uint32_t id, uint32_t weight)
{
    struct domain *d = f->domains;
    while (d && d->id != id)
        d = d->next;
    if (!d) {
        d = xcalloc(1, sizeof *d);
        *d = (struct domain){.id = id, .weight = 1, .next = f->domains};
        f->domains = d;
        count_seen(f, id);
    }
    if (weight)
        d->weight = weight < FAIR_MAX_WEIGHT ? weight : FAIR_MAX_WEIGHT;
    return d;
}

static uint64_t cost(const struct domain *d, int64_t price)
{
    return (uint64_t)price * UNIT / d->weight;
}

void fair_charge(struct domain *d, int64_t price)
{
    d->counter += cost(d, price);
}

/* With what its running sequences are certain to cost: otherwise it would take every free place before
 * the first of them has cost anything. */
uint64_t fair_expected(const struct domain *d)
{
    return d->counter + cost(d, d->n_due * PRICE_PROMPT);
}

/* ---- places and blocks --------------------------------------------------------------------------- */

static void raise_to_floor(const struct fair *f, struct domain *d)
{
    uint64_t lowest = floor_of(f);
    d->counter = d->counter > lowest ? d->counter : lowest;
}

void fair_enter(const struct fair *f, struct domain *d)
{
    if (!d->n_seqs)
        raise_to_floor(f, d);
}

void fair_wait(struct fair *f, struct domain *d, struct seq *q)
{
    if (!d->waiting.n) {
        raise_to_floor(f, d);
        d->head_since = f->round;
    }
    q->turn = d->turn + (uint64_t)q->choice;
    seq_queue_add(&d->waiting, q);
    f->n_waiting++;
}

bool fair_leave(struct fair *f, struct domain *d, struct seq *q)
{
    bool is_head = d->waiting.first == q;
    if (!seq_queue_remove(&d->waiting, q))
        return false;
    if (is_head) {
        d->head_since = f->round;
        d->turn = q->turn;
    }
    f->n_waiting--;
    return true;
}

void fair_start(struct fair *f, struct domain *d, int n_blocks)
{
    f->last_counter = d->counter;
    d->n_running++;
    d->n_blocks += n_blocks;
    f->n_running++;
    f->n_blocks += n_blocks;
}

void fair_end(struct fair *f, struct domain *d, int n_blocks)
{
    d->n_running--;
    d->n_blocks -= n_blocks;
    f->n_running--;
    f->n_blocks -= n_blocks;
}

static int blocks_of_head(const struct domain *d)
{
    return seq_blocks_needed(d->waiting.first->n_prompt, d->waiting.first->max_new);
}

static int blocks_kept(const struct fair *f)
{
    return f->n_seen > 1 ? f->max_blocks / 8 : 0;
}

static bool is_small_newcomer(const struct fair *f, const struct domain *d)
{
    return !d->n_running && blocks_of_head(d) <= blocks_kept(f);
}

/* Whether the head of d finds room now; for one that has been patient too long nothing is kept back. */
static bool fits(const struct fair *f, const struct domain *d, bool is_overdue)
{
    int left = f->max_blocks - f->n_blocks - blocks_of_head(d);
    int places = f->max_running + (d->n_running ? 0 : f->n_extra);
    if (left < 0 || f->n_running >= places)
        return false;
    return !f->n_running || is_overdue || left >= blocks_kept(f) || is_small_newcomer(f, d);
}

static int share(int total, const struct domain *d, uint64_t weights)
{
    return (int)(((uint64_t)total * d->weight + weights - 1) / weights);
}

static void judge(const struct fair *f, struct domain *d, uint64_t weights)
{
    bool has_blocks = d->n_blocks + blocks_of_head(d) <= share(f->max_blocks, d, weights);
    bool has_place = d->n_running < share(f->max_running, d, weights);
    d->is_giant = !has_blocks && !d->n_running;
    d->is_entitled = d->is_giant || (has_blocks && has_place);
}

/* Of those below their share the one whose head has waited longest. */
static struct domain *oldest_entitled(struct fair *f)
{
    uint64_t weights = 0;
    struct domain *oldest = NULL;
    for (const struct domain *d = f->domains; d; d = d->next)
        weights += has_work(d) ? d->weight : 0;
    for (struct domain *d = f->domains; d; d = d->next) {
        if (!d->waiting.n)
            continue;
        judge(f, d, weights);
        if (d->is_entitled && (!oldest || d->head_since < oldest->head_since))
            oldest = d;
    }
    return oldest;
}

/* The smallest counter of those that fit; with `entitled` only of those below their share, with
 * `newcomers` only of those whom the kept room is for. */
static struct domain *cheapest(const struct fair *f, bool entitled, bool newcomers)
{
    struct domain *best = NULL;
    for (struct domain *d = f->domains; d; d = d->next) {
        if (!d->waiting.n || (entitled && !d->is_entitled) ||
            (newcomers && !is_small_newcomer(f, d)) || !fits(f, d, false))
            continue;
        if (!best || fair_expected(d) < fair_expected(best))
            best = d;
    }
    return best;
}

static bool must_save_up(const struct fair *f)
{
    for (const struct domain *d = f->domains; d; d = d->next)
        if (d->waiting.n && d->is_entitled && !d->is_giant)
            return true;
    return false;
}

struct domain *fair_next(struct fair *f)
{
    struct domain *oldest = oldest_entitled(f);
    if (!oldest)
        return cheapest(f, false, false);
    uint64_t age = f->round - oldest->head_since;
    if (age <= FAIR_PATIENCE) {
        struct domain *d = cheapest(f, true, false);
        return d || must_save_up(f) ? d : cheapest(f, false, false);
    }
    bool is_overdue = age > 2 * FAIR_PATIENCE;
    if (fits(f, oldest, is_overdue))
        return oldest;
    return is_overdue && !oldest->n_running ? NULL : cheapest(f, true, true);
}

/* ---- prompt rows --------------------------------------------------------------------------------- */

void fair_want(struct fair *f, struct domain *d, int n)
{
    if (!d->n_wanted)
        f->eaters[f->n_eaters++] = d;
    d->n_wanted += n;
}

static int by_number(const struct domain *x, const struct domain *y)
{
    return x->id < y->id ? -1 : x->id > y->id;
}

static int by_counter(const void *a, const void *b)
{
    const struct domain *x = *(struct domain *const *)a, *y = *(struct domain *const *)b;
    if (x->counter != y->counter)
        return x->counter < y->counter ? -1 : 1;
    return by_number(x, y);
}

static int by_hunger(const void *a, const void *b)
{
    const struct domain *x = *(struct domain *const *)a, *y = *(struct domain *const *)b;
    if (x->fed != y->fed)
        return x->fed < y->fed ? -1 : 1;
    return by_counter(a, b);
}

static void deal(struct fair *f, struct domain *d, int most, int *left)
{
    int n = d->n_wanted - d->n_rows;
    n = n < most ? n : most;
    n = n < *left ? n : *left;
    d->n_rows += n;
    *left -= n;
    if (n)
        d->fed = f->round;
}

void fair_deal(struct fair *f, int chunk)
{
    uint64_t weights = 0;
    int left = chunk;
    for (int i = 0; i < f->n_eaters; i++) {
        f->eaters[i]->n_rows = 0;
        weights += f->eaters[i]->weight;
    }
    qsort(f->eaters, (size_t)f->n_eaters, sizeof *f->eaters, by_hunger);
    for (int i = 0; i < f->n_eaters; i++) {
        struct domain *d = f->eaters[i];
        int part = (int)((uint64_t)chunk * d->weight / weights);
        deal(f, d, part > 1 ? part : 1, &left);
    }
    qsort(f->eaters, (size_t)f->n_eaters, sizeof *f->eaters, by_counter);
    for (int i = 0; i < f->n_eaters; i++) {
        deal(f, f->eaters[i], left, &left);
        f->eaters[i]->n_wanted = 0;
    }
    f->n_eaters = 0;
}
