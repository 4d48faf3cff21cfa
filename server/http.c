/* Requests and replies over libmicrohttpd, driven from the loop.
 *
 * Thread: loop. A connection that has nothing to read or write is suspended: a content
 * reader that gave 0 without suspending would be called again and again. Whoever adds bytes
 * or a reply resumes it. */
#include "server/http.h"

#include "core/base/check.h"
#include "core/base/clock.h"
#include "core/base/log.h"
#include "core/base/mem.h"
#include "server/exchange.h"
#include "server/http_parts.h"
#include "server/upload.h"

#include <microhttpd.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    HTTP_MAGIC = 0x68747470,
    STREAM_BLOCK = 128, /* the library's own, which chunks do not pass through */
    MAX_SENT_KEPT = 64 * 1024, /* bytes sent already that stay in front of those to be sent */
};

/* A body that is refused is still read up to this many bytes, so that the client sees the
 * answer and not a reset connection. */
static const uint64_t drop_limit = 64u << 20;

/* ---- suspending ---------------------------------------------------------------------- */

static void suspend(struct http_req *r)
{
    CHECK(!r->is_suspended);
    r->is_suspended = true;
    MHD_suspend_connection(r->conn);
}

void http_resume(struct http_req *r)
{
    if (!r->is_suspended)
        return;
    r->is_suspended = false;
    MHD_resume_connection(r->conn);
}

/* ---- life of a request --------------------------------------------------------------- */

/* A proxy's way to ask: the whole address in place of the path. */
static const char *path_of(const char *target)
{
    if (strncasecmp(target, "http://", 7) != 0)
        return target;
    const char *path = strchr(target + 7, '/');
    return path ? path : "/";
}

static struct http_req *req_new(struct http *h, struct MHD_Connection *conn,
                                const char *path, const char *method, const char *version)
{
    struct http_req *r = xcalloc(1, sizeof *r);
    r->magic = HTTP_MAGIC;
    r->http = h;
    r->conn = conn;
    r->home =
        MHD_get_connection_info(conn, MHD_CONNECTION_INFO_SOCKET_CONTEXT)->socket_context;
    r->path = xstrdup(path_of(path));
    r->method = method;
    r->version = version;
    CHECK(r->home && !r->home->req);
    r->home->req = r;
    return r;
}

static void req_free(struct http_req *r)
{
    r->home->req = NULL;
    if (r->response)
        MHD_destroy_response(r->response);
    upload_free(r->body);
    buf_free(&r->headers);
    buf_free(&r->out);
    buf_free(&r->early);
    free(r->path);
    free(r);
}

static struct http_req *req_of(void *cls)
{
    struct http_req *r = cls;
    CHECK(r && r->magic == HTTP_MAGIC);
    return r;
}

const char *http_method(const struct http_req *r)
{
    return r->method;
}

const char *http_path(const struct http_req *r)
{
    return r->path;
}

bool http_is_1_0(const struct http_req *r)
{
    return strcmp(r->version, MHD_HTTP_VERSION_1_0) == 0;
}

const char *http_header(const struct http_req *r, const char *name)
{
    return MHD_lookup_connection_value(r->conn, MHD_HEADER_KIND, name);
}

const char *http_query(const struct http_req *r, const char *name)
{
    const char *value = NULL;
    bool is_there = MHD_lookup_connection_value_n(r->conn, MHD_GET_ARGUMENT_KIND, name,
                                                  strlen(name), &value, NULL) == MHD_YES;
    return is_there && !value ? "" : value;
}

struct compared {
    const char *name, *first;
    bool is_two;
};

static enum MHD_Result compare_value(void *cls, enum MHD_ValueKind kind, const char *name,
                                     const char *value)
{
    struct compared *c = cls;
    (void)kind;
    if (!value || strcasecmp(name, c->name) != 0)
        return MHD_YES;
    if (c->first && strcmp(c->first, value) != 0)
        c->is_two = true;
    c->first = value;
    return MHD_YES;
}

bool http_has_two_values(const struct http_req *r, const char *name)
{
    struct compared c = {.name = name};
    MHD_get_connection_values(r->conn, MHD_HEADER_KIND, compare_value, &c);
    return c.is_two;
}

/* ---- the body ------------------------------------------------------------------------ */

int http_accept_body(struct http_req *r, struct upload_opts *opts, struct err *err)
{
    CHECK(!r->body && !r->is_received);
    opts->connection = r->conn;
    r->body = upload_new(opts, err);
    return r->body ? 0 : -1;
}

