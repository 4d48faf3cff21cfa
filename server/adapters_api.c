/* Adapters over HTTP.
 *
 * Thread: loop; what is slow is done by the queue of changes. A change holds its exchange
 * (is_work_live) until it is done, so that its end finds it; it is carried through even if
 * its client goes away. The deadline counts until it begins to run. */
#include "server/adapters_api.h"

#include "core/base/check.h"
#include "core/base/json_check.h"
#include "core/base/json_out.h"
#include "server/adapter_files.h"
#include "server/change_limits.h"
#include "server/changes.h"
#include "server/http.h"
#include "server/offload.h"
#include "server/limits.h"
#include "server/paging.h"
#include "server/routes.h"
#include "server/server.h"
#include "server/upload.h"

#include <cJSON.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum change_kind { CHANGE_PUT, CHANGE_DELETE, CHANGE_ROLLBACK, CHANGE_FLAGS };

struct asked { /* of a change, in the exchange's arena */
    struct change *change;
    struct upload *body; /* whose bytes the work reads; of a put */
    struct limits_compile *compile; /* NULL: of flags */
    enum change_kind kind;
    bool is_dry;
    bool is_new; /* there was no such adapter of the tenant's before a dry run */
    char old[DIGEST_HEX + 1];
    int is_public, is_pinned; /* of flags; -1: as it is */
};

static const char *name_of(const struct exchange *x)
{
    return x->match->args[0];
}

/* ---- looking ------------------------------------------------------------------------- */

static void add_bool(struct buf *out, const char *name, bool value)
{
    buf_printf(out, ",\"%s\":%s", name, value ? "true" : "false");
}

static void add_time(struct buf *out, const char *name, int64_t seconds)
{
    if (seconds)
        buf_printf(out, ",\"%s\":%" PRId64, name, seconds);
    else
        buf_printf(out, ",\"%s\":null", name);
}

static void add_refusal(struct buf *out, const struct adapter_refusal *r)
{
    if (!r->why) {
        buf_add_str(out, ",\"refused\":null");
        return;
    }
    buf_add_str(out, ",\"refused\":{\"why\":");
    json_out_str(out, r->why);
    add_time(out, "until", r->until);
    buf_add_char(out, '}');
}

static void add_state(struct buf *out, const struct adapter_info *info)
{
    buf_add_str(out, ",\"state\":");
    json_out_str(out, adapter_state_name(info->state));
    buf_add_str(out, ",\"why\":");
    json_out_str(out, info->why);
    add_time(out, "until", info->until);
    add_bool(out, "resident", info->is_resident);
}

static void add_info(struct buf *out, const struct adapter_info *info)
{
    buf_add_str(out, "{\"id\":");
    json_out_str(out, info->name);
    buf_add_str(out, ",\"object\":\"adapter\",\"version\":");
    json_out_str(out, info->version[0] ? info->version : NULL);
    buf_add_str(out, ",\"kind\":");
    json_out_str(out, info->kind);
    buf_printf(out, ",\"virtual_tokens\":%d,\"tasks\":%d,\"bytes\":%zu,\"compile_ms\":%.3f",
               info->n_virtual_tokens, info->n_tasks, info->bytes, info->compile_ms);
    add_state(out, info);
    add_refusal(out, &info->refused);
    add_bool(out, "public", info->is_public);
    add_bool(out, "pinned", info->is_pinned);
    add_bool(out, "durable", info->is_durable);
    buf_printf(out, ",\"created\":%" PRId64 ",\"requests\":%d,\"base_model_hint\":", info->created,
               info->n_refs);
    json_out_str(out, info->base_hint);
    buf_add_char(out, '}');
}

static void list_one(const struct adapter_info *info, void *ud)
{
    paging_next(ud);
    add_info(ud, info);
}

enum exchange_result adapters_api_list(struct exchange *x)
{
    struct err err = {0};
    struct paging page;
    struct buf json = {0};
    if (paging_parse(&page, x->req, &err) < 0)
        return exchange_fail(x, &err);
    paging_open_list(&json);
    bool has_more = adapters_each_after(x->server->parts.adapters, x->caller.tenant, page.after,
                                        (size_t)page.limit, list_one, &json);
    paging_close_list(&json, has_more);
    return exchange_reply_json(x, 200, &json);
}

