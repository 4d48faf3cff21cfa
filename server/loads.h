/* Bringing adapters into memory for the requests that wait for them.
 *
 * Thread: loop; the loads themselves run on the pool, LOOP_LOADS_AT_ONCE of them, at most one of
 * a tenant and LOOP_LONG_AT_ONCE long ones (which the registry sees to). A request that has to
 * wait joins the list of its load; when the load is done, each of them is run again and takes
 * what came of it.
 *
 *     rc = adapters_acquire(a, tenant, name, &version, &load, &err);
 *     if (rc == 0) { loads_wait(s, &g->wait, load, x); return EXCHANGE_WAIT; }
 *     ... run again: if (g->wait.is_done) rc = loads_take(s, &g->wait, &version, &err);
 *     ... at the end of every request: loads_leave(s, &g->wait);
 */
#ifndef PREFIXD_LOADS_H
#define PREFIXD_LOADS_H

#include "adapters/adapters.h"

#include <stdbool.h>

struct exchange;
struct server;
struct loads;

struct load_wait { /* zeroed: waits for nothing */
    struct adapter_load *load;
    struct exchange *x;
    struct load_wait *next, **at; /* at: what points here; NULL: in no list */
    bool is_done;
};

struct loads *loads_new(struct server *s);
void loads_free(struct loads *l); /* accepts NULL; nobody waits any more */

bool loads_are_over(const struct loads *l); /* none waits or runs */

void loads_wait(struct server *s, struct load_wait *w, struct adapter_load *load,
                struct exchange *x);
int loads_take(struct server *s, struct load_wait *w, struct adapter_version **out,
               struct err *err);
void loads_leave(struct server *s, struct load_wait *w); /* nothing happens if it does not wait */

#endif
