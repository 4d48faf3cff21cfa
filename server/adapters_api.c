/* Adapters over HTTP.
 *
 * Thread: loop; run_change on the pool, one at a time. A change holds its exchange
 * (is_work_live) until it is done, so that its end finds it; it is carried through even if
 * its client goes away. The deadline counts until it begins to run. */
#include "server/adapters_api.h"

#include "core/base/check.h"
#include "core/base/json_check.h"
#include "core/base/json_out.h"
#include "core/base/mem.h"
#include "server/http.h"
#include "server/loop.h"
#include "server/paging.h"
#include "server/routes.h"
#include "server/server.h"
#include "server/upload.h"

#include <cJSON.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum change_kind { CHANGE_PUT, CHANGE_DELETE, CHANGE_ROLLBACK };

struct change {
    struct change *next;
    struct exchange *x;
    struct adapter_change *work;
    struct upload *body; /* whose bytes work reads; of a put */
    enum change_kind kind;
    bool is_dry, is_failed;
    struct err err;
};

/* ---- looking ------------------------------------------------------------------------- */

static void add_info(struct buf *out, const struct adapter_info *info)
{
    buf_add_str(out, "{\"id\":");
    json_out_str(out, info->name);
    buf_add_str(out, ",\"object\":\"adapter\",\"version\":");
    json_out_str(out, info->version);
    buf_add_str(out, ",\"kind\":");
    json_out_str(out, info->kind);
    buf_printf(out, ",\"virtual_tokens\":%d,\"tasks\":%d,\"bytes\":%zu,\"compile_ms\":%.3f",
               info->n_virtual_tokens, info->n_tasks, info->bytes, info->compile_ms);
    buf_printf(
        out, ",\"durable\":%s,\"created\":%" PRId64 ",\"requests\":%d,\"base_model_hint\":",
        info->is_durable ? "true" : "false", info->created, info->n_refs);
    json_out_str(out, info->base_hint);
    buf_add_char(out, '}');
}

struct listing {
    struct buf *out;
    int n;
};

static void list_one(const struct adapter_info *info, void *ud)
{
    struct listing *l = ud;
    if (l->n++)
        buf_add_char(l->out, ',');
    add_info(l->out, info);
}

enum exchange_step_result adapters_api_list(struct exchange *x)
{
    struct err err = {0};
    struct paging page;
    struct buf json = {0};
    struct listing l = {.out = &json};
    if (paging_parse(&page, x->req, &err) < 0)
        return exchange_fail(x, &err);
    buf_add_str(&json, "{\"object\":\"list\",\"data\":[");
    bool has_more = adapters_each_after(x->server->parts.adapters, page.after,
                                        (size_t)page.limit, list_one, &l);
    paging_close_list(&json, has_more);
    return exchange_reply_json(x, 200, &json);
}

static enum exchange_step_result reply_info(struct exchange *x, int status,
                                            const struct adapter_info *info)
{
    char etag[DIGEST_HEX + 3];
    struct buf json = {0};
    add_info(&json, info);
    snprintf(etag, sizeof etag, "\"%s\"", info->version);
    if (!exchange_is_over(x))
        http_add_header(x->req, "ETag", etag);
    return exchange_reply_json(x, status, &json);
}

enum exchange_step_result adapters_api_get(struct exchange *x)
{
    struct adapter_info info = {0};
    struct err err = {0};
    if (adapters_info(x->server->parts.adapters, x->match->args[0], &info, &err) < 0)
        return exchange_fail(x, &err);
    return reply_info(x, 200, &info);
}

enum exchange_step_result adapters_api_file(struct exchange *x)
{
    struct err err = {0};
    int fd = adapters_open_file(x->server->parts.adapters, x->match->args[0],
                                x->match->args[1], &err);
    return fd < 0 ? exchange_fail(x, &err) : exchange_reply_fd(x, fd);
}

/* ---- changing ------------------------------------------------------------------------ */

