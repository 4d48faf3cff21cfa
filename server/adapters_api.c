/* Adapters over HTTP.
 *
 * Thread: loop; run_change on the pool, one at a time. A change holds its exchange
 * (is_work_live) until it is done, so that its end finds it; it is carried through even if
 * its client goes away. The deadline counts until it begins to run. */
#include "server/adapters_api.h"

#include "core/base/check.h"
#include "core/base/json_out.h"
#include "core/base/mem.h"
#include "server/http.h"
#include "server/loop.h"
#include "server/routes.h"
#include "server/server.h"
#include "server/upload.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

struct change {
    struct change *next;
    struct exchange *x;
    struct adapter_change *work;
    struct upload *body; /* whose bytes work reads; NULL for a delete */
    bool is_delete, is_failed;
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
    struct buf json = {0};
    struct listing l = {.out = &json};
    buf_add_str(&json, "{\"object\":\"list\",\"data\":[");
    adapters_each(x->server->parts.adapters, list_one, &l);
    buf_add_str(&json, "]}");
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
        if (c->is_delete && is_first_of_name(s, c))
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
    struct buf json = {0};
    buf_add_str(&json, "{\"id\":");
    json_out_str(&json, x->match->args[0]);
    buf_add_str(&json, ",\"object\":\"adapter\",\"deleted\":true}");
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
    else if (c->is_delete)
        answer_deleted(x);
    else
        reply_info(x, is_new ? 201 : 200, &info);
}

static void on_changed(void *ud)
{
    struct change *c = ud;
    struct server *s = exchange_of(c->x)->server;
    CHECK(s->running_change == c);
    commit(c);
    s->running_change = NULL;
    end_change(c);
    run_next(s);
}

static enum exchange_step_result queue_change(struct exchange *x,
                                              struct adapter_change *work, bool is_delete)
{
    struct server *s = x->server;
    struct change *c = xcalloc(1, sizeof *c);
    *c = (struct change){.x = x, .work = work, .is_delete = is_delete};
    if (!is_delete)
        c->body = http_keep_body(x->req);
    struct change **at = &s->changes;
    while (*at)
        at = &(*at)->next;
    *at = c;
    x->is_work_live = true;
    x->on_late = drop_change;
    run_next(s);
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

enum exchange_step_result adapters_api_put(struct exchange *x)
{
    struct adapters *a = x->server->parts.adapters;
    struct adapter_file files[ADAPTER_MAX_FILES];
    const char *name = x->match->args[0];
    struct err err = {0};
    int n = 0;
    if (adapters_check_name(a, name, &err) < 0 ||
        (is_form(x) ? take_parts : take_json)(x, files, &n, &err) < 0)
        return exchange_fail(x, &err);
    struct adapter_change *work = adapters_put_begin(a, name, files, n, &err);
    return work ? queue_change(x, work, false) : exchange_fail(x, &err);
}

enum exchange_step_result adapters_api_delete(struct exchange *x)
{
    struct err err = {0};
    struct adapter_change *work =
        adapters_delete_begin(x->server->parts.adapters, x->match->args[0], &err);
    return work ? queue_change(x, work, true) : exchange_fail(x, &err);
}