const struct upload *http_body(const struct http_req *r)
{
    CHECK(r->body && r->is_received);
    return r->body;
}

struct upload *http_keep_body(struct http_req *r)
{
    struct upload *body = r->body;
    CHECK(body && r->is_received);
    r->body = NULL;
    return body;
}

void http_drop_body(struct http_req *r)
{
    upload_free(r->body);
    r->body = NULL;
}

int http_check_body(const struct http_req *r, struct err *err)
{
    return r->body ? upload_check(r->body, err) : 0;
}

size_t http_body_received(const struct http_req *r)
{
    return r->received;
}

void http_refuse_body(struct http_req *r)
{
    http_add_header(r, MHD_HTTP_HEADER_CONNECTION, "close");
    r->is_refused = true;
}

/* The library takes no answer in the middle of a body, so this one is written beside it.
 * What the client still sends is read and dropped for a while: a reset would take the
 * answer away from it. */
void http_cut_body(struct http_req *r)
{
    if (r->is_queued || r->cut_us)
        return;
    CHECK(r->early.len > 0);
    ssize_t n =
        send(r->home->fd, r->early.data, r->early.len, MSG_NOSIGNAL | MSG_DONTWAIT);
    r->is_told = n >= 0 && (size_t)n == r->early.len;
    r->cut_us = clock_us();
    shutdown(r->home->fd, SHUT_WR);
    http_drop_body(r);
}

/* False when the client sends so much of a refused body that the connection has to be cut.
 */
static bool receive(struct http_req *r, const char *bytes, size_t len)
{
    r->received += len;
    if (r->body && !r->response && !upload_is_refused(r->body))
        upload_add(r->body, bytes, len);
    else
        r->dropped += len;
    if (r->dropped > drop_limit && !r->cut_us)
        exchange_refuse_body(r->exchange);
    return r->dropped <= 2 * drop_limit;
}

/* ---- the answer ---------------------------------------------------------------------- */

void http_add_header(struct http_req *r, const char *name, const char *value)
{
    CHECK(!r->response);
    buf_add(&r->headers, name, strlen(name) + 1);
    buf_add(&r->headers, value, strlen(value) + 1);
}

/* From *at, 0 before the first; NULL after the last. */
static const char *next_header(const struct http_req *r, size_t *at, const char **value)
{
    if (*at == r->headers.len)
        return NULL;
    const char *name = r->headers.data + *at;
    *value = name + strlen(name) + 1;
    *at = (size_t)(*value + strlen(*value) + 1 - r->headers.data);
    return name;
}

static void set_response(struct http_req *r, int status, const char *type,
                         struct MHD_Response *resp)
{
    CHECK(resp && !r->response && !r->is_queued);
    r->response = resp;
    r->status = status;
    if (type)
        MHD_add_response_header(resp, MHD_HTTP_HEADER_CONTENT_TYPE, type);
    const char *name, *value;
    size_t at = 0;
    while ((name = next_header(r, &at, &value)))
        MHD_add_response_header(resp, name, value);
    buf_free(&r->headers);
    http_resume(r);
}

static void prepare_early(struct http_req *r, int status, const char *type,
                          const struct buf *body)
{
    struct buf *b = &r->early;
    buf_printf(b, "HTTP/1.1 %d %s\r\nConnection: close\r\nContent-Length: %zu\r\n", status,
               MHD_get_reason_phrase_for((unsigned)status), body->len);
    if (type)
        buf_printf(b, "Content-Type: %s\r\n", type);
    const char *name, *value;
    size_t at = 0;
    while ((name = next_header(r, &at, &value)))
        if (strcasecmp(name, MHD_HTTP_HEADER_CONNECTION) != 0)
            buf_printf(b, "%s: %s\r\n", name, value);
    buf_add_str(b, "\r\n");
    buf_add(b, body->data, body->len);
}

void http_reply(struct http_req *r, int status, const char *type, struct buf *body)
{
    size_t len = 0;
    if (!r->is_received)
        prepare_early(r, status, type, body);
    char *bytes = buf_take(body, &len);
    set_response(r, status, type,
                 MHD_create_response_from_buffer(len, bytes, MHD_RESPMEM_MUST_FREE));
}

void http_reply_fd(struct http_req *r, int status, const char *type, int fd, uint64_t size)
{
    set_response(r, status, type, MHD_create_response_from_fd64(size, fd));
}

static void compact(struct http_req *r)
{
    if (r->out_pos < r->out.len && r->out_pos < MAX_SENT_KEPT)
        return;
    memmove(r->out.data, r->out.data + r->out_pos, r->out.len - r->out_pos);
    r->out.len -= r->out_pos;
    r->out_pos = 0;
}