static void run_change(void *ud)
{
    struct change *c = ud;
    c->is_failed = adapter_change_run(c->work, &c->err) < 0;
}

static void on_changed(void *ud);

static const char *name_of(const struct change *c)
{
    return c->x->match->args[0];
}

static bool is_first_of_name(const struct server *s, const struct change *c)
{
    for (const struct change *e = s->changes; e != c; e = e->next)
        if (strcmp(name_of(e), name_of(c)) == 0)
            return false;
    return true;
}

/* In order for each name; a delete, which is quick, goes before what others have to
 * compile. */
static struct change *next_change(const struct server *s)
{
    for (struct change *c = s->changes; c; c = c->next)
        if (c->kind == CHANGE_DELETE && is_first_of_name(s, c))
            return c;
    return s->changes;
}

static void run_next(struct server *s)
{
    struct change *c = s->running_change ? NULL : next_change(s);
    if (!c)
        return;
    s->running_change = c;
    c->x->deadline_us = INT64_MAX; /* what comes of it now has to be told */
    loop_work(s->loop, run_change, on_changed, c);
}

/* Lets go of the exchange, which may be freed with it. */
static void end_change(struct change *c)
{
    struct exchange *x = c->x;
    struct change **at = &x->server->changes;
    while (*at != c)
        at = &(*at)->next;
    *at = c->next;
    adapter_change_free(c->work);
    upload_free(c->body);
    free(c);
    server_leave_state(x->server);
    x->is_work_live = false;
    x->on_late = NULL;
    exchange_release(x);
}

/* The deadline was over before its turn came: nothing happens to the name. */
static void drop_change(struct exchange *x)
{
    struct change *c = x->server->changes;
    while (c->x != x)
        c = c->next;
    CHECK(c != x->server->running_change);
    end_change(c);
}

static void answer_deleted(struct exchange *x)
{
    struct buf none = {0};
    exchange_reply(x, 204, NULL, &none);
}

/* What the put would have done: the version that it would have made, and instead of what. */
static void answer_dry(struct exchange *x, const struct adapter_info *info, const char *old)
{
    struct buf json = {0};
    add_info(&json, info);
    json.len--; /* the closing brace */
    buf_printf(&json, ",\"dry_run\":true,\"would\":\"%s\"}",
               !old                               ? "create"
               : strcmp(old, info->version) != 0 ? "replace"
                                                  : "nothing");
    exchange_reply_json(x, 200, &json);
}

static void commit(struct change *c)
{
    struct exchange *x = c->x;
    struct adapters *a = x->server->parts.adapters;
    struct adapter_info info = {0}, old;
    bool is_new = adapters_info(a, x->match->args[0], &old, NULL) < 0;
    if (c->is_failed || adapters_commit(a, c->work, &info, &c->err) < 0)
        exchange_fail(x, &c->err);
    else if (c->kind == CHANGE_DELETE)
        answer_deleted(x);
    else if (c->is_dry)
        answer_dry(x, &info, is_new ? NULL : old.version);
    else
        reply_info(x, is_new ? 201 : 200, &info);
}

static void on_changed(void *ud)
{
    struct change *c = ud;
    struct server *s = exchange_of(c->x)->server;
    CHECK(s->running_change == c);
    int more = c->is_failed ? 0 : adapter_change_next(c->work, &c->err);
    if (more > 0) {
        loop_work(s->loop, run_change, on_changed, c);
        return;
    }
    c->is_failed |= more < 0;
    commit(c);
    s->running_change = NULL;
    end_change(c);
    run_next(s);
}

static void queue_change(struct exchange *x, const struct change *what)
{
    struct server *s = x->server;
    struct change *c = xcalloc(1, sizeof *c);
    *c = *what;
    if (c->kind == CHANGE_PUT)
        c->body = http_keep_body(x->req);
    struct change **at = &s->changes;
    while (*at)
        at = &(*at)->next;
    *at = c;
    x->is_work_live = true;
    x->on_late = drop_change;
    run_next(s);
}

