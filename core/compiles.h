/* Which compiles run: places and blocks of their own, so that an adapter waits neither for
 * requests nor for the huge adapters of others.
 *
 * Thread: engine. Pure bookkeeping, as fair.c, whose domains and rounds these are. A compile
 * takes all its blocks when it begins and holds them to its end. Places stand in rooms by size,
 * and every place has blocks for the largest that may enter: what is in one room takes none from
 * another, and nobody who holds blocks waits for more.
 *
 * - Two places are for any size, one for an eighth of the longest, one for what a few steps
 *   read. So a compile waits only for others that may be as large as its own room, however many
 *   huge ones there are. The smallest room that has a place is filled first.
 * - A domain has one compile in each room: a second would only share the rows of the first.
 * - A free place goes to the domain with the smallest counter, within it to the first that fits.
 *   One that has waited FAIR_PATIENCE rounds goes before all younger ones; a domain's next begins
 *   to wait when its last one in the room began. So with D domains at most D - 1 go before it
 *   from then on. */
#ifndef PREFIXD_COMPILES_H
#define PREFIXD_COMPILES_H

#include "core/fair.h"

struct compile_room {
    int max_tokens, n_places, n_taken;
};

struct compiles {
    struct compile_room rooms[FAIR_ROOMS]; /* the largest first */
    int n_waiting; /* in the domains' queues */
};

/* Of at most max_tokens each. */
void compiles_init(struct compiles *c, int max_tokens);

int compiles_blocks(int max_tokens); /* that all its places together can hold */

/* q is a compile of d: it waits; it goes from the queue (false: it is not there); it ends. */
void compiles_wait(struct compiles *c, const struct fair *f, struct domain *d, struct seq *q);
bool compiles_leave(struct compiles *c, struct domain *d, struct seq *q);
void compiles_end(struct compiles *c, struct domain *d, const struct seq *q);

/* The compile that begins now: out of its queue and in its room. NULL: none can. */
struct seq *compiles_next(struct compiles *c, struct fair *f);

#endif