static ssize_t read_stream(void *cls, uint64_t pos, char *dst, size_t max)
{
    struct http_req *r = req_of(cls);
    (void)pos;
    if (r->is_gone)
        return MHD_CONTENT_READER_END_WITH_ERROR;
    size_t n = r->out.len - r->out_pos;
    if (n == 0 && r->is_ended)
        return MHD_CONTENT_READER_END_OF_STREAM;
    if (n == 0) {
        suspend(r);
        return 0;
    }
    n = n < max ? n : max;
    memcpy(dst, r->out.data + r->out_pos, n);
    r->out_pos += n;
    compact(r);
    return (ssize_t)n;
}

void http_stream_begin(struct http_req *r, int status, const char *type)
{
    r->is_streaming = true;
    set_response(r, status, type,
                 MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, STREAM_BLOCK,
                                                   read_stream, r, NULL));
}

void http_stream_add(struct http_req *r, const void *bytes, size_t len)
{
    CHECK(r->is_streaming && !r->is_ended);
    buf_add(&r->out, bytes, len);
    if (len)
        http_resume(r);
}

void http_stream_end(struct http_req *r)
{
    CHECK(r->is_streaming && !r->is_ended);
    r->is_ended = true;
    http_resume(r);
}

/* The library hears of it from the socket. */
void http_end(struct http_req *r)
{
    if (r->is_gone)
        return;
    r->is_gone = true;
    shutdown(r->home->fd, SHUT_RDWR);
    http_resume(r);
}

size_t http_stream_unsent(const struct http_req *r)
{
    return r->out.len - r->out_pos;
}

static void set_timeout(struct http_req *r, int s)
{
    MHD_set_connection_option(r->conn, MHD_CONNECTION_OPTION_TIMEOUT, (unsigned)s);
}

static enum MHD_Result queue(struct http_req *r)
{
    struct MHD_Response *resp = r->response;
    enum MHD_Result ret = MHD_queue_response(r->conn, (unsigned)r->status, resp);
    r->is_queued = true;
    r->response = NULL;
    MHD_destroy_response(resp);
    set_timeout(r, r->http->idle_timeout_s);
    return ret;
}

/* ---- callbacks of the library -------------------------------------------------------- */

static bool waits_for_word(const struct http_req *r)
{
    const char *expect = http_header(r, MHD_HTTP_HEADER_EXPECT);
    return r->is_refused || (expect && strcasecmp(expect, "100-continue") == 0);
}

static bool is_hopeless(const struct http_req *r)
{
    const char *length = http_header(r, MHD_HTTP_HEADER_CONTENT_LENGTH);
    return length && strtoull(length, NULL, 10) > drop_limit;
}

/* A refusal known from the headers is sent at once, and the connection closed, only if the
 * client waits for a word before it sends the body or means to send more than we would
 * drop. */
static enum MHD_Result on_headers(struct http_req *r)
{
    r->exchange = exchange_new(r->http->server, r);
    exchange_run(r->exchange);
    set_timeout(r, 0); /* how long a body may take is the exchange's to judge */
    if (r->response && waits_for_word(r))
        return queue(r);
    if (r->response && is_hopeless(r))
        http_cut_body(r);
    return MHD_YES;
}

static enum MHD_Result on_complete_request(struct http_req *r)
{
    if (r->cut_us)
        return MHD_NO;
    if (!r->is_received) {
        r->is_received = true;
        set_timeout(r, r->http->idle_timeout_s);
        if (r->body)
            upload_end(r->body);
        exchange_received(r->exchange);
    }
    if (r->is_gone)
        return MHD_NO;
    if (r->response)
        return queue(r);
    suspend(r);
    return MHD_YES;
}

static enum MHD_Result on_request(void *cls, struct MHD_Connection *conn, const char *url,
                                  const char *method, const char *version,
                                  const char *upload, size_t *upload_len, void **req_cls)
{
    if (!*req_cls) {
        struct http_req *r = req_new(cls, conn, url, method, version);
        *req_cls = r;
        return on_headers(r);
    }
    struct http_req *r = req_of(*req_cls);
    if (*upload_len == 0)
        return on_complete_request(r);
    bool is_fine = receive(r, upload, *upload_len);
    *upload_len = 0;
    return is_fine ? MHD_YES : MHD_NO;
}

