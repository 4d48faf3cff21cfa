/* The server: what every exchange shares, the order of starting and of stopping.
 *
 * Thread: the one that calls server_run is the loop thread; server_wake from any thread.
 *
 *     struct server *s = server_new(&cfg, &err);    checks name, key files; binds the address
 *     server_check_open(s, dir, &err);              who may ask, with what the registry has of keys
 *     ... what takes long: connections are refused until somebody starts ...
 *     ... maybe fork: no thread, no loop so far ...
 *     server_open(s, &err);                         from here on server_wake may be called
 *     ... engine_open with .wake = server_wake, .wake_ud = s; store_open; adapters_open ...
 *     server_take_parts(s, &parts);
 *     server_start(s, &err);                        listens, takes requests
 *     server_run(s);                                until SIGTERM and the drain after it
 *     server_free(s);                               after it the parts may be freed, the store last
 */
#ifndef PREFIXD_SERVER_H
#define PREFIXD_SERVER_H

#include "adapters/adapters.h"
#include "config/config.h"
#include "core/base/check.h"
#include "core/base/err.h"
#include "core/engine.h"
#include "server/budget.h"
#include "server/ids.h"
#include "server/listen.h"
#include "server/metrics.h"
#include "server/shared.h"

#include <stdbool.h>
#include <stdint.h>

struct auth;
struct changes;
struct exchange;
struct home;
struct http;
struct ledger;
struct limits;
struct loads;
struct loop;
struct store;
struct tenants;
struct usage;
struct watch;

enum server_state { SERVER_STARTING, SERVER_READY, SERVER_DRAINING, SERVER_STOPPED };

struct server_parts { /* owned by the caller, who frees them after server_free */
    const struct base_model *base;
    struct engine *engine;
    struct store *store; /* this process' own */
    struct adapters *adapters;
    struct home *home; /* left when nothing changes any more; NULL: nobody's */
};

struct server {
    unsigned magic;
    const struct config *cfg;
    char *base_name;
    int64_t created; /* Unix seconds */
    enum server_state state;
    int64_t stop_us; /* draining: when to cancel what still runs; then when to go */
    bool has_cancelled;
    int n_signals;
    struct server_parts parts;
    struct loop *loop;
    struct http *http;
    struct auth *auth, *admin_auth; /* keys of files; NULL: none */
    struct tenants *tenants;
    struct ledger *ledger; /* shared by all workers; the one who forked frees it */
    struct limits *limits;
    struct usage *usage;
    struct metrics metrics;
    struct shared *shared;      /* of all workers, set before server_take_parts; else its own */
    int place;                  /* of this worker, from 0 on */
    struct shared own;          /* of a server without a supervisor */
    uint32_t quarantine_seen;   /* what of the quarantine the registry was told */
    struct listen_addr addr;
    int listen_fd;              /* bound; -1: not open, or HTTP's by now */
    int keepalive_ms;           /* a waiting stream gets a comment this often */
    int read_grace_ms;          /* for an answer beyond its request's deadline */
    size_t max_backlog;         /* bytes that a stream's reader may be behind */
    struct budget uploads, bodies; /* of adapters; of everything else */
    struct budget answers; /* as large as those may become that are being made */
    struct exchange *exchanges; /* every live one */
    struct ids ids;
    struct buf chunks;          /* of the stream that is being written to */
    struct changes *changes;    /* of adapters */
    struct loads *loads;
    struct watch *watch;        /* of the adapters folder; NULL: this process does not */
    struct thread_owner owner;
};

struct server *server_new(const struct config *cfg, struct err *err);
int server_check_open(const struct server *s, const char *state_dir, struct err *err);
void server_stop_listening(struct server *s); /* where nothing was started, as in the supervisor */
int server_open(struct server *s, struct err *err);

/* Drains when fd comes to its end, as after SIGTERM. After server_open. */
void server_watch_life(struct server *s, int fd);

/* From here on changes and loads may be asked for; they run when the loop does. */
void server_take_parts(struct server *s, const struct server_parts *parts);
int server_start(struct server *s, struct err *err);
const char *server_url(const struct server *s); /* of the bound address */
void server_run(struct server *s);
void server_free(struct server *s);

void server_wake(void *server);

/* ---- for exchanges ------------------------------------------------------------------- */

void server_add(struct server *s, struct exchange *x);
void server_remove(struct server *s, struct exchange *x);
void server_heed_quarantine(struct server *s); /* costs nothing when nothing changed */
bool server_is_draining(const struct server *s);

#endif
