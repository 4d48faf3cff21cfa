/* Starting a server in a test, and asking it. */
#include "tests/server/fixture.h"

#include "adapters/home.h"
#include "adapters/store.h"
#include "core/base/check.h"
#include "core/base/mem.h"
#include "server/loop.h"
#include "server/watch.h"
#include "tests/support/fake_engine.h"
#include "tests/test.h"

#include <arpa/inet.h>
#include <poll.h>
#include <signal.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

int64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* ---- the server ---------------------------------------------------------------------- */

static void configure(struct fixture *f)
{
    struct err err = {0};
    char *model = test_path("tests/golden/models/gqa");
    char *argv[] = {strdup("prefixd"), strdup("--model"), model, strdup("--listen"),
                    strdup("127.0.0.1:0")};
    if (config_from_args(&f->cfg, 5, argv, &err) != CONFIG_RUN)
        printf("  config: %s\n", err.msg);
    for (int i = 0; i < 5; i++)
        free(argv[i]);
    f->cfg.deadline_ms = f->deadline_ms ? f->deadline_ms : 60000;
    f->cfg.drain_ms = f->drain_ms ? f->drain_ms : 5000;
    f->cfg.body_timeout_ms =
        f->body_timeout_ms ? f->body_timeout_ms : f->cfg.body_timeout_ms;
    f->cfg.max_body = f->max_body ? f->max_body : f->cfg.max_body;
    f->cfg.max_upload = f->max_upload ? f->max_upload : f->cfg.max_upload;
    const char *const texts[] = {f->key_file, f->admin_key_file, f->cors_origin, f->state,
                                 f->folder};
    char **const fields[] = {&f->cfg.api_key_file, &f->cfg.admin_key_file,
                             &f->cfg.cors_origin, &f->cfg.state, &f->cfg.adapters};
    for (int i = 0; i < 5; i++) {
        if (!texts[i])
            continue;
        free(*fields[i]);
        *fields[i] = xstrdup(texts[i]);
    }
}

static void serve(struct fixture *f)
{
    struct err err = {0};
    if (f->keepalive_ms)
        f->server->keepalive_ms = f->keepalive_ms;
    if (f->max_backlog)
        f->server->max_backlog = f->max_backlog;
    if (f->read_grace_ms)
        f->server->read_grace_ms = f->read_grace_ms;
    if (f->max_answers)
        budget_set(&f->server->answers, f->max_answers);
    CHECK(server_start(f->server, &err) == 0);
    if (f->folder)
        watch_start(f->server);
    f->port = f->server->addr.port;
    f->is_up = true;
    sem_post(&f->ready);
    server_run(f->server);
}

static void open_parts(struct fixture *f, struct server_parts *parts, struct base_model *base)
{
    struct err err = {0};
    const struct engine_opts eo = {.wake = server_wake, .wake_ud = f->server};
    parts->engine = engine_open(base, &eo, &err);
    parts->base = base;
    const struct store_opts so = {.dir = home_dir(parts->home),
                                  .is_volatile = !home_is_durable(parts->home)};
    parts->store = store_open(&so, &err);
    CHECK(parts->store);
    const struct adapters_opts ao = {.engine = parts->engine,
                                     .base = base,
                                     .base_name = f->server->base_name,
                                     .store = parts->store,
                                     .is_durable = home_is_durable(parts->home),
                                     .memory = f->adapter_bytes,
                                     .max_bytes = (size_t)f->cfg.max_upload,
                                     .max_long_loads = LOOP_LONG_AT_ONCE};
    parts->adapters = adapters_open(&ao);
}

static void *run(void *arg)
{
    struct fixture *f = arg;
    struct err err = {0};
    struct server_parts parts = {0};
    f->server = server_new(&f->cfg, &err);
    CHECK(f->server);
    CHECK(server_open(f->server, &err) == 0);
    struct home *home = home_open(f->cfg.state[0] ? f->cfg.state : NULL, &err);
    CHECK(home);
    parts.home = home;
    struct base_model *base = base_model_open(f->cfg.model, DTYPE_CHOICE_F32, &err);
    CHECK(base);
    open_parts(f, &parts, base);
    server_take_parts(f->server, &parts);
    serve(f);
    server_free(f->server);
    adapters_free(parts.adapters);
    store_close(parts.store);
    engine_free(parts.engine);
    base_model_free(base);
    home_free(home);
    return NULL;
}

void fixture_start(struct fixture *f)
{
    signal(SIGPIPE, SIG_IGN);
    CHECK(sodium_init() >= 0);
    configure(f);
    sem_init(&f->ready, 0, 0);
    CHECK(pthread_create(&f->thread, NULL, run, f) == 0);
    while (sem_wait(&f->ready) < 0)
        ;
}

void fixture_signal(struct fixture *f)
{
    pthread_kill(f->thread, SIGTERM);
}

void fixture_join(struct fixture *f)
{
    pthread_join(f->thread, NULL);
    sem_destroy(&f->ready);
    config_fini(&f->cfg);
}

void fixture_stop(struct fixture *f)
{
    fixture_signal(f);
    fixture_join(f);
}

/* ---- the client ---------------------------------------------------------------------- */

void fixture_wait_metric(struct fixture *f, const char *name, size_t value)
{
    char line[100];
    bool is_there = false;
    snprintf(line, sizeof line, "\nprefixd_%s %zu\n", name, value);
    for (int64_t end = now_ms() + 5000; !is_there && now_ms() < end;) {
        struct reply r = fixture_get(f, "/metrics");
        is_there = reply_has(&r, line);
        reply_free(&r);
    }
    if (!is_there)
        test_fail(__FILE__, __LINE__, "never%s", line);
}

