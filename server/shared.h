/* What the processes of one daemon share: a table of running requests and a slot of metrics
 * for each worker's place, the quarantine, and which adapter versions do not load.
 *
 * Thread: as the parts say. Made before the first fork, of fixed size; every process keeps
 * it until it ends.
 *
 *     struct shared sh;
 *     shared_open(&sh, n_workers);     supervisor, before it forks
 *     shared_enter(&sh, place);        worker, before it serves
 *     shared_leave(&sh, place);        supervisor, when it has seen that worker's end
 */
#ifndef PREFIXD_SHARED_H
#define PREFIXD_SHARED_H

#include <stddef.h>

struct metrics_slots;
struct quarantine;
struct running;

struct shared {
    int n_workers;
    struct running *running; /* [n_workers] */
    struct metrics_slots *metrics;
    struct quarantine *quarantine;
    void *adapters; /* what adapters_open takes */
};

void shared_open(struct shared *sh, int n_workers);
void shared_close(struct shared *sh); /* accepts a zeroed one */

void shared_enter(struct shared *sh, int place);
void shared_leave(struct shared *sh, int place);

/* Zeroed memory that processes forked later share. */
void *shared_map(size_t size);
void shared_unmap(void *p, size_t size); /* accepts NULL */

#endif
