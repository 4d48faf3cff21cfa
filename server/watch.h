/* The adapters folder, watched: what appears is loaded, what is replaced is swapped, what
 * goes is unregistered.
 *
 * Thread: loop; scans, reading and changes run on the pool. One process watches (the worker
 * in place 0). Movements that the kernel tells, and a clock for where it does not, only say
 * when to look: a scan is compared with the one before, and what differs and has been quiet
 * for a while is brought into the registry, one name after another, as changes of their
 * tenants. Something half-written waits until it is whole; a broken one is logged once, and
 * told to those who ask for it. A folder that cannot be read changes nothing.
 *
 *     watch_check(dir, &err);       boot: whether it can be read at all
 *     watch_load(server, &err);     the first worker, before anybody can ask
 *     watch_start(server);          from here on by itself, while the loop runs
 *     watch_stop(w); ... loop_free ...; watch_free(w);
 */
#ifndef PREFIXD_WATCH_H
#define PREFIXD_WATCH_H

#include "core/base/err.h"

#include <stdbool.h>

struct server;
struct watch;

int watch_check(const char *dir, struct err *err);
int watch_load(struct server *s, struct err *err); /* blocks */
void watch_start(struct server *s);
void watch_stop(struct watch *w); /* accepts NULL, as watch_free does */
void watch_free(struct watch *w); /* nothing of it is on the pool any more */

/* On the pool, beside the queue of changes; NULL: no. */
bool watch_is_writing(const struct watch *w);

int watch_n_refused(const struct watch *w); /* names whose newest files are not in use */

#endif
