/* Models: the base, and every adapter that the tenant sees and may use as a child of it. */
#include "server/models_api.h"

#include "core/base/json_out.h"
#include "server/http.h"
#include "server/paging.h"
#include "server/routes.h"
#include "server/server.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

struct listing {
    struct buf *out;
    const struct server *server;
    int n, limit;
    bool is_cut;
    char after[ADAPTER_NAME_MAX + 1]; /* the last name looked at */
};

static void add_model(struct buf *out, const struct server *s, const char *id,
                      int64_t created, int max_len)
{
    buf_add_str(out, "{\"id\":");
    json_out_str(out, id);
    buf_printf(out,
               ",\"object\":\"model\",\"created\":%" PRId64 ",\"owned_by\":\"prefixd\"",
               created);
    buf_add_str(out, ",\"root\":");
    json_out_str(out, s->base_name);
    buf_printf(out, ",\"max_model_len\":%d,\"parent\":", max_len);
}

static void add_base(struct buf *out, const struct server *s)
{
    add_model(out, s, s->base_name, s->created, engine_max_ctx(s->parts.engine));
    buf_add_str(out, "null}");
}

static void add_adapter(struct buf *out, const struct server *s,
                        const struct adapter_info *info)
{
    int max_len = engine_max_ctx(s->parts.engine) - info->n_virtual_tokens;
    add_model(out, s, info->name, info->created, max_len);
    json_out_str(out, s->base_name);
    buf_add_char(out, '}');
}

static void list_adapter(const struct adapter_info *info, void *ud)
{
    struct listing *l = ud;
    snprintf(l->after, sizeof l->after, "%s", info->name);
    if (!info->version[0])
        return; /* only refused: no model so far */
    l->is_cut = l->n == l->limit;
    if (l->is_cut)
        return;
    l->n++;
    paging_next(l->out);
    add_adapter(l->out, l->server, info);
}

/* Names that are no models do not make the page shorter. */
static bool list_adapters(struct listing *l, int64_t tenant, const char *after)
{
    struct adapters *a = l->server->parts.adapters;
    bool has_more;
    snprintf(l->after, sizeof l->after, "%s", after);
    do {
        size_t room = l->n < l->limit ? (size_t)(l->limit - l->n) : 1;
        has_more = adapters_each_after(a, tenant, l->after, room, list_adapter, l);
    } while (has_more && l->n < l->limit);
    return has_more || l->is_cut;
}

/* The base comes before all names, and counts. */
enum exchange_result models_api_list(struct exchange *x)
{
    struct err err = {0};
    struct paging page;
    struct buf json = {0};
    if (paging_parse(&page, x->req, &err) < 0)
        return exchange_fail(x, &err);
    struct listing l = {.out = &json, .server = x->server, .limit = page.limit};
    bool is_after_base = strcmp(page.after, x->server->base_name) == 0;
    paging_open_list(&json);
    if (!page.after[0]) {
        add_base(&json, x->server);
        l.n++;
    }
    bool has_more = list_adapters(&l, x->caller.tenant, is_after_base ? "" : page.after);
    paging_close_list(&json, has_more);
    return exchange_reply_json(x, 200, &json);
}

/* A base's name may hold a slash, which clients send as %2F and the path's decoding left
 * so. */
static void decode_slashes(char *s)
{
    char *to = s;
    for (const char *from = s; *from; to++) {
        bool is_slash = strncasecmp(from, "%2f", 3) == 0;
        *to = is_slash ? '/' : *from;
        from += is_slash ? 3 : 1;
    }
    *to = '\0';
}

enum exchange_result models_api_get(struct exchange *x)
{
    const struct server *s = x->server;
    struct adapter_info info = {0};
    struct err err = {0};
    struct buf json = {0};
    char *id = x->match->args[0];
    size_t n = strlen(s->base_name);
    decode_slashes(id);
    if (strcmp(id, s->base_name) == 0) {
        add_base(&json, s);
        return exchange_reply_json(x, 200, &json);
    }
    const char *name = strncmp(id, s->base_name, n) == 0 && id[n] == ':' ? id + n + 1 : id;
    if (adapters_info(s->parts.adapters, x->caller.tenant, name, &info, &err) < 0 ||
        !info.version[0]) {
        err_param(&err, ERR_MODEL_NOT_FOUND, "model", "The model `%.100s` does not exist",
                  id);
        return exchange_fail(x, &err);
    }
    add_adapter(&json, s, &info);
    return exchange_reply_json(x, 200, &json);
}