static void on_completed(void *cls, struct MHD_Connection *conn, void **req_cls,
                         enum MHD_RequestTerminationCode code)
{
    (void)cls, (void)conn;
    if (!*req_cls)
        return;
    struct http_req *r = req_of(*req_cls);
    *req_cls = NULL;
    bool is_whole =
        r->cut_us ? r->is_told
                  : code == MHD_REQUEST_TERMINATED_COMPLETED_OK && !r->is_gone;
    exchange_http_done(r->exchange, is_whole);
    req_free(r);
}

static int socket_of(struct MHD_Connection *conn)
{
    return MHD_get_connection_info(conn, MHD_CONNECTION_INFO_CONNECTION_FD)->connect_fd;
}

static void on_connection(void *cls, struct MHD_Connection *conn, void **context,
                          enum MHD_ConnectionNotificationCode code)
{
    if (code == MHD_CONNECTION_NOTIFY_STARTED)
        *context = http_conns_add(cls, socket_of(conn));
    else if (*context)
        http_conns_remove(*context);
}

static size_t unescape(void *cls, struct MHD_Connection *conn, char *s)
{
    (void)cls, (void)conn;
    return http_path_decode(s);
}

static void on_log(void *cls, const char *fmt, va_list ap)
    __attribute__((format(printf, 2, 0)));
static void on_log(void *cls, const char *fmt, va_list ap)
{
    char text[256];
    (void)cls;
    vsnprintf(text, sizeof text, fmt, ap);
    text[strcspn(text, "\r\n")] = '\0';
    log_debug("receive", "%s", text);
}

/* ---- the daemon ---------------------------------------------------------------------- */

static struct MHD_Daemon *start(struct http *h, const struct http_opts *opts)
{
    /* clang-format off: one option a line. The logger is first, so that it hears all. */
    return MHD_start_daemon(
        MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG, 0, NULL, NULL, on_request, h,
        MHD_OPTION_EXTERNAL_LOGGER, on_log, NULL,
        MHD_OPTION_LISTEN_SOCKET, opts->listen_fd,
        MHD_OPTION_NOTIFY_CONNECTION, on_connection, h,
        MHD_OPTION_NOTIFY_COMPLETED, on_completed, NULL,
        MHD_OPTION_UNESCAPE_CALLBACK, unescape, NULL,
        MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)opts->idle_timeout_s,
        MHD_OPTION_CONNECTION_LIMIT, (unsigned)opts->max_connections,
        MHD_OPTION_CONNECTION_MEMORY_LIMIT, opts->connection_memory,
        MHD_OPTION_SIGPIPE_HANDLED_BY_APP, 1,
        MHD_OPTION_END);
    /* clang-format on */
}

struct http *http_open(const struct http_opts *opts, struct err *err)
{
    struct http *h = xcalloc(1, sizeof *h);
    h->server = opts->server;
    h->idle_timeout_s = opts->idle_timeout_s;
    h->daemon = http_conns_init(h) == 0 ? start(h, opts) : NULL;
    if (h->daemon)
        return h;
    http_free(h);
    err_set(err, ERR_IO, "the HTTP library does not start (max_connections: %d)",
            opts->max_connections);
    return NULL;
}

int http_poll_fd(const struct http *h)
{
    return MHD_get_daemon_info(h->daemon, MHD_DAEMON_INFO_EPOLL_FD)->epoll_fd;
}

int http_timeout_ms(struct http *h)
{
    MHD_UNSIGNED_LONG_LONG ms = 0;
    if (MHD_get_timeout(h->daemon, &ms) != MHD_YES)
        return -1;
    return ms > 60000 ? 60000 : (int)ms;
}

void http_run(struct http *h)
{
    MHD_run(h->daemon);
}

void http_stop_listening(struct http *h)
{
    MHD_socket fd = MHD_quiesce_daemon(h->daemon);
    if (fd != MHD_INVALID_SOCKET)
        close(fd);
}

void http_find_gone(struct http *h)
{
    http_conns_find_gone(h);
}

bool http_has_connections(const struct http *h)
{
    return h->conns != NULL;
}

/* The library wants no suspended connection when it stops. */
void http_close(struct http *h)
{
    for (struct http_conn *c = h->conns; c; c = c->next) {
        if (!c->req)
            continue;
        c->req->is_gone = true;
        http_resume(c->req);
    }
    for (int i = 0; i < 4; i++)
        MHD_run(h->daemon);
    MHD_stop_daemon(h->daemon);
    h->daemon = NULL;
}

void http_free(struct http *h)
{
    if (!h)
        return;
    CHECK(!h->daemon);
    http_conns_fini(h);
    free(h);
}