static int set_conditions(struct exchange *x, struct adapter_change *work, struct err *err)
{
    static const char *const names[] = {"If-Match", "If-None-Match"};
    for (int i = 0; i < 2; i++)
        if (http_has_two_values(x->req, names[i]))
            return err_param(err, ERR_INVALID, names[i], "%s was given twice, differently",
                             names[i]);
    const struct adapter_when when = {http_header(x->req, names[0]),
                                      http_header(x->req, names[1])};
    return adapter_change_when(work, &when, err);
}

/* What begin made goes on its way, or with err. */
static enum exchange_step_result start_change(struct exchange *x, struct adapter_change *work,
                                              enum change_kind kind, struct err *err)
{
    struct change c = {.x = x, .work = work, .kind = kind};
    if (!work)
        return exchange_fail(x, err);
    if (set_conditions(x, work, err) < 0 ||
        (kind == CHANGE_PUT && paging_flag(x->req, "dry_run", &c.is_dry, err) < 0)) {
        adapter_change_free(work);
        return exchange_fail(x, err);
    }
    if (c.is_dry)
        adapter_change_dry(work);
    queue_change(x, &c);
    return STEP_WAIT;
}

/* ---- putting ------------------------------------------------------------------------- */

static const struct {
    const char *field, *file;
} known_parts[] = {
    {"config", "adapter_config.json"},
    {"weights", "adapter_model.safetensors"},
    {"adapter", "adapter.json"},
};

static const char *base_of(const char *file)
{
    const char *slash = strrchr(file, '/');
    return slash ? slash + 1 : file;
}

static bool is_pickle(const char *file)
{
    static const char *const ends[] = {".bin", ".pt", ".pth", ".ckpt", ".pkl"};
    const char *dot = strrchr(base_of(file), '.');
    for (size_t i = 0; dot && i < sizeof ends / sizeof *ends; i++)
        if (strcmp(dot, ends[i]) == 0)
            return true;
    return false;
}

/* The file's own name says what a part is; a field's name does when the file is called
 * otherwise. */
static const char *part_name(const struct upload_part *p)
{
    size_t n = sizeof known_parts / sizeof *known_parts;
    for (size_t i = 0; i < n; i++)
        if (strcmp(base_of(p->file), known_parts[i].file) == 0)
            return known_parts[i].file;
    for (size_t i = 0; i < n; i++)
        if (strcmp(p->field, known_parts[i].field) == 0 ||
            strcmp(p->field, known_parts[i].file) == 0)
            return known_parts[i].file;
    return NULL;
}

static int add_part(struct adapter_file *files, int *n, const struct upload_part *p,
                    struct err *err)
{
    const char *name = part_name(p);
    if (is_pickle(p->file))
        return err_set(err, ERR_ADAPTER,
                       "The file \"%.63s\" is taken for a pickle, which is refused: save "
                       "with safe_serialization=True (safetensors)",
                       base_of(p->file));
    if (!name)
        return err_set(err, ERR_INVALID,
                       "The part \"%.40s\" (file \"%.63s\") is not known; accepted are "
                       "config=@adapter_config.json and weights=@adapter_model.safetensors",
                       p->field, p->file);
    for (int i = 0; i < *n; i++)
        if (strcmp(files[i].name, name) == 0)
            return err_set(err, ERR_INVALID, "The part %s came twice", name);
    if (*n == ADAPTER_MAX_FILES)
        return err_set(err, ERR_INVALID, "More than %d files", ADAPTER_MAX_FILES);
    files[(*n)++] = (struct adapter_file){
        .name = name, .bytes = p->body.data ? p->body.data : "", .len = p->body.len};
    return 0;
}

static int take_parts(struct exchange *x, struct adapter_file *files, int *n,
                      struct err *err)
{
    const struct upload_part *parts;
    int n_parts;
    if (upload_parts(http_body(x->req), &parts, &n_parts, err) < 0)
        return -1;
    for (int i = 0; i < n_parts; i++)
        if (add_part(files, n, &parts[i], err) < 0)
            return -1;
    return 0;
}

