/* Adapters by the names and texts that vLLM's operators use.
 *
 * Thread: loop; run_open and run_read on the pool. A load goes through the queue of changes
 * three times: to open the files, to read them once there is memory for them, and to put
 * them. The exchange is held (is_work_live) until that is over; its deadline counts until
 * it begins. */
#include "server/lora_api.h"

#include "adapters/beneath_files.h"
#include "core/base/check.h"
#include "core/base/json_tree.h"
#include "server/change_limits.h"
#include "server/changes.h"
#include "server/http.h"
#include "server/limits.h"
#include "server/routes.h"
#include "server/server.h"
#include "server/upload.h"

#include <string.h>

struct lora { /* in the exchange's arena */
    struct change *change;
    enum { LORA_OPEN, LORA_READ, LORA_PUT, LORA_UNLOAD } stage;
    const char *name, *path; /* in the arena */
    bool is_in_place;
    const char *root, *tenant; /* for the pool */
    size_t max_bytes;
    struct beneath_files files;
    struct loaded loaded;
    struct budget_hold hold; /* of the server's memory for uploads */
    struct limits_compile *compile; /* of the put */
};

/* ---- answers ------------------------------------------------------------------------- */

static enum exchange_result reply_done(struct exchange *x, const char *name,
                                       const char *what)
{
    struct buf text = {0};
    buf_printf(&text, "Success: LoRA adapter '%s' %s successfully.", name, what);
    return exchange_reply(x, 200, "text/plain; charset=utf-8", &text);
}

static enum exchange_result reply_failed(struct exchange *x, const struct lora *l,
                                         const struct err *err)
{
    struct err own = *err;
    if (l->stage != LORA_UNLOAD && err->code == ERR_PRECONDITION)
        err_param(&own, ERR_INVALID, "load_inplace",
                  "The lora adapter '%s' has already been loaded. If you want to load the "
                  "adapter in place, set 'load_inplace' to True.",
                  l->name);
    else if (l->stage == LORA_UNLOAD && err->code == ERR_ADAPTER_NOT_FOUND)
        err_param(&own, ERR_ADAPTER_NOT_FOUND, "lora_name",
                  "The lora adapter '%s' cannot be found.", l->name);
    return exchange_fail(x, &own);
}

/* ---- the queue ----------------------------------------------------------------------- */

/* Lets go of the exchange, which may be freed with it. */
static void end(struct exchange *x)
{
    struct lora *l = x->extra;
    budget_drop(&l->hold);
    loaded_fini(&l->loaded);
    beneath_files_fini(&l->files);
    exchange_end_work(x);
}

/* The deadline was over before its turn came: nothing happens to the name. */
static void drop(struct exchange *x)
{
    struct lora *l = x->extra;
    changes_drop(l->change);
    end(x);
}

static void on_begin(struct change *c)
{
    exchange_of(c->ud)->deadline_us = INT64_MAX; /* what comes of it now has to be told */
}

static void on_done(struct change *c, const struct adapter_info *info,
                    const struct err *err);

static void queue(struct exchange *x, struct adapter_change *work,
                  int (*run)(struct change *c, struct err *err))
{
    struct lora *l = x->extra;
    const struct change c = {.work = work,
                             .run = run,
                             .tenant = x->caller.tenant,
                             .name = l->name,
                             .is_quick = l->stage == LORA_UNLOAD,
                             .is_long = l->stage == LORA_READ && beneath_files_are_long(&l->files),
                             .on_begin = on_begin,
                             .on_done = on_done,
                             .ud = x};
    l->change = changes_add(x->server, &c);
}

static enum exchange_result start(struct exchange *x, const struct lora *what,
                                  struct adapter_change *work,
                                  int (*run)(struct change *c, struct err *err))
{
    struct lora *l = arena_alloc(&x->arena, sizeof *l);
    *l = *what;
    x->extra = l;
    x->on_late = drop;
    queue(x, work, run);
    return exchange_begin_work(x, EXCHANGE_change);
}

/* ---- loading ------------------------------------------------------------------------- */

static int run_open(struct change *c, struct err *err)
{
    const struct exchange *x = c->ud;
    struct lora *l = x->extra;
    return beneath_files_open(&l->files, l->root, l->tenant, l->path, l->max_bytes, err);
}

static int run_read(struct change *c, struct err *err)
{
    const struct exchange *x = c->ud;
    struct lora *l = x->extra;
    return beneath_files_read(&l->files, &l->loaded, err);
}

/* As much as if the files had been sent. */
static int read_files(struct exchange *x, struct lora *l, struct err *err)
{
    if (!budget_take(&l->hold, &x->server->uploads, x->caller.tenant, l->files.size))
        return err_set(err, ERR_NO_MEMORY,
                       "There is no memory for these files beside those "
                       "that are being read");
    l->stage = LORA_READ;
    queue(x, NULL, run_read);
    return 0;
}

