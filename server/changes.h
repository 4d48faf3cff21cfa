/* The queue of changes to adapters: one at a time for each tenant, those of LOOP_CHANGES_AT_ONCE
 * tenants at once, of which LOOP_LONG_AT_ONCE may be long.
 *
 * Thread: loop; the slow part of a change runs on the pool. A change that is in the queue is
 * carried through, whoever waits for it, unless it is dropped before it began.
 *
 *     struct change what = {.work = adapters_put_begin(...), .tenant = 7, .name = "support",
 *                           .on_done = answer, .ud = x};
 *     struct change *c = changes_add(s, &what);
 *
 * Changes of one tenant begin in the order of changes_add, but for quick ones (deletes), which go
 * before slow ones of other names. Tenants take turns.
 */
#ifndef PREFIXD_CHANGES_H
#define PREFIXD_CHANGES_H

#include "adapters/adapters.h"

#include <stdbool.h>
#include <stdint.h>

struct server;
struct changes;

struct change {
    struct adapter_change *work;                   /* begun; the queue frees it */
    int (*run)(struct change *c, struct err *err); /* pool: without work, what is done instead */
    int64_t tenant;
    const char *name; /* as long as the change lives */
    bool is_quick;
    bool is_long; /* without work: it reads much; else the queue finds out */
    void (*on_begin)(struct change *c); /* may be NULL */

    /* What came of it, once; info is NULL if it failed, or if there was no work to commit. */
    void (*on_done)(struct change *c, const struct adapter_info *info, const struct err *err);
    void *ud;
    /* ------------------------------------------------------------------ the queue's own: */
    struct server *server;
    struct change *next;
    struct err err;
    bool is_begun, is_failed;
};

struct changes *changes_new(struct server *s);
void changes_free(struct changes *q); /* accepts NULL; nothing is in it any more */

struct change *changes_add(struct server *s, const struct change *what); /* a copy is kept */

/* Of one that has not begun: nothing happens, and on_done is not called. */
void changes_drop(struct change *c);

bool changes_are_over(const struct changes *q); /* none waits or runs */

#endif
