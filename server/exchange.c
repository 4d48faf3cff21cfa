/* The stations of a request, its replies, and its end.
 *
 * Thread: loop. */
#include "server/exchange.h"

#include "core/base/check.h"
#include "core/base/clock.h"
#include "core/base/log.h"
#include "core/base/mem.h"
#include "server/admit.h"
#include "server/bridge.h"
#include "server/completion.h"
#include "server/generation.h"
#include "server/http.h"
#include "server/metrics.h"
#include "server/routes.h"
#include "server/running.h"
#include "server/server.h"
#include "server/sse.h"
#include "server/usage.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MIN_UPLOAD_RATE = 64 * 1024 }; /* bytes a second, beyond the time of any body */

/* ---- stations ------------------------------------------------------------------------ */

static struct running *table_of(const struct exchange *x)
{
    return &x->server->shared->running[x->server->place];
}

/* From here on others may see it. */
static void note_running(struct exchange *x)
{
    struct running_request r = {.n = {.tenant = exchange_tenant(x),
                                      .start_us = x->start_us,
                                      .station = x->station}};
    snprintf(r.texts.id, sizeof r.texts.id, "%s", x->request_id);
    snprintf(r.texts.tenant_name, sizeof r.texts.tenant_name, "%s",
             exchange_tenant_name(x));
    x->running = running_begin(table_of(x), &r);
}

static enum exchange_result ex_admit(struct exchange *x)
{
    enum exchange_result got = admit_run(x);
    if (got != EXCHANGE_MORE)
        return got;
    note_running(x);
    server_heed_quarantine(x->server);
    return got;
}

static enum exchange_result ex_receive(struct exchange *x)
{
    return x->is_received ? EXCHANGE_MORE : EXCHANGE_WAIT;
}

static enum exchange_result ex_parse(struct exchange *x)
{
    struct err err = {0};
    if (admit_check_state(x, &err) < 0) /* it may have waited long for its body */
        return exchange_fail(x, &err);
    enum exchange_result got = x->match->route->handle(x);
    if (x->req)
        http_drop_body(x->req); /* who wants more of it has a copy, or has kept it */
    return got;
}

static enum exchange_result ex_tokenize(struct exchange *x)
{
    return generation_tokenize(x);
}

static enum exchange_result ex_adapt(struct exchange *x)
{
    return generation_adapt(x);
}

static enum exchange_result ex_post(struct exchange *x)
{
    return generation_post(x);
}

static enum exchange_result ex_stream(struct exchange *x)
{
    return generation_answer(x);
}

static enum exchange_result ex_change(struct exchange *x)
{
    (void)x; /* its end answers */
    return EXCHANGE_WAIT;
}

static enum exchange_result ex_registry(struct exchange *x)
{
    (void)x;
    return EXCHANGE_WAIT;
}

static enum exchange_result ex_finish(struct exchange *x)
{
    (void)x; /* what is left happens when all sides have let go */
    return EXCHANGE_WAIT;
}

void exchange_run(struct exchange *x)
{
    static enum exchange_result (*const stations[])(struct exchange *) = {
#define XX(name, doing) ex_##name,
        EXCHANGE_STATIONS(XX)
#undef XX
    };
    CHECK_ON_THREAD(x->server->owner);
    for (;;) {
        if (exchange_is_over(x))
            x->station = EXCHANGE_finish;
        running_set_station(x->running, x->station);
        enum exchange_result got = stations[x->station](x);
        if (got == EXCHANGE_WAIT)
            return;
        x->station = got == EXCHANGE_DONE ? EXCHANGE_finish : x->station + 1;
    }
}

enum exchange_result exchange_begin_work(struct exchange *x, enum exchange_station station)
{
    CHECK(station == EXCHANGE_change || station == EXCHANGE_registry);
    x->is_work_live = true;
    x->station = station;
    running_set_station(x->running, station);
    return EXCHANGE_WAIT;
}

static void end_extra(struct exchange *x)
{
    if (x->fini_extra)
        x->fini_extra(x);
    x->fini_extra = NULL;
}

/* A client that reads slowly has the time of read_grace_ms from now on. */
void exchange_end_work(struct exchange *x)
{
    CHECK(x->is_work_live && exchange_is_over(x));
    end_extra(x);
    x->is_work_live = false;
    x->on_late = NULL;
    x->deadline_us = clock_us();
    exchange_run(x);
    exchange_release(x);
}

/* ---- life ---------------------------------------------------------------------------- */

struct exchange *exchange_of(void *p)
{
    struct exchange *x = p;
    CHECK(x && x->magic == EXCHANGE_MAGIC);
    return x;
}

struct exchange *exchange_new(struct server *s, struct http_req *req)
{
    struct exchange *x = xcalloc(1, sizeof *x);
    x->magic = EXCHANGE_MAGIC;
    x->server = s;
    x->req = req;
    x->method = arena_strdup(&x->arena, http_method(req));
    x->path = arena_strdup(&x->arena, http_path(req));
    x->start_us = clock_us();
    x->deadline_us = x->start_us + s->cfg->deadline_ms * 1000;
    server_add(s, x);
    return x;
}

