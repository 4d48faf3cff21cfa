/* A worker's life: opens what is a worker's own, serves, and frees it in reverse.
 *
 * Thread: the one that forked or was forked; it becomes the loop thread. */
#ifndef PREFIXD_WORKER_H
#define PREFIXD_WORKER_H

#include "config/config.h"
#include "core/base/err.h"
#include "adapters/home.h"
#include "core/base_model.h"
#include "server/server.h"
#include "server/supervisor.h"

struct worker_parts { /* opened before the fork */
    const struct config *cfg;
    struct base_model *base;
    struct home *home;
    struct server *server; /* its address is bound; freed by worker_run */
};

/* What is wrong is said by the parts, which setting it came from here. */
void worker_name_setting(struct err *err, const char *flag, const char *value);

/* Serves until told to stop. -1 when something does not open. */
int worker_run(const struct worker_parts *p, const struct supervisor_child *c,
               struct err *err);

#endif