static enum exchange_result reply_info(struct exchange *x, int status,
                                       const struct adapter_info *info)
{
    char etag[DIGEST_HEX + 3];
    struct buf json = {0};
    add_info(&json, info);
    snprintf(etag, sizeof etag, "\"%s\"", info->version);
    if (!exchange_is_over(x) && info->version[0])
        http_add_header(x->req, "ETag", etag);
    return exchange_reply_json(x, status, &json);
}

enum exchange_result adapters_api_get(struct exchange *x)
{
    struct adapter_info info = {0};
    struct err err = {0};
    if (adapters_info(x->server->parts.adapters, x->caller.tenant, name_of(x), &info, &err) < 0)
        return exchange_fail(x, &err);
    return reply_info(x, 200, &info);
}

/* Reading is long, and what waits for it is not bounded by connections: work outlives them. */
enum { MAX_FILES_ASKED = 32, FILES_ASKED_EACH = 8 };

struct file_asked { /* in the exchange's arena */
    const atomic_bool *is_gone; /* the exchange's */
    struct adapter_file_look look;
    int fd;
};

static int open_file(void *ud, struct err *err)
{
    struct file_asked *f = ud;
    if (atomic_load(f->is_gone)) /* or the server has stopped */
        return err_set(err, ERR_CANCELLED, "nobody waits for the file");
    f->fd = adapter_file_open(&f->look, err);
    return f->fd < 0 ? -1 : 0;
}

static enum exchange_result answer_file(struct exchange *x, void *ud)
{
    const struct file_asked *f = ud;
    if (!exchange_is_over(x))
        return exchange_reply_fd(x, f->fd);
    close(f->fd);
    return EXCHANGE_DONE;
}

static int check_files_asked(const struct exchange *asker, struct err *err)
{
    int n = 0, n_own = 0;
    for (const struct exchange *x = asker->server->exchanges; x; x = x->next) {
        if (!x->is_work_live || x->match->route->handle != adapters_api_file)
            continue;
        n++;
        n_own += x->caller.tenant == asker->caller.tenant;
    }
    if (n < MAX_FILES_ASKED && n_own < FILES_ASKED_EACH)
        return 0;
    return err_set(err, ERR_QUEUE_FULL, "Other files of adapters are being read: try again");
}

enum exchange_result adapters_api_file(struct exchange *x)
{
    struct err err = {0};
    struct file_asked *f = arena_alloc(&x->arena, sizeof *f);
    if (check_files_asked(x, &err) < 0 ||
        adapters_find_file(x->server->parts.adapters, x->caller.tenant, name_of(x),
                           x->match->args[1], &f->look, &err) < 0)
        return exchange_fail(x, &err);
    f->is_gone = &x->is_gone;
    return offload_run(x, LOOP_FILES, open_file, answer_file, f);
}

/* ---- changing ------------------------------------------------------------------------ */

/* Lets go of the exchange, which may be freed with it. */
static void end_change(struct exchange *x)
{
    struct asked *a = x->extra;
    upload_free(a->body);
    a->change = NULL;
    exchange_end_work(x);
}

/* The deadline was over before its turn came: nothing happens to the name. */
static void drop_change(struct exchange *x)
{
    struct asked *a = x->extra;
    changes_drop(a->change);
    end_change(x);
}

/* What the name means to the tenant before the change; a public one is not his. */
static void note_old(const struct exchange *x, struct asked *a)
{
    struct adapter_info old = {0};
    a->is_new =
        adapters_info(x->server->parts.adapters, x->caller.tenant, name_of(x), &old, NULL) < 0 ||
        old.tenant != x->caller.tenant || !old.version[0];
    snprintf(a->old, sizeof a->old, "%s", a->is_new ? "" : old.version);
}

static void on_begin(struct change *c)
{
    struct exchange *x = exchange_of(c->ud);
    note_old(x, x->extra);
    x->deadline_us = INT64_MAX; /* what comes of it now has to be told */
}

