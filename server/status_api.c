/* How the daemon is. */
#include "server/status_api.h"

#include "server/metrics_text.h"
#include "server/server.h"

enum exchange_result status_api_health(struct exchange *x)
{
    struct buf json = {0};
    buf_add_str(&json, "{\"status\":\"ok\"}");
    return exchange_reply_json(x, 200, &json);
}

enum exchange_result status_api_ready(struct exchange *x)
{
    bool is_ready = x->server->state == SERVER_READY;
    struct buf json = {0};
    buf_printf(&json, "{\"status\":\"%s\"}", is_ready ? "ready" : "draining");
    return exchange_reply_json(x, is_ready ? 200 : 503, &json);
}

enum exchange_result status_api_version(struct exchange *x)
{
    struct buf json = {0};
    buf_printf(&json, "{\"version\":\"%s\"}", PREFIXD_VERSION);
    return exchange_reply_json(x, 200, &json);
}

enum exchange_result status_api_metrics(struct exchange *x)
{
    struct buf text = {0};
    metrics_refresh(x->server);
    metrics_forget_removed(x->server);
    metrics_text_render(x->server->shared->metrics, x->server->base_name, &text);
    return exchange_reply(x, 200, "text/plain; version=0.0.4; charset=utf-8", &text);
}
