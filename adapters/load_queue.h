/* Which load runs next: one of each tenant at a time, tenants in turn, of long ones not too many.
 *
 * Thread: loop. A load is in the queue, running, or done; whoever has waiters for it keeps it.
 *
 *     load_queue_add(q, l);
 *     while ((l = load_queue_next(q))) run(l);       later: load_queue_done(q, l)
 */
#ifndef PREFIXD_LOAD_QUEUE_H
#define PREFIXD_LOAD_QUEUE_H

#include <stdint.h>

#include "adapters/adapters.h"
#include "adapters/broken.h"
#include "adapters/make.h"

enum load_state { LOAD_QUEUED, LOAD_RUNNING, LOAD_DONE };

struct adapter_load {
    struct adapters *a;
    enum load_state state;
    int n_waiters;
    int64_t tenant;
    char digest[DIGEST_HEX + 1];
    char name[ADAPTER_NAME_MAX + 1];
    bool is_pinned, is_known; /* known: the store has its numbers */
    bool is_long;
    size_t bytes;             /* it will take; 0: not known */
    size_t reserved;
    struct broken_stamp stamp;
    int64_t asked_us;
    struct made made; /* by the pool */
    int rc;
    struct err err;
    struct adapter_version *version; /* when it is done; NULL: err */
    struct adapter_load *next;       /* of the tenant, in the queue */
};

struct load_tenant;

struct load_queue { /* zeroed = empty */
    struct load_tenant *tenants;              /* with loads in the queue or running */
    struct load_tenant *first_turn, *last_turn; /* with loads and none running */
    int n;                                    /* loads, running ones included */
    int n_long;                               /* long ones that run */
    int max_long;                             /* of these; 0: any number */
};

/* The load of this version that is not done, or NULL. */
struct adapter_load *load_queue_find(const struct load_queue *q, int64_t tenant,
                                     const char *digest);
int load_queue_length(const struct load_queue *q, int64_t tenant);
void load_queue_add(struct load_queue *q, struct adapter_load *l);
void load_queue_remove(struct load_queue *q, struct adapter_load *l); /* not a running one */
struct adapter_load *load_queue_next(struct load_queue *q);            /* runs from now on */
void load_queue_done(struct load_queue *q, struct adapter_load *l);

#endif
