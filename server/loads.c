/* Running loads on the pool and waking who waits.
 *
 * Thread: loop; adapter_load_run on the pool. */
#include "server/loads.h"

#include "core/base/check.h"
#include "core/base/mem.h"
#include "server/exchange.h"
#include "server/loop.h"
#include "server/server.h"

#include <stdlib.h>

struct loads {
    struct server *server;
    struct load_wait *waiting; /* for loads that are not done */
    struct load_wait *woken;   /* by the load that is just done */
    int n_running;
};

struct running_load {
    struct server *server;
    struct adapter_load *load;
};

struct loads *loads_new(struct server *s)
{
    struct loads *l = xcalloc(1, sizeof *l);
    l->server = s;
    return l;
}

void loads_free(struct loads *l)
{
    CHECK(!l || loads_are_over(l));
    free(l);
}

bool loads_are_over(const struct loads *l)
{
    CHECK_ON_THREAD(l->server->owner);
    return !l->waiting && !l->n_running;
}

/* ---- lists --------------------------------------------------------------------------- */

static void link_to(struct load_wait **list, struct load_wait *w)
{
    w->next = *list;
    w->at = list;
    if (w->next)
        w->next->at = &w->next;
    *list = w;
}

static void unlink_from(struct load_wait *w)
{
    if (!w->at)
        return;
    *w->at = w->next;
    if (w->next)
        w->next->at = w->at;
    w->at = NULL;
}

/* ---- running ------------------------------------------------------------------------- */

static void run_load(void *ud)
{
    const struct running_load *r = ud;
    adapter_load_run(r->load);
}

/* One that is run may end others, which then leave the list by themselves. */
static void wake(struct loads *l, const struct adapter_load *load)
{
    for (struct load_wait *w = l->waiting, *next; w; w = next) {
        next = w->next;
        if (w->load != load)
            continue;
        unlink_from(w);
        link_to(&l->woken, w);
    }
    while (l->woken) {
        struct load_wait *w = l->woken;
        unlink_from(w);
        w->is_done = true;
        exchange_run(w->x);
    }
}

static void run_more(struct loads *l);

static void on_loaded(void *ud)
{
    struct running_load *r = ud;
    struct loads *l = r->server->loads;
    adapters_load_done(r->server->parts.adapters, r->load);
    l->n_running--;
    wake(l, r->load);
    free(r);
    run_more(l);
}

/* After the loop's end nobody waits for what could be loaded. */
static void run_more(struct loads *l)
{
    struct server *s = l->server;
    struct adapter_load *load;
    while (s->state != SERVER_STOPPED && l->n_running < LOOP_LOADS_AT_ONCE &&
           (load = adapters_next_load(s->parts.adapters))) {
        struct running_load *r = xmalloc(sizeof *r);
        *r = (struct running_load){s, load};
        l->n_running++;
        loop_block(s->loop, LOOP_LOADS, adapter_load_owner(load), run_load, on_loaded, r);
    }
}

/* ---- waiting ------------------------------------------------------------------------- */

void loads_wait(struct server *s, struct load_wait *w, struct adapter_load *load,
                struct exchange *x)
{
    CHECK_ON_THREAD(s->owner);
    CHECK(!w->load);
    *w = (struct load_wait){.load = load, .x = x};
    link_to(&s->loads->waiting, w);
    run_more(s->loads);
}

int loads_take(struct server *s, struct load_wait *w, struct adapter_version **out,
               struct err *err)
{
    CHECK_ON_THREAD(s->owner);
    struct adapter_load *load = w->load;
    CHECK(load && w->is_done);
    w->load = NULL;
    return adapters_take(s->parts.adapters, load, out, err);
}

void loads_leave(struct server *s, struct load_wait *w)
{
    CHECK_ON_THREAD(s->owner);
    struct adapter_load *load = w->load;
    unlink_from(w);
    w->load = NULL;
    if (load)
        adapters_give_up(s->parts.adapters, load);
}
