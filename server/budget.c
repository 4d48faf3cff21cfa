/* Shares of a budget, which grow and shrink as its holds do. */
#include "server/budget.h"

#include "core/base/mem.h"

#include <stdlib.h>

enum { HELD_PER_FREE = 2 }; /* a tenant's bytes for each that it leaves free */

struct budget_share {
    int64_t tenant;
    size_t held; /* bytes, never 0 */
    struct budget_share *next;
};

void budget_set(struct budget *b, size_t alone)
{
    b->max = alone + (alone + 1) / HELD_PER_FREE;
}

/* Whatever others hold: what is left free afterwards is never nothing, and so the next one
 * gets two thirds of it. */
static bool may_hold(const struct budget *b, size_t held, size_t more)
{
    size_t free_now = b->max - b->used;
    return more <= free_now && held + more <= HELD_PER_FREE * (free_now - more);
}

static struct budget_share *share_of(const struct budget *b, int64_t tenant)
{
    struct budget_share *s = b->shares;
    while (s && s->tenant != tenant)
        s = s->next;
    return s;
}

static struct budget_share *share_add(struct budget *b, int64_t tenant)
{
    struct budget_share *s = xcalloc(1, sizeof *s);
    s->tenant = tenant;
    s->next = b->shares;
    b->shares = s;
    return s;
}

static void share_remove(struct budget *b, struct budget_share *s)
{
    struct budget_share **at = &b->shares;
    while (*at != s)
        at = &(*at)->next;
    *at = s->next;
    free(s);
}

bool budget_has_room(const struct budget *b, int64_t tenant, size_t more)
{
    const struct budget_share *s = share_of(b, tenant);
    return more == 0 || may_hold(b, s ? s->held : 0, more);
}

bool budget_take(struct budget_hold *h, struct budget *b, int64_t tenant,
                      size_t more)
{
    struct budget_share *s = h->share ? h->share : share_of(b, tenant);
    if (more == 0)
        return true;
    if (!may_hold(b, s ? s->held : 0, more))
        return false;
    h->budget = b;
    h->share = s ? s : share_add(b, tenant);
    h->bytes += more;
    h->share->held += more;
    b->used += more;
    return true;
}

void budget_drop(struct budget_hold *h)
{
    if (!h->share)
        return;
    h->budget->used -= h->bytes;
    h->share->held -= h->bytes;
    if (h->share->held == 0)
        share_remove(h->budget, h->share);
    *h = (struct budget_hold){0};
}
