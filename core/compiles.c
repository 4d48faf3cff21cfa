/* Which compiles run: rooms by size, within a room the domain whose turn it is. */
#include "core/compiles.h"

#include "core/base/check.h"

enum { SMALL = 64 }; /* tokens that the last room takes */

static int least(int a, int b)
{
    return a < b ? a : b;
}

static int most(int a, int b)
{
    return a > b ? a : b;
}

void compiles_init(struct compiles *c, int max_tokens)
{
    int small = least(max_tokens, SMALL);
    *c = (struct compiles){.n_waiting = 0};
    c->rooms[0] = (struct compile_room){.max_tokens = max_tokens, .n_places = 2};
    c->rooms[1] = (struct compile_room){.max_tokens = most(max_tokens / 8, small), .n_places = 1};
    c->rooms[2] = (struct compile_room){.max_tokens = small, .n_places = 1};
    int n = 0;
    for (int i = 0; i < FAIR_ROOMS; i++)
        n += c->rooms[i].n_places;
    CHECK(n == FAIR_COMPILES);
}

int compiles_blocks(int max_tokens)
{
    struct compiles c;
    int n = 0;
    compiles_init(&c, max_tokens);
    for (int i = 0; i < FAIR_ROOMS; i++)
        n += c.rooms[i].n_places * seq_blocks_needed(c.rooms[i].max_tokens, 0);
    return n;
}

void compiles_wait(struct compiles *c, const struct fair *f, struct domain *d, struct seq *q)
{
    q->since = f->round;
    seq_queue_add(&d->compiles, q);
    c->n_waiting++;
}

bool compiles_leave(struct compiles *c, struct domain *d, struct seq *q)
{
    if (!seq_queue_remove(&d->compiles, q))
        return false;
    c->n_waiting--;
    return true;
}

void compiles_end(struct compiles *c, struct domain *d, const struct seq *q)
{
    d->rooms[q->room].is_in = false;
    c->rooms[q->room].n_taken--;
}

/* The first of d's that fits the room; NULL if none does or d has one there already. */
static struct seq *candidate(const struct compiles *c, const struct domain *d, int room)
{
    struct seq *q = d->rooms[room].is_in ? NULL : d->compiles.first;
    while (q && q->n_prompt > c->rooms[room].max_tokens)
        q = q->next;
    return q;
}

struct choice {
    struct domain *domain;
    struct seq *seq;
    uint64_t since; /* the round in which its turn was last over */
    uint64_t price;
};

static bool is_cheaper(const struct choice *a, const struct choice *b)
{
    return a->price != b->price ? a->price < b->price : a->since < b->since;
}

static struct choice choose(const struct compiles *c, const struct fair *f, int room)
{
    struct choice cheapest = {0}, oldest = {0};
    for (struct domain *d = f->domains; d; d = d->next) {
        struct choice x = {.domain = d, .seq = candidate(c, d, room), .price = fair_expected(d)};
        if (!x.seq)
            continue;
        uint64_t last = d->rooms[room].since;
        x.since = last > x.seq->since ? last : x.seq->since;
        if (!cheapest.seq || is_cheaper(&x, &cheapest))
            cheapest = x;
        if (!oldest.seq || x.since < oldest.since)
            oldest = x;
    }
    return oldest.seq && f->round - oldest.since > FAIR_PATIENCE ? oldest : cheapest;
}

struct seq *compiles_next(struct compiles *c, struct fair *f)
{
    for (int room = FAIR_ROOMS; room-- > 0;) {
        struct compile_room *r = &c->rooms[room];
        if (!c->n_waiting || r->n_taken == r->n_places)
            continue;
        struct choice x = choose(c, f, room);
        if (!x.seq)
            continue;
        CHECK(compiles_leave(c, x.domain, x.seq));
        x.domain->rooms[room].is_in = true;
        x.domain->rooms[room].since = f->round;
        x.seq->room = room;
        r->n_taken++;
        return x.seq;
    }
    return NULL;
}
