/* One HTTP request and its answer, from headers to the last byte.
 *
 * Thread: loop. An exchange lives until four sides have let go of it: HTTP (req), the
 * engine (is_job_live), the pool or the queue of changes (is_work_live), and the wake-up whose
 * events touched it (is_touched); exchange_release frees it when none is left. Its arena dies
 * with it. Stations follow each other in exchange_run alone, but for a handler's own work:
 * exchange_begin_work takes the exchange out of its station, exchange_end_work to its last.
 */
#ifndef PREFIXD_EXCHANGE_H
#define PREFIXD_EXCHANGE_H

#include "adapters/store_usage.h"
#include "core/base/arena.h"
#include "core/base/buf.h"
#include "core/base/err.h"
#include "server/limits.h"
#include "server/tenants.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define EXCHANGE_STATIONS(XX)                                                              \
    XX(admit, "checking route and key")                                                    \
    XX(receive, "reading the body")                                                        \
    XX(parse, "parsing the request")                                                       \
    XX(tokenize, "tokenizing") /* waits: pool */                                           \
    XX(adapt, "acquiring the adapter") /* waits: load */                                   \
    XX(post, "queueing for the engine") /* waits: the tenant's limits */                   \
    XX(stream, "streaming") /* waits: events */                                            \
    XX(change, "changing an adapter") /* waits: queue of changes; from parse to finish */  \
    XX(registry, "asking the registry") /* waits: pool; from parse to finish */            \
    XX(finish, "closing")

enum exchange_station {
#define XX(name, doing) EXCHANGE_##name,
    EXCHANGE_STATIONS(XX)
#undef XX
};

enum exchange_result {
    EXCHANGE_MORE, /* go on with the next station */
    EXCHANGE_WAIT, /* run this station again when something happened */
    EXCHANGE_DONE, /* answered: on to the end */
};

enum { EXCHANGE_MAGIC = 0x78636867, EXCHANGE_ID_MAX = 128 };

struct server;
struct http_req;
struct route_match;
struct generation;
struct running_entry;

struct exchange {
    unsigned magic;
    struct server *server;
    struct exchange *prev, *next;
    struct exchange *next_touched; /* by the events of one wake-up */
    bool is_touched;

    struct http_req *req; /* NULL once HTTP is done with it */
    bool is_job_live, is_work_live;
    atomic_bool is_gone; /* nobody is there to answer; for work on the pool */

    enum exchange_station station;
    struct route_match *match; /* in the arena, from the station admit on */
    const char *method, *path; /* in the arena */
    bool is_received;
    char request_id[EXCHANGE_ID_MAX + 1];
    struct caller caller;      /* from the station admit on, but for open routes */
    struct limits_hold limits; /* of the caller's tenant; limits.h */
    int retry_after_s; /* of a refusal; 0: a second */
    struct usage_counters counted; /* of what usage.c knows already */
    int64_t start_us, deadline_us; /* INT64_MAX: what comes of its work has to be told */
    struct arena arena;
    struct generation *gen; /* completions */
    struct running_entry *running; /* in the worker's table; NULL: not noted */
    /* Of what a handler keeps beside the arena, at the end of its work or of the exchange;
     * may be NULL. */
    void (*fini_extra)(struct exchange *x);
    void *extra;
    void (*on_late)(struct exchange *x); /* the deadline is over; may be NULL */

    int status;        /* of the answer, 0 while there is none */
    bool is_streaming; /* headers are out, events follow */
    bool is_answered;  /* the last byte of the answer is known */
    bool is_whole;     /* the client got all of it */
    struct err err;    /* why it failed, code ERR_NONE if it did not */
};

/* ---- called by http.c ---------------------------------------------------------------- */

struct exchange *exchange_new(struct server *s, struct http_req *req);
void exchange_received(struct exchange *x);                 /* the body is complete */
void exchange_gone(struct exchange *x);                     /* the client went away */
void exchange_http_done(struct exchange *x, bool is_whole); /* req is void from here on */
void exchange_refuse_body(struct exchange *x);              /* too much was sent in vain */

/* ---- called by whatever it waited for ------------------------------------------------ */

void exchange_run(struct exchange *x);
void exchange_tick(struct exchange *x, int64_t now_us);
void exchange_release(struct exchange *x); /* frees x if nobody holds it any more */

/* ---- called by handlers -------------------------------------------------------------- */

/* Work that a handler has done elsewhere and whose end it answers by itself: in the station
 * change or registry, until exchange_end_work, after which x may be gone. */
enum exchange_result exchange_begin_work(struct exchange *x, enum exchange_station station);
void exchange_end_work(struct exchange *x);

/* Each answers and returns EXCHANGE_DONE. */
enum exchange_result exchange_fail(struct exchange *x, const struct err *err);
enum exchange_result exchange_reply(struct exchange *x, int status, const char *type,
                                    struct buf *body);
enum exchange_result exchange_reply_json(struct exchange *x, int status,
                                         struct buf *body);
enum exchange_result exchange_reply_fd(struct exchange *x, int fd);

/* A stream of server-sent events; after it is begun exchange_fail sends an error event. */
void exchange_begin_stream(struct exchange *x);
void exchange_add_stream(struct exchange *x, const struct buf *events);
enum exchange_result exchange_end_stream(struct exchange *x);

/* Whose request it is: once the station admit is done. The name is "" before. */
int64_t exchange_tenant(const struct exchange *x);
const char *exchange_tenant_name(const struct exchange *x);

bool exchange_is_over(const struct exchange *x); /* answered, or nobody there to answer */
struct exchange *exchange_of(void *p);           /* checks the magic number */

#endif
