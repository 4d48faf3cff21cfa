/* Adding, looking at, changing and removing tenants.
 *
 * Thread: loop; apply on the pool. */
#include "server/admin_api.h"

#include "adapters/store_tenants.h"
#include "server/fields.h"
#include "server/offload.h"
#include "server/paging.h"
#include "server/routes.h"
#include "server/server.h"
#include "server/tenant_json.h"

/* ---- showing ------------------------------------------------------------------------- */

static enum exchange_result reply_tenant(struct exchange *x, int status,
                                         const struct tenant *t)
{
    struct buf json = {0};
    tenant_json(&json, t);
    return exchange_reply_json(x, status, &json);
}

static void list_one(void *ud, const struct tenant *t)
{
    paging_next(ud);
    tenant_json(ud, t);
}

enum exchange_result admin_api_list(struct exchange *x)
{
    struct err err = {0};
    struct paging page;
    struct buf json = {0};
    bool has_more = false;
    if (paging_parse(&page, x->req, &err) < 0)
        return exchange_fail(x, &err);
    paging_open_list(&json);
    if (store_each_tenant(x->server->parts.store, page.after, (size_t)page.limit, &has_more,
                          list_one, &json, &err) < 0) {
        buf_free(&json);
        return exchange_fail(x, &err);
    }
    paging_close_list(&json, has_more);
    return exchange_reply_json(x, 200, &json);
}

enum exchange_result admin_api_get(struct exchange *x)
{
    struct err err = {0};
    struct tenant t;
    if (store_find_tenant(x->server->parts.store, x->match->args[0], &t, &err) < 0)
        return exchange_fail(x, &err);
    return reply_tenant(x, 200, &t);
}

/* ---- changing ------------------------------------------------------------------------ */

struct tenant_change {
    struct store *store;
    enum { TENANT_ADD, TENANT_SET, TENANT_REMOVE, TENANT_SUSPEND, TENANT_RESUME } kind;
    const char *name;
    int64_t weight; /* 0: not said */
    struct tenant_limits set;
    struct tenant out;
};

static int apply(void *ud, struct err *err)
{
    struct tenant_change *c = ud;
    switch (c->kind) {
    case TENANT_ADD:
        return store_add_tenant(c->store, c->name, c->weight, &c->set, &c->out, err);
    case TENANT_SET:
        return store_set_tenant(c->store, c->name, c->weight, &c->set, &c->out, err);
    case TENANT_REMOVE:
        return store_remove_tenant(c->store, c->name, err);
    case TENANT_SUSPEND:
    case TENANT_RESUME:
        break;
    }
    return store_suspend_tenant(c->store, c->name, c->kind == TENANT_SUSPEND, &c->out, err);
}

static enum exchange_result answer(struct exchange *x, void *ud)
{
    const struct tenant_change *c = ud;
    struct buf none = {0};
    if (c->kind == TENANT_REMOVE)
        return exchange_reply(x, 204, NULL, &none);
    return reply_tenant(x, c->kind == TENANT_ADD ? 201 : 200, &c->out);
}

static struct tenant_change *new_change(struct exchange *x, int kind)
{
    struct tenant_change *c = arena_alloc(&x->arena, sizeof *c);
    c->store = x->server->parts.store;
    c->kind = kind;
    c->name = x->match->args[0];
    return c;
}

enum { F_NAME, F_WEIGHT, F_LIMITS };

/* What is not said is absent: its default for a new tenant, else as it is. */
static int take_fields(struct tenant_change *c, const struct field *f, int64_t absent,
                       struct err *err)
{
    const struct field *l = f + F_LIMITS, *w = f + F_WEIGHT;
    if (w->is_given && !w->is_null && w->number < 1)
        return err_param(err, ERR_INVALID, "weight", "weight has to be " TENANT_WEIGHTS);
    c->weight = !w->is_given ? 0 : w->is_null ? 1 : w->number;
#define XX(lim, by_default, doc)                                                           \
    c->set.lim = !l->is_given ? absent : l->is_null ? -1 : l->number;                      \
    l++;
    TENANT_LIMITS(XX)
#undef XX
    return 0;
}

static int parse(struct exchange *x, struct tenant_change *c, struct err *err)
{
    struct field f[] = {{.name = "name", .kind = FIELD_TEXT},
                        {.name = "weight", .kind = FIELD_NUMBER},
#define XX(lim, by_default, doc) {.group = "limits", .name = #lim, .kind = FIELD_NUMBER},
                        TENANT_LIMITS(XX)
#undef XX
    };
    bool is_new = c->kind == TENANT_ADD;
    if (fields_parse(x, f, sizeof f / sizeof *f, err) < 0)
        return -1;
    if (is_new && !f[F_NAME].text)
        return err_param(err, ERR_INVALID, "name", "A new tenant needs a name");
    if (!is_new && f[F_NAME].is_given)
        return err_param(err, ERR_INVALID, "name", "A tenant's name cannot be changed");
    if (is_new)
        c->name = f[F_NAME].text;
    return take_fields(c, f, is_new ? -1 : INT64_MIN, err);
}

static enum exchange_result parse_and_run(struct exchange *x, int kind)
{
    struct err err = {0};
    struct tenant_change *c = new_change(x, kind);
    if (parse(x, c, &err) < 0)
        return exchange_fail(x, &err);
    return offload_run(x, LOOP_REGISTRY, apply, answer, c);
}

enum exchange_result admin_api_add(struct exchange *x)
{
    return parse_and_run(x, TENANT_ADD);
}

enum exchange_result admin_api_set(struct exchange *x)
{
    return parse_and_run(x, TENANT_SET);
}

enum exchange_result admin_api_remove(struct exchange *x)
{
    return offload_run(x, LOOP_REGISTRY, apply, answer, new_change(x, TENANT_REMOVE));
}

enum exchange_result admin_api_suspend(struct exchange *x)
{
    return offload_run(x, LOOP_REGISTRY, apply, answer, new_change(x, TENANT_SUSPEND));
}

enum exchange_result admin_api_resume(struct exchange *x)
{
    return offload_run(x, LOOP_REGISTRY, apply, answer, new_change(x, TENANT_RESUME));
}
