/* The daemon's first process: starts workers, starts them again when they die, ends them.
 *
 * Thread: the only one of the process; workers are forked without exec, so everything that
 * was opened before is theirs too, at no cost. No byte from the network and no event loop
 * gets here. Workers hear of the end by the end of file of a pipe that the supervisor alone
 * holds open: it comes when the supervisor stops, and just so when it is killed.
 *
 *     supervisor_early_signals();                          SIGTERM while loading: exit 0
 *     ... load ...
 *     return supervisor_run(&(struct supervisor_opts){.n_workers = 2, .work = work, ...});
 */
#ifndef PREFIXD_SUPERVISOR_H
#define PREFIXD_SUPERVISOR_H

#include <stdbool.h>
#include <stdint.h>

struct shared;

struct supervisor_child { /* what a worker has from its supervisor */
    int life_fd;          /* its end of file: finish what runs, then exit */
    int ready_fd;
    int place;            /* 0 to n_workers - 1; whoever replaces it has the same */
    bool is_first;        /* of all that this supervisor started */
    bool is_successor;    /* of one that died */
    struct shared *shared;
};

struct supervisor_opts {
    int n_workers;
    int64_t stop_ms; /* workers that are still there so long after a stop are killed */
    /* In the worker's process: its life. What it returns is the exit status. */
    int (*work)(const struct supervisor_child *c, void *ud);
    /* In the supervisor: once, when the first worker is ready; and when it stops. */
    void (*on_up)(void *ud);
    void (*on_stop)(void *ud);
    /* In the supervisor, when a worker has ended in whatever way, before its place is
     * started again: what it held in shared memory is to be given back. May be NULL. */
    void (*on_death)(int place, void *ud);
    void *ud;
};

void supervisor_early_signals(void);

/* Returns in the supervisor when all is over, and in every worker when its work is: the
 * exit status of the process. The first worker is started alone; if it does not get ready,
 * that is the end, and the worker has said why. */
int supervisor_run(const struct supervisor_opts *opts);

void supervisor_tell_ready(const struct supervisor_child *c); /* by the worker */

/* From here on the death of the supervisor is noticed by life_fd alone; until then it ends
 * the worker at once. */
void supervisor_outlive(void);

#endif
