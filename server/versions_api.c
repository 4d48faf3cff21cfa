/* The versions that are kept of an adapter, newest first. */
#include "server/versions_api.h"

#include "core/base/json_out.h"
#include "server/http.h"
#include "server/paging.h"
#include "server/routes.h"
#include "server/server.h"

#include <inttypes.h>
#include <string.h>

/* after is a version of the list; one that is not in it any more has nothing behind it. */
struct listing {
    struct buf *out;
    const struct paging *page;
    bool is_reached;
    int n;
};

static void add_version(struct buf *out, const struct adapter_version_info *v)
{
    buf_add_str(out, "{\"object\":\"adapter.version\",\"version\":");
    json_out_str(out, v->version);
    buf_add_str(out, ",\"kind\":");
    json_out_str(out, v->kind);
    buf_printf(out, ",\"created\":%" PRId64 ",\"number\":%" PRId64 ",\"current\":%s",
               v->created, v->number, v->is_current ? "true" : "false");
    buf_add_str(out, ",\"state\":");
    json_out_str(out, adapter_state_name(v->state));
    buf_add_char(out, '}');
}

static void list_one(const struct adapter_version_info *v, void *ud)
{
    struct listing *l = ud;
    if (!l->is_reached) {
        l->is_reached = strcmp(v->version, l->page->after) == 0;
        return;
    }
    if (l->n++ >= l->page->limit)
        return;
    paging_next(l->out);
    add_version(l->out, v);
}

enum exchange_result versions_api_list(struct exchange *x)
{
    struct err err = {0};
    struct paging page;
    struct buf json = {0};
    if (paging_parse(&page, x->req, &err) < 0)
        return exchange_fail(x, &err);
    struct listing l = {.out = &json, .page = &page, .is_reached = !page.after[0]};
    paging_open_list(&json);
    if (adapters_each_version(x->server->parts.adapters, x->caller.tenant, x->match->args[0],
                              list_one, &l, &err) < 0) {
        buf_free(&json);
        return exchange_fail(x, &err);
    }
    paging_close_list(&json, l.n > page.limit);
    return exchange_reply_json(x, 200, &json);
}