static void answer_deleted(struct exchange *x)
{
    struct buf none = {0};
    exchange_reply(x, 204, NULL, &none);
}

/* What the put would have done: the version that it would have made, and instead of what. */
static void answer_dry(struct exchange *x, const struct asked *a, const struct adapter_info *info)
{
    struct buf json = {0};
    add_info(&json, info);
    json.len--; /* the closing brace */
    buf_printf(&json, ",\"dry_run\":true,\"would\":\"%s\"}",
               a->is_new                            ? "create"
               : strcmp(a->old, info->version) != 0 ? "replace"
                                                    : "nothing");
    exchange_reply_json(x, 200, &json);
}

static void answer_change(struct exchange *x, const struct asked *a,
                          const struct adapter_info *info)
{
    if (a->kind == CHANGE_DELETE)
        answer_deleted(x);
    else if (a->is_dry)
        answer_dry(x, a, info);
    else
        reply_info(x, a->kind == CHANGE_PUT && info->is_new ? 201 : 200, info);
}

static void on_done(struct change *c, const struct adapter_info *info, const struct err *err)
{
    struct exchange *x = exchange_of(c->ud);
    struct asked *a = x->extra;
    if (a->compile)
        limits_note_compile(x, a->compile);
    if (info)
        answer_change(x, a, info);
    else if (err->code)
        exchange_fail(x, err);
    else
        adapters_api_get(x); /* flags: the object as it is now */
    end_change(x);
}

static int set_conditions(struct exchange *x, struct adapter_change *work, struct err *err)
{
    static const char *const names[] = {"If-Match", "If-None-Match"};
    for (int i = 0; i < 2; i++)
        if (http_has_two_values(x->req, names[i]))
            return err_param(err, ERR_INVALID, names[i], "%s was given twice, differently",
                             names[i]);
    const struct adapter_when when = {http_header(x->req, names[0]), http_header(x->req, names[1])};
    return adapter_change_when(work, &when, err);
}

static enum exchange_result queue(struct exchange *x, const struct asked *what,
                                  const struct change *change)
{
    struct asked *a = arena_alloc(&x->arena, sizeof *a);
    struct change c = *change;
    *a = *what;
    if (a->kind == CHANGE_PUT)
        a->body = http_keep_body(x->req);
    c.tenant = x->caller.tenant;
    c.name = name_of(x);
    c.is_quick = a->kind == CHANGE_DELETE || a->kind == CHANGE_FLAGS;
    c.on_begin = on_begin;
    c.on_done = on_done;
    c.ud = x;
    x->extra = a;
    x->on_late = drop_change;
    a->change = changes_add(x->server, &c);
    return exchange_begin_work(x, EXCHANGE_change);
}

/* What begin made goes on its way, or with err. */
static enum exchange_result start_change(struct exchange *x, struct adapter_change *work,
                                         enum change_kind kind, struct err *err)
{
    struct asked a = {.kind = kind};
    if (!work)
        return exchange_fail(x, err);
    if (set_conditions(x, work, err) < 0 ||
        (kind == CHANGE_PUT && paging_flag(x->req, "dry_run", &a.is_dry, err) < 0)) {
        adapter_change_free(work);
        return exchange_fail(x, err);
    }
    a.compile = change_limits_set(x, work);
    if (a.is_dry)
        adapter_change_dry(work);
    return queue(x, &a, &(struct change){.work = work});
}

enum exchange_result adapters_api_put(struct exchange *x)
{
    struct adapters *a = x->server->parts.adapters;
    struct adapter_file files[ADAPTER_MAX_FILES];
    struct err err = {0};
    int n = 0;
    if (adapters_check_name(a, name_of(x), &err) < 0 || adapter_files_of(x, files, &n, &err) < 0)
        return exchange_fail(x, &err);
    struct adapter_change *work =
        adapters_put_begin(a, x->caller.tenant, name_of(x), files, n, &err);
    return start_change(x, work, CHANGE_PUT, &err);
}

