/* HTTP as an exchange sees it: a bounded body in, one reply or one stream out. Only http.c
 * knows the library behind it.
 *
 * Thread: loop, all of it. A request is born with its exchange (exchange_new) when its
 * headers are read; exchange_http_done tells the exchange that the request is over and its
 * pointer void.
 *
 * Body: the exchange says what it takes with http_accept_body when it sees the headers;
 * without that the body is read and dropped. exchange_run is called once the body is
 * complete.
 *
 * Answer: either one http_reply*, or http_stream_begin, any number of http_stream_add,
 * http_stream_end. Both may come at once or later; until then the connection is asleep and
 * costs nothing.
 */
#ifndef PREFIXD_HTTP_H
#define PREFIXD_HTTP_H

#include "core/base/buf.h"
#include "core/base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct http;
struct http_req;
struct upload;
struct upload_opts;
struct server;
struct exchange;

struct http_opts {
    int listen_fd; /* listening; owned by http from here on */
    int idle_timeout_s, max_connections;
    size_t connection_memory; /* bytes of a connection, for headers and what is on its way */
    struct server *server;
};

struct http *http_open(const struct http_opts *opts, struct err *err);
void http_stop_listening(struct http *h);

/* Ends every open request; exchange_http_done is called for each. */
void http_close(struct http *h);
void http_free(struct http *h); /* after http_close, when no body is kept any more */

/* For the loop: a descriptor that is readable when http_run has work, and the time after
 * which it must run anyway (-1: never). */
int http_poll_fd(const struct http *h);
int http_timeout_ms(struct http *h);
void http_run(struct http *h);

/* Looks for clients that went away while nothing was being read or written; exchange_gone
 * for each. Wanted regularly while there are connections. */
void http_find_gone(struct http *h);
bool http_has_connections(const struct http *h);

/* ---- what was asked ------------------------------------------------------------------ */

const char *http_method(const struct http_req *r);
const char *http_path(const struct http_req *r); /* percent-decoded, but for %00 and %2F */
bool http_is_1_0(const struct http_req *r);
const char *http_header(const struct http_req *r, const char *name); /* NULL if absent */
const char *http_query(const struct http_req *r, const char *name); /* "" for ?name alone */
bool http_has_two_values(const struct http_req *r, const char *name); /* that differ */

/* ---- the body ------------------------------------------------------------------------ */

/* opts but for the connection, which is filled in. -1: there is no room for it now. */
int http_accept_body(struct http_req *r, struct upload_opts *opts, struct err *err);

/* What was accepted, once it is complete. Lent until the request's end, or, with the
 * second, the caller's own (upload_free), beyond that. */
const struct upload *http_body(const struct http_req *r);
struct upload *http_keep_body(struct http_req *r);

void http_drop_body(struct http_req *r); /* nothing happens if there is none any more */
int http_check_body(const struct http_req *r, struct err *err); /* -1: refused already */
size_t http_body_received(const struct http_req *r); /* bytes so far, kept or not */

/* No more of the body is wanted: the reply is sent at once, and the connection ends with it.
 * The first is for whoever sees the headers, before the reply; the second for later, after
 * the reply. */
void http_refuse_body(struct http_req *r);
void http_cut_body(struct http_req *r);

/* ---- the answer ---------------------------------------------------------------------- */

/* Headers come before the reply, which takes the body or the descriptor. */
void http_add_header(struct http_req *r, const char *name, const char *value);
void http_reply(struct http_req *r, int status, const char *type, struct buf *body);
void http_reply_fd(struct http_req *r, int status, const char *type, int fd, uint64_t size);

void http_stream_begin(struct http_req *r, int status, const char *type);
void http_stream_add(struct http_req *r, const void *bytes, size_t len);
void http_stream_end(struct http_req *r);
void http_end(struct http_req *r); /* cuts the connection, whatever is unsent */
size_t http_stream_unsent(const struct http_req *r);

#endif
