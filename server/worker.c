/* Opening an engine and adapters over the shared base, and serving with them. */
#include "server/worker.h"

#include "adapters/adapters.h"
#include "core/engine.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

void worker_name_setting(struct err *err, const char *flag, const char *value)
{
    char msg[sizeof err->msg];
    if (!err->code || strncmp(err->msg, "--", 2) == 0)
        return;
    memcpy(msg, err->msg, sizeof msg);
    err_set(err, err->code, "--%s %.120s: %s", flag, value, msg);
}

/* A worker's share of the cores, unless the operator says how many threads. */
static int n_threads(const struct config *cfg)
{
    long n = sysconf(_SC_NPROCESSORS_ONLN) / (long)cfg->workers;
    if (cfg->threads)
        return (int)cfg->threads;
    return n > 1 ? (int)n : 1;
}

static struct engine *open_engine(const struct worker_parts *p, struct err *err)
{
    const struct config *cfg = p->cfg;
    const struct engine_opts opts = {
        .n_threads = n_threads(cfg),
        .max_ctx = (int)cfg->ctx,
        .kv_bytes = (size_t)(cfg->kv_bytes / cfg->workers),
        .max_batch = (int)cfg->max_batch,
        .max_queue = (int)cfg->max_queue,
        .prefill_chunk = (int)cfg->prefill_chunk,
        .n_engines = (int)cfg->workers,
        .wake = server_wake,
        .wake_ud = p->server,
    };
    return engine_open(p->base, &opts, err);
}

static struct adapters *open_adapters(const struct worker_parts *p, struct engine *engine,
                                      struct err *err)
{
    const struct config *cfg = p->cfg;
    const struct adapters_opts opts = {
        .engine = engine,
        .base = p->base,
        .base_name = p->server->base_name,
        .state_dir = cfg->state[0] ? cfg->state : NULL,
        .keep_versions = (int)cfg->keep_versions,
        .max_virtual_tokens = (int)cfg->max_virtual,
        .max_bytes = (size_t)cfg->max_upload,
    };
    struct adapters *a = adapters_open(&opts, err);
    if (!a)
        worker_name_setting(err, "state", cfg->state);
    if (a && adapters_load_all(a, cfg->adapters[0] ? cfg->adapters : NULL, err) < 0) {
        worker_name_setting(err, "adapters", cfg->adapters);
        adapters_free(a);
        return NULL;
    }
    return a;
}

static int serve(const struct worker_parts *p, const struct server_parts *parts,
                 const struct supervisor_child *c, struct err *err)
{
    if (server_start(p->server, parts, err) < 0)
        return -1;
    server_watch_life(p->server, c->life_fd);
    supervisor_outlive();
    supervisor_tell_ready(c);
    server_run(p->server);
    return 0;
}

/* The server is the first to go, before what it uses. */
int worker_run(const struct worker_parts *p, const struct supervisor_child *c,
               struct err *err)
{
    struct server_parts parts = {.base = p->base};
    int rc = -1;
    p->server->shared = c->shared;
    p->server->place = c->place;
    if (base_model_attach(p->base, err) == 0 && server_open(p->server, err) == 0)
        parts.engine = open_engine(p, err);
    if (parts.engine)
        parts.adapters = open_adapters(p, parts.engine, err);
    if (parts.adapters)
        rc = serve(p, &parts, c, err);
    if (parts.engine)
        engine_close(parts.engine);
    server_free(p->server);
    if (parts.adapters)
        adapters_free(parts.adapters);
    if (parts.engine)
        engine_free(parts.engine);
    return rc;
}
