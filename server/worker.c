/* Opening an engine and adapters over the shared base, and serving with them. */
#include "server/worker.h"

#include "adapters/adapters.h"
#include "adapters/store.h"
#include "core/engine.h"
#include "server/loop.h"
#include "server/running.h"
#include "server/shared.h"
#include "server/watch.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { AT_ONCE_BYTES = 64 << 10 }; /* of an adapter that the loop thread reads itself: 0.1 ms */

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
        .no_text_cache = !cfg->text_cache,
        .step_target_ms = (int)cfg->step_target_ms,
        .n_engines = (int)cfg->workers,
        .wake = server_wake,
        .wake_ud = p->server,
    };
    return engine_open(p->base, &opts, err);
}

/* A quarter of the machine's memory for all workers together, unless the operator says. */
static size_t adapter_memory(const struct config *cfg)
{
    int64_t n = cfg->adapter_bytes;
    if (!n)
        n = (int64_t)sysconf(_SC_PHYS_PAGES) / 4 * sysconf(_SC_PAGE_SIZE);
    n /= cfg->workers;
    return n > 1 ? (size_t)n : 1;
}

static struct store *open_store(const struct worker_parts *p, const struct supervisor_child *c,
                                struct err *err)
{
    const struct store_opts opts = {.dir = home_dir(p->home),
                                    .keep_versions = (int)p->cfg->keep_versions,
                                    .is_volatile = !home_is_durable(p->home)};
    struct store *s = store_open(&opts, err);
    if (s && (!c->is_successor || store_settle(s, err) == 0))
        return s;
    worker_name_setting(err, "state", p->cfg->state);
    store_close(s);
    return NULL;
}

static bool is_run(void *ud, int64_t tenant, const char *version)
{
    const struct shared *sh = ud;
    for (int i = 0; i < sh->n_workers; i++)
        if (running_has(&sh->running[i], tenant, version))
            return true;
    return false;
}

static struct adapters *open_adapters(const struct worker_parts *p,
                                      const struct server_parts *parts,
                                      const struct supervisor_child *c)
{
    const struct config *cfg = p->cfg;
    struct shared *sh = c->shared;
    const struct adapters_opts opts = {
        .engine = parts->engine,
        .base = p->base,
        .base_name = p->server->base_name,
        .store = parts->store,
        .is_durable = home_is_durable(p->home),
        .memory = adapter_memory(cfg),
        .max_virtual_tokens = (int)cfg->max_virtual,
        .max_bytes = (size_t)cfg->max_upload,
        .at_once_bytes = AT_ONCE_BYTES,
        .max_long_loads = LOOP_LONG_AT_ONCE,
        .peers = {sh->adapters, sh->n_workers, c->place, is_run, sh},
    };
    return adapters_open(&opts);
}

static int open_parts(const struct worker_parts *p, struct server_parts *parts,
                      const struct supervisor_child *c, struct err *err)
{
    if (base_model_attach(p->base, err) < 0 || server_open(p->server, err) < 0)
        return -1;
    parts->engine = open_engine(p, err);
    if (parts->engine)
        parts->store = open_store(p, c, err);
    if (parts->store)
        parts->adapters = open_adapters(p, parts, c);
    return parts->store ? 0 : -1;
}

/* What the adapters folder holds is there before anybody can ask; later workers find it. */
static int import(const struct worker_parts *p, const struct supervisor_child *c, struct err *err)
{
    if (!c->is_first || !p->cfg->adapters[0] || watch_load(p->server, err) == 0)
        return 0;
    worker_name_setting(err, "adapters", p->cfg->adapters);
    return -1;
}

static int serve(const struct worker_parts *p, const struct server_parts *parts,
                 const struct supervisor_child *c, struct err *err)
{
    p->server->place = c->place;
    server_take_parts(p->server, parts);
    if (import(p, c, err) < 0 || server_start(p->server, err) < 0)
        return -1;
    if (c->place == 0 && p->cfg->adapters[0])
        watch_start(p->server);
    server_watch_life(p->server, c->life_fd);
    supervisor_outlive();
    supervisor_tell_ready(c);
    server_run(p->server);
    return 0;
}

/* The server is the first to go, before what it uses; the store, to which it brings its last
 * counts, after it. */
int worker_run(const struct worker_parts *p, const struct supervisor_child *c, struct err *err)
{
    struct server_parts parts = {.base = p->base, .home = p->home};
    p->server->shared = c->shared;
    int rc = open_parts(p, &parts, c, err);
    if (rc == 0)
        rc = serve(p, &parts, c, err);
    if (parts.engine)
        engine_close(parts.engine);
    server_free(p->server);
    if (parts.adapters)
        adapters_free(parts.adapters);
    if (parts.store)
        store_close(parts.store);
    if (parts.engine)
        engine_free(parts.engine);
    return rc;
}
