/* A queue for each tenant that waits for something, and a queue of those tenants. */
#include "adapters/load_queue.h"

#include <stdlib.h>
#include <string.h>

#include "core/base/check.h"
#include "core/base/mem.h"

struct load_tenant {
    int64_t tenant;
    struct adapter_load *first, *last, *running;
    int n; /* in the queue */
    bool has_turn;
    struct load_tenant *next, *next_turn;
};

static struct load_tenant *find_tenant(const struct load_queue *q, int64_t tenant)
{
    struct load_tenant *t = q->tenants;
    while (t && t->tenant != tenant)
        t = t->next;
    return t;
}

static struct load_tenant *need_tenant(struct load_queue *q, int64_t tenant)
{
    struct load_tenant *t = find_tenant(q, tenant);
    if (t)
        return t;
    t = xcalloc(1, sizeof *t);
    t->tenant = tenant;
    t->next = q->tenants;
    q->tenants = t;
    return t;
}

static void end_turn(struct load_queue *q, struct load_tenant *t)
{
    struct load_tenant **at = &q->first_turn, *before = NULL;
    for (; *at != t; at = &(*at)->next_turn)
        before = *at;
    *at = t->next_turn;
    if (q->last_turn == t)
        q->last_turn = before;
    t->has_turn = false;
    t->next_turn = NULL;
}

static void begin_turn(struct load_queue *q, struct load_tenant *t)
{
    *(q->first_turn ? &q->last_turn->next_turn : &q->first_turn) = t;
    q->last_turn = t;
    t->has_turn = true;
}

/* After any change of what t has. */
static void update(struct load_queue *q, struct load_tenant *t)
{
    bool wants_turn = t->first && !t->running;
    if (t->has_turn && !wants_turn)
        end_turn(q, t);
    else if (!t->has_turn && wants_turn)
        begin_turn(q, t);
    if (t->first || t->running)
        return;
    struct load_tenant **at = &q->tenants;
    while (*at != t)
        at = &(*at)->next;
    *at = t->next;
    free(t);
}

struct adapter_load *load_queue_find(const struct load_queue *q, int64_t tenant,
                                     const char *digest)
{
    const struct load_tenant *t = find_tenant(q, tenant);
    if (!t)
        return NULL;
    if (t->running && strcmp(t->running->digest, digest) == 0)
        return t->running;
    struct adapter_load *l = t->first;
    while (l && strcmp(l->digest, digest) != 0)
        l = l->next;
    return l;
}

int load_queue_length(const struct load_queue *q, int64_t tenant)
{
    const struct load_tenant *t = find_tenant(q, tenant);
    return t ? t->n : 0;
}

void load_queue_add(struct load_queue *q, struct adapter_load *l)
{
    struct load_tenant *t = need_tenant(q, l->tenant);
    *(t->first ? &t->last->next : &t->first) = l;
    t->last = l;
    l->next = NULL;
    l->state = LOAD_QUEUED;
    t->n++;
    q->n++;
    update(q, t);
}

static void take_out(struct load_tenant *t, struct adapter_load *l)
{
    struct adapter_load **at = &t->first, *before = NULL;
    for (; *at != l; at = &(*at)->next)
        before = *at;
    *at = l->next;
    if (t->last == l)
        t->last = before;
    l->next = NULL;
    t->n--;
}

void load_queue_remove(struct load_queue *q, struct adapter_load *l)
{
    struct load_tenant *t = find_tenant(q, l->tenant);
    CHECK(t && l->state == LOAD_QUEUED);
    take_out(t, l);
    q->n--;
    update(q, t);
}

static bool may_run(const struct load_queue *q, const struct adapter_load *l)
{
    return !l->is_long || q->max_long == 0 || q->n_long < q->max_long;
}

struct adapter_load *load_queue_next(struct load_queue *q)
{
    struct load_tenant *t = q->first_turn;
    while (t && !may_run(q, t->first))
        t = t->next_turn;
    if (!t)
        return NULL;
    struct adapter_load *l = t->first;
    take_out(t, l);
    t->running = l;
    l->state = LOAD_RUNNING;
    q->n_long += l->is_long;
    update(q, t);
    return l;
}

void load_queue_done(struct load_queue *q, struct adapter_load *l)
{
    struct load_tenant *t = find_tenant(q, l->tenant);
    CHECK(t && t->running == l);
    t->running = NULL;
    l->state = LOAD_DONE;
    q->n--;
    q->n_long -= l->is_long;
    update(q, t);
}