static int take_json(struct exchange *x, struct adapter_file *files, int *n,
                     struct err *err)
{
    const char *body;
    size_t len, blank = 0;
    if (upload_bytes(http_body(x->req), &body, &len, err) < 0)
        return -1;
    while (blank < len && strchr(" \t\r\n", body[blank]))
        blank++;
    if (blank == len || body[blank] != '{')
        return err_set(err, ERR_MEDIA_TYPE,
                       "Accepted are the two files of an adapter as multipart/form-data, "
                       "or the JSON of "
                       "a text adapter");
    files[(*n)++] =
        (struct adapter_file){.name = "adapter.json", .bytes = body, .len = len};
    return 0;
}

static bool is_form(const struct exchange *x)
{
    const char *type = http_header(x->req, "Content-Type");
    return type && strncasecmp(type, "multipart/form-data", 19) == 0;
}

/* A change would reach this worker alone. */
static int check_alone(const struct exchange *x, struct err *err)
{
    if (x->server->cfg->workers == 1)
        return 0;
    return err_set(err, ERR_CONFLICT,
                   "Adapters cannot be changed here: this server runs %lld workers, and a "
                   "change would reach one of them",
                   (long long)x->server->cfg->workers);
}

enum exchange_step_result adapters_api_put(struct exchange *x)
{
    struct adapters *a = x->server->parts.adapters;
    struct adapter_file files[ADAPTER_MAX_FILES];
    const char *name = x->match->args[0];
    struct err err = {0};
    int n = 0;
    if (check_alone(x, &err) < 0 || adapters_check_name(a, name, &err) < 0 ||
        (is_form(x) ? take_parts : take_json)(x, files, &n, &err) < 0)
        return exchange_fail(x, &err);
    struct adapter_change *work = adapters_put_begin(a, name, files, n, &err);
    return start_change(x, work, CHANGE_PUT, &err);
}

enum exchange_step_result adapters_api_delete(struct exchange *x)
{
    struct err err = {0};
    if (check_alone(x, &err) < 0)
        return exchange_fail(x, &err);
    struct adapter_change *work =
        adapters_delete_begin(x->server->parts.adapters, x->match->args[0], &err);
    return start_change(x, work, CHANGE_DELETE, &err);
}

/* ---- rolling back -------------------------------------------------------------------- */

/* {"version": "..."}, and nothing else. */
static int parse_version(struct exchange *x, char version[DIGEST_HEX + 1], struct err *err)
{
    const struct json_limits lim = {.max_len = 4096, .max_depth = 2, .max_items = 8};
    const char *body;
    size_t len;
    if (upload_bytes(http_body(x->req), &body, &len, err) < 0 ||
        json_check(body, len, &lim, err) < 0)
        return -1;
    cJSON *root = cJSON_ParseWithLength(body, len);
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(root, "version");
    bool is_good = cJSON_IsObject(root) && cJSON_GetArraySize(root) == 1 && cJSON_IsString(v) &&
                   strlen(v->valuestring) == DIGEST_HEX;
    if (is_good)
        memcpy(version, v->valuestring, DIGEST_HEX + 1);
    cJSON_Delete(root);
    if (is_good)
        return 0;
    return err_param(err, ERR_INVALID, "version",
                     "The body has to be {\"version\": \"...\"} with a version of the list at "
                     "/versions, all %d digits of it", DIGEST_HEX);
}

enum exchange_step_result adapters_api_rollback(struct exchange *x)
{
    struct adapters *a = x->server->parts.adapters;
    char version[DIGEST_HEX + 1];
    struct err err = {0};
    if (parse_version(x, version, &err) < 0)
        return exchange_fail(x, &err);
    struct adapter_change *work = adapters_rollback_begin(a, x->match->args[0], version, &err);
    return start_change(x, work, CHANGE_ROLLBACK, &err);
}
