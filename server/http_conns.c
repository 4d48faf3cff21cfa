/* The connections, and which of them their clients have left.
 *
 * A connection that is suspended is in no epoll set of the library's, so that its end is not
 * heard. All are in one of our own, for their ends alone: looking costs what ended, not what
 * is open. */
#include "server/http_parts.h"

#include "core/base/check.h"
#include "core/base/clock.h"
#include "core/base/mem.h"
#include "server/exchange.h"

#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    GONE_AT_ONCE = 256,
    LINGER_US = 2000000, /* how long a client may take to read an answer to half a body */
};

int http_conns_init(struct http *h)
{
    h->gone_fd = epoll_create1(EPOLL_CLOEXEC);
    return h->gone_fd < 0 ? -1 : 0;
}

void http_conns_fini(struct http *h)
{
    CHECK(!h->conns);
    if (h->gone_fd >= 0)
        close(h->gone_fd);
}

/* EPOLLRDHUP is seen even behind bytes of a next request. It goes with the descriptor. Who
 * could not be seen to go is not served. */
static void watch_end(struct http_conn *c)
{
    struct epoll_event ev = {.events = EPOLLRDHUP, .data.ptr = c};
    if (epoll_ctl(c->http->gone_fd, EPOLL_CTL_ADD, c->fd, &ev) < 0)
        shutdown(c->fd, SHUT_RDWR);
}

struct http_conn *http_conns_add(struct http *h, int fd)
{
    struct http_conn *c = xcalloc(1, sizeof *c);
    c->http = h;
    c->fd = fd;
    c->next = h->conns;
    if (c->next)
        c->next->prev = c;
    h->conns = c;
    watch_end(c);
    return c;
}

void http_conns_remove(struct http_conn *c)
{
    struct http *h = c->http;
    CHECK(!c->req);
    if (c->next)
        c->next->prev = c->prev;
    if (c->prev)
        c->prev->next = c->next;
    else
        h->conns = c->next;
    free(c);
}

/* ---- those that are gone ------------------------------------------------------------- */

/* A whole reply on its way is the library's business. */
static bool is_watched(const struct http_conn *c)
{
    const struct http_req *r = c->req;
    if (!r)
        return !c->is_shut;
    return !r->is_gone && (!r->is_received || r->is_suspended || r->is_streaming);
}

/* The end of a connection may come in one edge with the last bytes read from it, and then
 * the library does not hear of it. What it is still reading is shut down here, which is
 * heard. */
static void end_reading(struct http_conn *c)
{
    char byte;
    if (recv(c->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) > 0)
        return; /* there is more to read */
    c->is_shut = true;
    if (c->req)
        c->req->is_gone = true;
    shutdown(c->fd, SHUT_RDWR);
}

static void end_gone(struct http_conn *c)
{
    struct http_req *r = c->req;
    if (!r || !r->is_received) {
        end_reading(c);
        return;
    }
    r->is_gone = true;
    exchange_gone(r->exchange);
    http_resume(r);
}

/* Who was answered in the middle of a body and goes on sending. */
static void end_lingering(struct http *h)
{
    int64_t now = clock_us();
    for (struct http_conn *c = h->conns; c; c = c->next)
        if (c->req && c->req->cut_us && now - c->req->cut_us > LINGER_US)
            shutdown(c->fd, SHUT_RDWR);
}

/* What was seen and is not watched, or has not ended yet, is seen again, behind the others. */
void http_conns_find_gone(struct http *h)
{
    struct epoll_event seen[GONE_AT_ONCE];
    end_lingering(h);
    int n = epoll_wait(h->gone_fd, seen, GONE_AT_ONCE, 0);
    for (int i = 0; i < n; i++) {
        struct http_conn *c = seen[i].data.ptr;
        if (is_watched(c))
            end_gone(c);
    }
}
