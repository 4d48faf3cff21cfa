/* When a worker that died is started again: at once, unless many died of late.
 *
 * Thread: any; pure, time is passed in. The first RESTART_FREE deaths within
 * RESTART_WINDOW_US cost no wait; every further one waits twice as long as the one before,
 * up to RESTART_MAX_US. Time spent waiting does not count, so that a worker that cannot
 * start at all never gets back to restarts at once.
 *
 *     struct restart r = {0};
 *     int64_t due_us = now_us + restart_delay_us(&r, now_us);        at each death
 */
#ifndef PREFIXD_RESTART_H
#define PREFIXD_RESTART_H

#include <stdint.h>

enum {
    RESTART_FREE = 3,
    RESTART_WINDOW_US = 10000000,
    RESTART_MIN_US = 250000,
    RESTART_MAX_US = 30000000,
};

struct restart {
    int64_t deaths[RESTART_FREE]; /* the latest ones, on a clock that stops while waiting */
    int n_deaths;                 /* since start, for the place in the ring */
    int64_t waited_us, last_us;   /* all waits; the latest one */
};

int64_t restart_delay_us(struct restart *r, int64_t now_us);

#endif