void exchange_received(struct exchange *x)
{
    x->is_received = true;
    exchange_run(x);
}

void exchange_gone(struct exchange *x)
{
    atomic_store(&x->is_gone, true);
    bridge_cancel(x);
}

int64_t exchange_tenant(const struct exchange *x)
{
    return x->caller.tenant;
}

const char *exchange_tenant_name(const struct exchange *x)
{
    return x->caller.tenant_name;
}

bool exchange_is_over(const struct exchange *x)
{
    return x->is_answered || !x->req;
}

/* Whoever watches the daemon asks all the time, and is counted. */
static bool is_probe(const struct exchange *x)
{
    return x->match && x->match->route && x->match->route->is_open && x->is_whole &&
           x->status == 200;
}

static enum log_level level_of(const struct exchange *x)
{
    if (x->err.code == ERR_INTERNAL || x->err.code == ERR_IO)
        return LOG_ERROR;
    return is_probe(x) ? LOG_DEBUG : LOG_INFO;
}

/* One line per request; the path is the client's, and log_write escapes it. */
static void log_end(const struct exchange *x)
{
    const struct generation *g = x->gen;
    char more[400] = "";
    if (g)
        snprintf(
            more, sizeof more,
            " tenant=%s model=%.80s adapter=%s version=%.12s prompt_tokens=%d generated_tokens=%d "
            "ttft_ms=%.1f",
            x->caller.tenant_name,
            g->req.model && g->req.model[0] ? g->req.model : x->server->base_name,
            g->adapter ? g->adapter : "-",
            g->version ? adapter_version_digest(g->version) : "-", g->usage.prompt_tokens,
            g->usage.completion_tokens, (double)g->ttft_us / 1e3);
    int status = x->is_whole ? x->status : err_http_status(ERR_CANCELLED);
    log_write(level_of(x), "stream", x->request_id, "%s %.200s %d ms=%.1f%s%s%s",
              x->method, x->path, status, (double)(clock_us() - x->start_us) / 1e3, more,
              x->err.code ? " error=" : "", x->err.code ? x->err.msg : "");
}

static void free_now(struct exchange *x)
{
    log_end(x);
    metrics_add_exchange(&x->server->metrics, x);
    running_end(table_of(x), x->running);
    usage_add_exchange(x->server->usage, x, true);
    server_remove(x->server, x);
    end_extra(x);
    generation_fini(x);
    arena_free(&x->arena);
    x->magic = 0;
    free(x);
}

void exchange_release(struct exchange *x)
{
    if (!x->req && !x->is_job_live && !x->is_work_live && !x->is_touched)
        free_now(x);
}

void exchange_http_done(struct exchange *x, bool is_whole)
{
    x->is_whole = is_whole;
    atomic_store(&x->is_gone, true);
    x->req = NULL;
    bridge_cancel(x);
    exchange_release(x);
}

/* ---- bodies that do not come to an end ----------------------------------------------- */

static void set_late(const struct exchange *x, struct err *err)
{
    err_set(err, ERR_DEADLINE, "The request took longer than %lld ms",
            (long long)x->server->cfg->deadline_ms);
}

/* The answer comes before the body is here; the connection ends with it. */
static void end_body(struct exchange *x, const struct err *err)
{
    if (!exchange_is_over(x))
        exchange_fail(x, err);
    if (x->req)
        http_cut_body(x->req);
}

void exchange_refuse_body(struct exchange *x)
{
    struct err err = {0};
    if (http_check_body(x->req, &err) == 0)
        err_set(&err, ERR_TOO_LARGE, "The body is much larger than what is accepted");
    end_body(x, &err);
}

/* A small body has its time; a large one has to come at a rate besides. */
static int64_t body_limit_us(const struct exchange *x)
{
    int64_t limit = x->start_us + x->server->cfg->body_timeout_ms * 1000;
    bool is_upload = x->match->route && x->match->route->body == ROUTE_UPLOAD;
    if (is_upload)
        limit += (int64_t)(http_body_received(x->req) * 1000000 / MIN_UPLOAD_RATE);
    return limit;
}

static void check_body(struct exchange *x, int64_t now_us)
{
    struct err err = {0};
    if (now_us > x->deadline_us)
        set_late(x, &err);
    else if (now_us > body_limit_us(x))
        err_set(&err, ERR_BODY_TIMEOUT, "The body did not come in time");
    if (err.code)
        end_body(x, &err);
}

/* Who reads too slowly does not hold its answer for ever. */
static void check_reader(struct exchange *x, int64_t now_us)
{
    if (x->is_received && x->is_answered && x->req &&
        now_us - x->server->read_grace_ms * 1000LL > x->deadline_us)
        http_end(x->req);
}

