/* Making, listing and revoking keys. A key is told once, when it is made.
 *
 * Thread: loop; make and revoke on the pool. */
#include "server/keys_api.h"

#include "adapters/store_tenants.h"
#include "server/fields.h"
#include "server/http.h"
#include "server/offload.h"
#include "server/paging.h"
#include "server/routes.h"
#include "server/server.h"
#include "server/tenant_json.h"

#include <sodium.h>
#include <string.h>
#include <time.h>

/* ---- showing ------------------------------------------------------------------------- */

static void list_one(void *ud, const struct tenant_key *k)
{
    paging_next(ud);
    tenant_json_key(ud, k, NULL);
}

static int list(struct exchange *x, struct buf *json, struct err *err)
{
    struct store *store = x->server->parts.store;
    const char *tenant = http_query(x->req, "tenant");
    struct paging page;
    struct tenant t;
    bool has_more = false;
    if (paging_parse(&page, x->req, err) < 0)
        return -1;
    if (page.after[0] && !tenant_json_key_id(page.after))
        return err_param(err, ERR_INVALID, "after",
                         "after has to be a key's id, as key_12");
    if (tenant && store_find_tenant(store, tenant, &t, err) < 0)
        return -1;
    paging_open_list(json);
    if (store_each_key(store, tenant, page.after[0] ? tenant_json_key_id(page.after) : 0,
                       (size_t)page.limit, &has_more, list_one, json, err) < 0)
        return -1;
    paging_close_list(json, has_more);
    return 0;
}

enum exchange_result keys_api_list(struct exchange *x)
{
    struct err err = {0};
    struct buf json = {0};
    if (list(x, &json, &err) == 0)
        return exchange_reply_json(x, 200, &json);
    buf_free(&json);
    return exchange_fail(x, &err);
}

/* ---- changing ------------------------------------------------------------------------ */

struct key_change {
    struct store *store;
    const char *tenant; /* NULL: an administrator's */
    enum key_scope scope;
    int64_t id, expires;
    char text[KEY_TEXT_MAX];
    struct tenant_key out;
};

static int make(void *ud, struct err *err)
{
    struct key_change *c = ud;
    return store_add_key(c->store, c->tenant, c->scope, c->expires, c->text, &c->out, err);
}

static enum exchange_result answer_made(struct exchange *x, void *ud)
{
    struct key_change *c = ud;
    struct buf json = {0};
    tenant_json_key(&json, &c->out, c->text);
    sodium_memzero(c->text, sizeof c->text);
    if (!exchange_is_over(x))
        http_add_header(x->req, "Cache-Control", "no-store");
    return exchange_reply_json(x, 201, &json);
}

static int revoke(void *ud, struct err *err)
{
    const struct key_change *c = ud;
    return store_revoke_key(c->store, c->id, err);
}

static enum exchange_result answer_revoked(struct exchange *x, void *ud)
{
    struct buf none = {0};
    (void)ud;
    return exchange_reply(x, 204, NULL, &none);
}

static int parse(struct exchange *x, struct key_change *c, struct err *err)
{
    struct field f[] = {{.name = "tenant", .kind = FIELD_TEXT},
                        {.name = "scope", .kind = FIELD_TEXT},
                        {.name = "expires", .kind = FIELD_NUMBER}};
    if (fields_parse(x, f, sizeof f / sizeof *f, err) < 0)
        return -1;
    c->tenant = f[0].text;
    c->scope = KEY_MANAGE;
    if (f[1].text && key_scope_of(f[1].text, &c->scope, err) < 0)
        return -1;
    c->expires = f[2].number;
    if (f[2].is_given && !f[2].is_null && c->expires <= (int64_t)time(NULL))
        return err_param(err, ERR_INVALID, "expires",
                         "expires has to be a time to come, in Unix seconds");
    return 0;
}

enum exchange_result keys_api_add(struct exchange *x)
{
    struct err err = {0};
    struct key_change *c = arena_alloc(&x->arena, sizeof *c);
    c->store = x->server->parts.store;
    if (parse(x, c, &err) < 0)
        return exchange_fail(x, &err);
    return offload_run(x, LOOP_REGISTRY, make, answer_made, c);
}

enum exchange_result keys_api_revoke(struct exchange *x)
{
    struct err err = {0};
    struct key_change *c = arena_alloc(&x->arena, sizeof *c);
    c->store = x->server->parts.store;
    c->id = tenant_json_key_id(x->match->args[0]);
    if (!c->id) {
        err_set(&err, ERR_NOT_FOUND, "there is no such key");
        return exchange_fail(x, &err);
    }
    return offload_run(x, LOOP_REGISTRY, revoke, answer_revoked, c);
}