int client_open(const struct fixture *f)
{
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_port = htons((uint16_t)f->port)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    inet_pton(AF_INET, "127.0.0.1", &addr.sin_addr);
    if (connect(fd, (struct sockaddr *)&addr, sizeof addr) == 0)
        return fd;
    close(fd);
    return -1;
}

void client_send(int fd, const char *text)
{
    size_t len = strlen(text);
    while (len > 0) {
        ssize_t n = send(fd, text, len, MSG_NOSIGNAL);
        if (n <= 0)
            return;
        text += n;
        len -= (size_t)n;
    }
}

void client_post(int fd, const char *json)
{
    struct buf b = {0};
    buf_printf(
        &b,
        "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        "Content-Length: %zu\r\n\r\n%s",
        strlen(json), json);
    client_send(fd, b.data);
    buf_free(&b);
}

/* Bytes read, 0 at the end or after ms milliseconds without any. */
static size_t read_some(int fd, struct buf *got, int ms)
{
    char bytes[16384];
    struct pollfd p = {.fd = fd, .events = POLLIN};
    if (poll(&p, 1, ms) <= 0)
        return 0;
    ssize_t n = recv(fd, bytes, sizeof bytes, 0);
    if (n > 0)
        buf_add(got, bytes, (size_t)n);
    return n > 0 ? (size_t)n : 0;
}

bool client_wait_for(int fd, struct buf *got, const char *text, int ms)
{
    int64_t end = now_ms() + ms;
    size_t seen = 0;
    while (!got->data || !strstr(got->data + seen, text)) {
        size_t tail = strlen(text);
        int64_t left = end - now_ms();
        seen = got->len > tail ? got->len - tail : 0;
        if (left <= 0 || !read_some(fd, got, (int)left))
            return false;
    }
    return true;
}

const char *reply_header(const struct reply *r, const char *name)
{
    static char value[512];
    size_t n = strlen(name);
    for (const char *line = r->head.data; line && *line;) {
        const char *end = strstr(line, "\r\n");
        size_t len = end ? (size_t)(end - line) : strlen(line);
        if (len > n + 1 && len < sizeof value && strncasecmp(line, name, n) == 0 &&
            line[n] == ':') {
            const char *v = line + n + 1 + strspn(line + n + 1, " ");
            snprintf(value, sizeof value, "%.*s", (int)(line + len - v), v);
            return value;
        }
        line = end ? end + 2 : NULL;
    }
    return NULL;
}

/* The whole body of a chunked reply, or false if its end is not there yet. */
static bool join_chunks(const char *at, struct buf *body)
{
    buf_clear(body);
    for (;;) {
        char *end;
        unsigned long n = strtoul(at, &end, 16);
        if (end == at || strncmp(end, "\r\n", 2) != 0)
            return false;
        end += 2;
        if (n == 0)
            return strncmp(end, "\r\n", 2) == 0;
        if (strlen(end) < n + 2)
            return false;
        buf_add(body, end, n);
        at = end + n + 2;
    }
}

static void read_body(int fd, struct reply *r, struct buf *got, size_t head)
{
    const char *length = reply_header(r, "Content-Length");
    size_t want = length ? strtoul(length, NULL, 10) : 0;
    const char *coding = reply_header(r, "Transfer-Encoding");
    if (coding && strcmp(coding, "chunked") == 0) {
        while (!join_chunks(got->data + head, &r->body))
            if (!read_some(fd, got, 10000))
                return;
        return;
    }
    while (got->len - head < want)
        if (!read_some(fd, got, 10000))
            break;
    buf_add(&r->body, got->data + head, got->len - head < want ? got->len - head : want);
}

struct reply client_read(int fd, bool has_body)
{
    struct reply r = {0};
    struct buf got = {0};
    if (client_wait_for(fd, &got, "\r\n\r\n", 10000)) {
        size_t head = (size_t)(strstr(got.data, "\r\n\r\n") - got.data) + 4;
        buf_add(&r.head, got.data, head);
        r.status = atoi(got.data + 9);
        if (has_body)
            read_body(fd, &r, &got, head);
    }
    buf_free(&got);
    return r;
}

struct reply fixture_ask(struct fixture *f, const char *method, const char *path,
                         const char *headers, const char *body)
{
    struct buf b = {0};
    int fd = client_open(f);
    buf_printf(&b, "%s %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n%s", method, path,
               headers);
    if (body)
        buf_printf(&b, "Content-Length: %zu\r\n", strlen(body));
    buf_printf(&b, "\r\n%s", body ? body : "");
    client_send(fd, b.data);
    struct reply r = client_read(fd, strcmp(method, "HEAD") != 0);
    close(fd);
    buf_free(&b);
    return r;
}

struct reply fixture_get(struct fixture *f, const char *path)
{
    return fixture_ask(f, "GET", path, "", NULL);
}

struct reply fixture_complete(struct fixture *f, const char *json)
{
    return fixture_ask(f, "POST", "/v1/completions", "Content-Type: application/json\r\n",
                       json);
}

bool reply_has(const struct reply *r, const char *text)
{
    return r->body.data && strstr(r->body.data, text);
}

void reply_free(struct reply *r)
{
    buf_free(&r->head);
    buf_free(&r->body);
}
