/* A server over the fake engine on a thread of its own, and a blocking client for it.
 *
 *     struct fixture f = {.deadline_ms = 500};
 *     fixture_start(&f);
 *     struct reply r = fixture_get(&f, "/health");
 *     EXPECT_EQ(r.status, 200);
 *     reply_free(&r);
 *     fixture_stop(&f);
 */
#ifndef PREFIXD_TEST_FIXTURE_H
#define PREFIXD_TEST_FIXTURE_H

#include "config/config.h"
#include "core/base/buf.h"
#include "server/server.h"

#include <pthread.h>
#include <semaphore.h>

struct fixture {
    /* 0 or NULL: the default */
    int deadline_ms, drain_ms, keepalive_ms, max_body, max_upload, body_timeout_ms;
    int read_grace_ms;
    size_t max_backlog, max_answers, adapter_bytes;
    const char *key_file, *admin_key_file, *cors_origin, *state;
    const char *folder; /* of adapters, watched */
    /* the fixture's own */
    struct config cfg;
    pthread_t thread;
    sem_t ready;
    struct server *server;
    int port;
    bool is_up;
};

struct reply {
    int status;      /* 0: none came */
    struct buf head; /* status line and headers */
    struct buf body; /* chunks joined */
};

void fixture_start(struct fixture *f);
void fixture_signal(struct fixture *f); /* SIGTERM */
void fixture_join(struct fixture *f);   /* until the server has stopped by itself */
void fixture_stop(struct fixture *f);

struct reply fixture_get(struct fixture *f, const char *path);
struct reply
fixture_ask(struct fixture *f, const char *method, const char *path, const char *headers,
            const char *body); /* headers: lines with \r\n; body: NULL for none */
struct reply fixture_complete(struct fixture *f, const char *json);

/* Until /metrics says so of a metric that has no labels; fails the test if it never does. */
void fixture_wait_metric(struct fixture *f, const char *name, size_t value);

int client_open(const struct fixture *f); /* -1: refused */
void client_send(int fd, const char *text);
void client_post(int fd, const char *json);
struct reply client_read(int fd, bool has_body);
/* Reads until the text was seen, false after ms milliseconds or at the end. */
bool client_wait_for(int fd, struct buf *got, const char *text, int ms);

bool reply_has(const struct reply *r, const char *text); /* in the body */
/* A header's value in a static buffer, NULL if absent. */
const char *reply_header(const struct reply *r, const char *name);
void reply_free(struct reply *r);

int64_t now_ms(void);

#endif
