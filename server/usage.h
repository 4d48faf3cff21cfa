/* Counts what tenants use, and brings it into the registry every second.
 *
 * Thread: loop; the writing is done on the pool. What could not be written is kept and
 * tried again, so that only the death of the process loses anything, at most of the last
 * second.
 *
 *     struct usage *u = usage_new(&(struct usage_opts){.store = store, .loop = loop});
 *     usage_add_exchange(u, x, false);   every tick; true when it is over
 *     usage_stop(u);                 before loop_free
 *     usage_free(u);                 after it, before store_close: writes what is left
 */
#ifndef PREFIXD_USAGE_H
#define PREFIXD_USAGE_H

#include "adapters/store_usage.h"

#include <stdbool.h>
#include <stdint.h>

enum { USAGE_FLUSH_MS = 800 }; /* and what runs is looked at every 100 ms */

struct exchange;
struct loop;
struct usage;

struct usage_opts {
    struct store *store; /* outlives usage_free */
    struct loop *loop;
};

struct usage *usage_new(const struct usage_opts *opts);
void usage_stop(struct usage *u); /* accepts NULL */
void usage_free(struct usage *u); /* accepts NULL; blocks */

bool usage_is_writing(const struct usage *u); /* on the pool */

/* Sums over long times take threads of the pool, of which nobody gets many: -1 with
 * ERR_QUEUE_FULL if too many are being made, or two for this tenant (0: for all). */
int usage_begin_question(struct usage *u, int64_t tenant, struct err *err);
void usage_end_question(struct usage *u, int64_t tenant);

/* Adds to what is not written yet. row->hour may be any time of its hour. */
void usage_add(struct usage *u, const struct usage_row *row);

/* What a completion made since the last call for it: now and then while it runs, and once
 * when it is over, whether or not it came to its end. Anything else is not counted. */
void usage_add_exchange(struct usage *u, struct exchange *x, bool is_over);

#endif