static int put_files(struct exchange *x, struct lora *l, struct err *err)
{
    const struct adapter_when is_new = {.if_none_match = "*"};
    struct adapter_change *work =
        adapters_put_begin(x->server->parts.adapters, x->caller.tenant, l->name,
                           l->loaded.files, l->loaded.n_files, err);
    if (!work)
        return -1;
    if (!l->is_in_place && adapter_change_when(work, &is_new, err) < 0) {
        adapter_change_free(work);
        return -1;
    }
    l->compile = change_limits_set(x, work);
    l->stage = LORA_PUT;
    queue(x, work, NULL);
    return 0;
}

/* On to the next stage, or to the end. */
static void on_done(struct change *c, const struct adapter_info *info,
                    const struct err *err)
{
    struct exchange *x = exchange_of(c->ud);
    struct lora *l = x->extra;
    bool is_last = l->stage == LORA_PUT || l->stage == LORA_UNLOAD;
    struct err own = *err;
    int rc = info || !err->code ? 0 : -1;
    if (rc == 0 && l->stage == LORA_OPEN)
        rc = read_files(x, l, &own);
    else if (rc == 0 && l->stage == LORA_READ)
        rc = put_files(x, l, &own);
    else if (rc == 0)
        reply_done(x, l->name, l->stage == LORA_PUT ? "added" : "removed");
    if (is_last && l->compile)
        limits_note_compile(x, l->compile);
    if (rc < 0)
        reply_failed(x, l, &own);
    if (rc < 0 || is_last)
        end(x);
}

/* ---- requests ------------------------------------------------------------------------ */

static enum exchange_result nothing_here(struct exchange *x)
{
    struct err err;
    err_set(&err, ERR_NOT_FOUND, "Nothing is at POST %.60s", x->match->route->pattern);
    return exchange_fail(x, &err);
}

/* "": absent, which is the same to vLLM. */
static const char *string_of(struct exchange *x, const struct json_node *root,
                             const char *key)
{
    const char *s = json_string(json_member(root, key));
    return arena_strdup(&x->arena, s ? s : "");
}

static int parse_flag(const struct json_node *root, const char *key, bool *out,
                      struct err *err)
{
    const struct json_node *v = json_member(root, key);
    if (v && !json_is(v, JSON_BOOL) && !json_is(v, JSON_NULL))
        return err_param(err, ERR_INVALID, key, "%s has to be true or false", key);
    *out = json_is(v, JSON_BOOL) && v->number != 0;
    return 0;
}

/* Other fields are vLLM's own and say nothing about prefixes. */
static int parse(struct exchange *x, struct lora *l, struct err *err)
{
    const struct json_limits lim = {.max_len = 1 << 16, .max_depth = 8, .max_items = 1000};
    struct json_tree t;
    const char *body;
    size_t len;
    if (upload_bytes(http_body(x->req), &body, &len, err) < 0 ||
        json_tree_parse(&t, body, len, &lim, err) < 0)
        return -1;
    l->name = string_of(x, t.root, "lora_name");
    l->path = string_of(x, t.root, "lora_path");
    int rc = parse_flag(t.root, "load_inplace", &l->is_in_place, err);
    json_tree_free(&t);
    return rc;
}

static int check_load(struct exchange *x, const struct lora *l, struct err *err)
{
    if (!l->name[0] || !l->path[0])
        return err_param(err, ERR_INVALID, l->name[0] ? "lora_path" : "lora_name",
                         "Both 'lora_name' and 'lora_path' must be provided.");
    return adapters_check_name(x->server->parts.adapters, l->name, err);
}

/* Whether the tenant has an adapter of this name: a public one is not his. */
static bool is_loaded(struct exchange *x, const char *name)
{
    struct adapter_info info = {0};
    int rc = adapters_info(x->server->parts.adapters, x->caller.tenant, name, &info, NULL);
    return rc == 0 && info.tenant == x->caller.tenant && info.version[0];
}

enum exchange_result lora_api_load(struct exchange *x)
{
    const struct config *cfg = x->server->cfg;
    struct lora l = {.stage = LORA_OPEN,
                     .root = cfg->lora_root,
                     .tenant = x->caller.tenant_name,
                     .max_bytes = (size_t)cfg->max_upload};
    struct err err = {0};
    if (!cfg->lora_root[0])
        return nothing_here(x);
    if (parse(x, &l, &err) < 0 || check_load(x, &l, &err) < 0)
        return exchange_fail(x, &err);
    if (!l.is_in_place && is_loaded(x, l.name)) { /* else the put finds out, having read */
        err.code = ERR_PRECONDITION;
        return reply_failed(x, &l, &err);
    }
    return start(x, &l, NULL, run_open);
}

enum exchange_result lora_api_unload(struct exchange *x)
{
    struct lora l = {.stage = LORA_UNLOAD};
    struct err err = {0};
    if (!x->server->cfg->lora_root[0])
        return nothing_here(x);
    if (parse(x, &l, &err) < 0)
        return exchange_fail(x, &err);
    if (!l.name[0]) {
        err_param(&err, ERR_INVALID, "lora_name",
                  "'lora_name' needs to be provided to unload a LoRA adapter.");
        return exchange_fail(x, &err);
    }
    struct adapter_change *work =
        adapters_delete_begin(x->server->parts.adapters, x->caller.tenant, l.name, &err);
    return work ? start(x, &l, work, NULL) : reply_failed(x, &l, &err);
}
