/* One thing done on a thread of its own while the caller does another.
 *
 * Thread: any, the same for both calls. Where no thread can be had the thing is done at once.
 *
 *     struct aside a = {0};
 *     aside_begin(&a, write_files, ud);
 *     ... what takes time as well ...
 *     int rc = aside_end(&a, &err);      0 too if nothing was begun */
#ifndef PREFIXD_ASIDE_H
#define PREFIXD_ASIDE_H

#include "core/base/err.h"

#include <pthread.h>
#include <stdbool.h>

struct aside {
    int (*fn)(void *ud, struct err *err); /* NULL: nothing is under way */
    void *ud;
    pthread_t thread;
    bool is_threaded;
    int rc;
    struct err err;
};

void aside_begin(struct aside *a, int (*fn)(void *ud, struct err *err), void *ud);

/* Waits for it: what it returned, and its err. Must follow aside_begin before ud goes. */
int aside_end(struct aside *a, struct err *err);

#endif