void exchange_tick(struct exchange *x, int64_t now_us)
{
    struct err err = {0};
    check_reader(x, now_us);
    if (!x->is_received && x->req)
        check_body(x, now_us);
    if (!x->is_received || exchange_is_over(x))
        return;
    if (now_us > x->deadline_us) {
        set_late(x, &err);
        bridge_cancel(x);
        exchange_fail(x, &err);
        if (x->on_late)
            x->on_late(x);
        return;
    }
    usage_add_exchange(x->server->usage, x, false);
    if (x->station == EXCHANGE_stream)
        generation_tick(x, now_us);
}

/* ---- replies ------------------------------------------------------------------------- */

static void add_retry_after(struct exchange *x)
{
    char seconds[16];
    snprintf(seconds, sizeof seconds, "%d", x->retry_after_s > 0 ? x->retry_after_s : 1);
    http_add_header(x->req, "Retry-After", seconds);
}

static void add_common_headers(struct exchange *x, int status)
{
    struct server *s = x->server;
    char worker[16];
    snprintf(worker, sizeof worker, "%d", (int)getpid());
    http_add_header(x->req, "X-Request-Id", x->request_id);
    http_add_header(x->req, "X-Prefixd-Worker", worker);
    if (s->cfg->cors_origin[0]) {
        http_add_header(x->req, "Access-Control-Allow-Origin", s->cfg->cors_origin);
        http_add_header(x->req, "Access-Control-Expose-Headers", "X-Request-Id, ETag");
        http_add_header(x->req, "Vary", "Origin");
    }
    if (server_is_draining(s))
        http_add_header(x->req, "Connection", "close");
    if (status == 401)
        http_add_header(x->req, "WWW-Authenticate", "Bearer");
    if (status == 405)
        http_add_header(x->req, "Allow", x->match->allow);
    if (x->caller.tenant && x->match->route &&
        (x->match->route->is_completion || status == 429))
        limits_add_headers(x);
    if (status == 429 || status == 503)
        add_retry_after(x);
}

enum exchange_result exchange_reply(struct exchange *x, int status, const char *type,
                                    struct buf *body)
{
    if (exchange_is_over(x)) {
        buf_free(body);
        return EXCHANGE_DONE;
    }
    x->status = status;
    x->is_answered = true;
    add_common_headers(x, status);
    http_reply(x->req, status, type, body);
    return EXCHANGE_DONE;
}

enum exchange_result exchange_reply_json(struct exchange *x, int status,
                                         struct buf *body)
{
    buf_add_char(body, '\n'); /* answers shown one after the other are a line each */
    return exchange_reply(x, status, "application/json", body);
}

enum exchange_result exchange_reply_fd(struct exchange *x, int fd)
{
    struct stat st;
    struct err err = {0};
    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) {
        close(fd);
        err_set(&err, ERR_IO, "The file cannot be read");
        return exchange_fail(x, &err);
    }
    x->status = 200;
    x->is_answered = true;
    add_common_headers(x, 200);
    http_reply_fd(x->req, 200, "application/octet-stream", fd, (uint64_t)st.st_size);
    return EXCHANGE_DONE;
}

void exchange_begin_stream(struct exchange *x)
{
    CHECK(!exchange_is_over(x) && !x->is_streaming);
    x->status = 200;
    x->is_streaming = true;
    add_common_headers(x, 200);
    http_add_header(x->req, "Cache-Control", "no-cache");
    http_add_header(x->req, "X-Accel-Buffering", "no"); /* nginx would collect the events */
    http_stream_begin(x->req, 200, "text/event-stream; charset=utf-8");
}

void exchange_add_stream(struct exchange *x, const struct buf *events)
{
    if (!exchange_is_over(x))
        http_stream_add(x->req, events->data, events->len);
}

enum exchange_result exchange_end_stream(struct exchange *x)
{
    if (exchange_is_over(x))
        return EXCHANGE_DONE;
    struct buf out = {0};
    sse_add_done(&out);
    http_stream_add(x->req, out.data, out.len);
    http_stream_end(x->req);
    buf_free(&out);
    x->is_answered = true;
    return EXCHANGE_DONE;
}

static enum exchange_result fail_stream(struct exchange *x, const struct buf *json)
{
    struct buf out = {0};
    sse_add_error(&out, json->data, json->len);
    exchange_add_stream(x, &out);
    buf_free(&out);
    return exchange_end_stream(x);
}

enum exchange_result exchange_fail(struct exchange *x, const struct err *err)
{
    struct buf json = {0};
    if (exchange_is_over(x))
        return EXCHANGE_DONE;
    x->err = *err;
    completion_render_error(&json, err, x->request_id);
    if (!x->is_streaming)
        return exchange_reply_json(x, err_http_status(err->code), &json);
    fail_stream(x, &json);
    buf_free(&json);
    return EXCHANGE_DONE;
}