enum exchange_result adapters_api_delete(struct exchange *x)
{
    struct err err = {0};
    struct adapter_change *work =
        adapters_delete_begin(x->server->parts.adapters, x->caller.tenant, name_of(x), &err);
    return start_change(x, work, CHANGE_DELETE, &err);
}

/* ---- bodies -------------------------------------------------------------------------- */

/* A small JSON object, or NULL with err. */
static cJSON *parse_small(struct exchange *x, struct err *err)
{
    const struct json_limits lim = {.max_len = 4096, .max_depth = 2, .max_items = 8};
    const char *body;
    size_t len;
    if (upload_bytes(http_body(x->req), &body, &len, err) < 0 ||
        json_check(body, len, &lim, err) < 0)
        return NULL;
    cJSON *root = cJSON_ParseWithLength(body, len);
    if (cJSON_IsObject(root))
        return root;
    cJSON_Delete(root);
    err_set(err, ERR_INVALID, "The body has to be a JSON object");
    return NULL;
}

/* {"version": "..."}, and nothing else. */
static int parse_version(struct exchange *x, char version[DIGEST_HEX + 1], struct err *err)
{
    cJSON *root = parse_small(x, err);
    if (!root)
        return -1;
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(root, "version");
    bool is_good =
        cJSON_GetArraySize(root) == 1 && cJSON_IsString(v) && strlen(v->valuestring) == DIGEST_HEX;
    if (is_good)
        memcpy(version, v->valuestring, DIGEST_HEX + 1);
    cJSON_Delete(root);
    if (is_good)
        return 0;
    return err_param(err, ERR_INVALID, "version",
                     "The body has to be {\"version\": \"...\"} with a version of the list at "
                     "/versions, all %d digits of it",
                     DIGEST_HEX);
}

enum exchange_result adapters_api_rollback(struct exchange *x)
{
    struct adapters *a = x->server->parts.adapters;
    char version[DIGEST_HEX + 1];
    struct err err = {0};
    if (parse_version(x, version, &err) < 0)
        return exchange_fail(x, &err);
    struct adapter_change *work =
        adapters_rollback_begin(a, x->caller.tenant, name_of(x), version, &err);
    return start_change(x, work, CHANGE_ROLLBACK, &err);
}

/* ---- flags --------------------------------------------------------------------------- */

static int take_flag(const cJSON *v, struct asked *a, struct err *err)
{
    int *flag = strcmp(v->string, "public") == 0   ? &a->is_public
                : strcmp(v->string, "pinned") == 0 ? &a->is_pinned
                                                   : NULL;
    if (!flag)
        return err_set(err, ERR_INVALID,
                       "The field \"%.40s\" is not known; accepted are public and pinned",
                       v->string);
    if (!cJSON_IsBool(v))
        return err_param(err, ERR_INVALID, v->string, "%s has to be true or false", v->string);
    *flag = cJSON_IsTrue(v);
    return 0;
}

static int parse_flags(struct exchange *x, struct asked *a, struct err *err)
{
    cJSON *root = parse_small(x, err);
    int rc = root ? 0 : -1;
    for (const cJSON *v = root ? root->child : NULL; v && rc == 0; v = v->next)
        rc = take_flag(v, a, err);
    cJSON_Delete(root);
    return rc;
}

static int run_flags(struct change *c, struct err *err)
{
    const struct exchange *x = c->ud; /* whose parts named here do not change any more */
    const struct asked *a = x->extra;
    return adapters_set_flags(x->server->parts.adapters, c->tenant, c->name, a->is_public,
                              a->is_pinned, err);
}

enum exchange_result adapters_api_patch(struct exchange *x)
{
    struct asked a = {.kind = CHANGE_FLAGS, .is_public = -1, .is_pinned = -1};
    struct adapter_info info = {0};
    struct err err = {0};
    if (parse_flags(x, &a, &err) < 0 ||
        adapters_info(x->server->parts.adapters, x->caller.tenant, name_of(x), &info, &err) < 0)
        return exchange_fail(x, &err);
    return queue(x, &a, &(struct change){.run = run_flags});
}
