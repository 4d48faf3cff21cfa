/* What the files behind http.h share. The library is known in them alone.
 *
 * Thread: loop. */
#ifndef PREFIXD_HTTP_PARTS_H
#define PREFIXD_HTTP_PARTS_H

#include "core/base/buf.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct MHD_Connection;
struct MHD_Daemon;
struct MHD_Response;
struct exchange;
struct server;
struct upload;

struct http {
    struct MHD_Daemon *daemon;
    struct server *server;
    struct http_conn *conns; /* all that are open */
    int gone_fd; /* epoll, of the ends of clients alone */
    int idle_timeout_s;
};

struct http_conn {
    struct http *http;
    struct http_conn *prev, *next;
    struct http_req *req; /* NULL: none, or its headers are not complete */
    int fd;
    bool is_shut;
};

struct http_req {
    unsigned magic;
    struct http *http;
    struct MHD_Connection *conn;
    struct http_conn *home;
    struct exchange *exchange;
    const char *method, *version;
    char *path;
    /* the body */
    struct upload *body; /* NULL until accepted, and after it was kept */
    uint64_t received, dropped;
    bool is_received;
    bool is_refused;  /* to be answered before the body is here */
    struct buf early; /* a reply that came before the body was here, as it goes to the wire */
    int64_t cut_us;   /* when early was sent beside the library; 0: it was not */
    bool is_told;     /* and all of it could be sent */
    /* the answer */
    struct buf headers; /* name, NUL, value, NUL, and so on */
    struct MHD_Response *response;
    int status;
    struct buf out;
    size_t out_pos;
    bool is_queued, is_suspended, is_streaming, is_ended, is_gone;
};

/* Nothing happens if it is not suspended. */
void http_resume(struct http_req *r);

/* In place; the new length. In http_path.c. */
size_t http_path_decode(char *s);

/* ---- connections, in http_conns.c ---------------------------------------------------- */

int http_conns_init(struct http *h); /* -1: no descriptor is left */
void http_conns_fini(struct http *h);
struct http_conn *http_conns_add(struct http *h, int fd);
void http_conns_remove(struct http_conn *c);

/* Ends what clients left, and who was answered in the middle of a body and goes on sending. */
void http_conns_find_gone(struct http *h);

#endif
