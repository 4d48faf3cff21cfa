/* The running requests of all workers. */
#include "server/requests_api.h"

#include "core/base/clock.h"
#include "core/base/json_out.h"
#include "server/paging.h"
#include "server/running.h"
#include "server/server.h"
#include "server/shared.h"

#include <string.h>

struct listing {
    struct buf *out;
    const struct exchange *asker; /* of whom nobody wants to hear */
    int pid;
    int64_t now_us;
};

static const char *station_name(int station)
{
    static const char *const names[] = {
#define XX(name, doing) doing,
        EXCHANGE_STATIONS(XX)
#undef XX
    };
    int n = sizeof names / sizeof *names;
    return station >= 0 && station < n ? names[station] : names[0];
}

static void add_text(struct buf *out, const char *name, const char *value)
{
    buf_printf(out, ",\"%s\":", name);
    json_out_str(out, value[0] ? value : NULL);
}

static bool is_asker(const struct listing *l, const struct running_request *r)
{
    return r->n.start_us == l->asker->start_us &&
           strcmp(r->texts.id, l->asker->request_id) == 0;
}

static void list_one(const struct running_request *r, void *ud)
{
    struct listing *l = ud;
    if (is_asker(l, r))
        return;
    double age_us = (double)(l->now_us - r->n.start_us);
    paging_next(l->out);
    buf_add_str(l->out, "{\"object\":\"request\"");
    add_text(l->out, "id", r->texts.id);
    buf_printf(l->out, ",\"worker\":%d", l->pid);
    add_text(l->out, "tenant", r->texts.tenant_name);
    add_text(l->out, "adapter", r->texts.adapter);
    add_text(l->out, "version", r->texts.version);
    add_text(l->out, "station", station_name(r->n.station));
    buf_printf(l->out, ",\"age_ms\":%.1f", age_us > 0 ? age_us / 1e3 : 0.0);
    buf_printf(l->out,
               ",\"prompt_tokens\":%d,\"virtual_tokens\":%d,\"generated_tokens\":%d}",
               r->n.prompt_tokens, r->n.virtual_tokens, r->n.generated_tokens);
}

enum exchange_result requests_api_list(struct exchange *x)
{
    const struct shared *sh = x->server->shared;
    struct buf json = {0};
    struct listing l = {.out = &json, .asker = x, .now_us = clock_us()};
    paging_open_list(&json);
    for (int i = 0; i < sh->n_workers; i++) {
        l.pid = sh->running[i].pid;
        running_each(&sh->running[i], list_one, &l);
    }
    buf_add_str(&json, "]}");
    return exchange_reply_json(x, 200, &json);
}
