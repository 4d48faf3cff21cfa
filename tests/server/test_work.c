/* Requests whose work blocks: whom it holds, what is told of it, and what of it may go on
 * when the server stops. */
#include "tests/server/fixture.h"
#include "tests/support/adapter_files.h"
#include "tests/support/fake_engine.h"
#include "tests/test.h"

#include "core/base/check.h"
#include "server/loop.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <unistd.h>

struct world {
    struct fixture f;
    char *dir;
    sqlite3 *db; /* another writer of the registry */
};

static void open_world(struct world *w, const struct fixture *opts)
{
    char path[300];
    *w = (struct world){.f = *opts, .dir = adapter_files_tmp_dir()};
    w->f.state = w->dir;
    fixture_start(&w->f);
    snprintf(path, sizeof path, "%s/registry.db", w->dir);
    CHECK(sqlite3_open(path, &w->db) == SQLITE_OK);
    sqlite3_busy_timeout(w->db, 5000);
}

static void close_world(struct world *w)
{
    sqlite3_close(w->db);
    adapter_files_remove_dir(w->dir);
    free(w->dir);
}

static void run_sql(struct world *w, const char *sql)
{
    char *why = NULL;
    if (sqlite3_exec(w->db, sql, NULL, NULL, &why) != SQLITE_OK)
        test_fail(__FILE__, __LINE__, "%s: %s", sql, why);
    sqlite3_free(why);
}

static void send_on(int fd, const char *method, const char *path, const char *body)
{
    struct buf b = {0};
    buf_printf(&b, "%s %s HTTP/1.1\r\nHost: x\r\n", method, path);
    if (body)
        buf_printf(&b, "Content-Length: %zu\r\n", strlen(body));
    buf_printf(&b, "\r\n%s", body ? body : "");
    client_send(fd, b.data);
    buf_free(&b);
}

static int start_asking(struct world *w, const char *method, const char *path,
                        const char *body)
{
    int fd = client_open(&w->f);
    send_on(fd, method, path, body);
    return fd;
}

static void expect_status(int fd, int status)
{
    struct reply r = client_read(fd, true);
    EXPECT_EQ(r.status, status);
    reply_free(&r);
}

static bool wait_listed(struct world *w, const char *path, const char *text, int ms)
{
    int64_t end = now_ms() + ms;
    bool is_there = false;
    while (!is_there && now_ms() < end) {
        struct reply r = fixture_get(&w->f, path);
        is_there = reply_has(&r, text);
        reply_free(&r);
        usleep(10000);
    }
    return is_there;
}

static const char station_work[] = "\"station\":\"asking the registry\"";

/* ---- the pool ------------------------------------------------------------------------ */

static void expect_quick(struct world *w, const char *method, const char *path, const char *body)
{
    int64_t start = now_ms();
    struct reply r = fixture_ask(&w->f, method, path, "", body);
    EXPECT_EQ(r.status, 200);
    EXPECT(now_ms() - start < 4000);
    reply_free(&r);
}

/* More than there are threads wait for the registry; nobody who does not need it waits. */
TEST(work_that_blocks_leaves_threads_for_what_is_short)
{
    enum { N = 40, TEXT = 20000 };
    struct world w;
    int fds[N];
    char json[100];
    fake_engine_plan(&(struct fake_plan){0});
    open_world(&w, &(struct fixture){0});
    expect_status(start_asking(&w, "PUT", "/v1/adapters/x", "{\"kind\":\"text\",\"text\":\"Hi\"}"),
                  201);
    run_sql(&w, "BEGIN IMMEDIATE");
    for (int i = 0; i < N; i++) {
        snprintf(json, sizeof json, "{\"name\":\"t%d\"}", i);
        fds[i] = start_asking(&w, "POST", "/admin/tenants", json);
    }
    EXPECT(wait_listed(&w, "/admin/requests", station_work, 3000));
    usleep(200000);
    struct buf text = {0};
    buf_add_str(&text, "{\"prompt\":\"");
    for (int i = 0; i < TEXT / 5; i++)
        buf_add_str(&text, "word ");
    buf_add_str(&text, "\"}");
    expect_quick(&w, "POST", "/tokenize", text.data);
    expect_quick(&w, "GET", "/v1/adapters/x/files/adapter.json", NULL);
    buf_free(&text);
    run_sql(&w, "COMMIT");
    for (int i = 0; i < N; i++) {
        expect_status(fds[i], 201);
        close(fds[i]);
    }
    fixture_stop(&w.f);
    close_world(&w);
}

static void add_tenant(struct world *w, int i)
{
    char json[40];
    snprintf(json, sizeof json, "{\"name\":\"t%d\"}", i);
    expect_status(start_asking(w, "POST", "/admin/tenants", json), 201);
}

/* More tenants than there are threads compile what takes long; what does not finds one. */
TEST(work_that_is_long_leaves_threads_for_short_changes)
{
    enum { N = LOOP_CHANGES_AT_ONCE, WORDS = 400 };
    struct world w;
    struct buf text = {0};
    int fds[N];
    char path[64];
    fake_engine_plan(&(struct fake_plan){.compile_token_us = 2000});
    open_world(&w, &(struct fixture){0});
    buf_add_str(&text, "{\"kind\":\"text\",\"text\":\"");
    for (int i = 0; i < WORDS; i++)
        buf_add_str(&text, " a");
    buf_add_str(&text, "\"}");
    for (int i = 0; i <= N; i++)
        add_tenant(&w, i);
    for (int i = 0; i < N; i++) {
        snprintf(path, sizeof path, "/v1/adapters/long?tenant=t%d", i);
        fds[i] = start_asking(&w, "PUT", path, text.data);
    }
    EXPECT(wait_listed(&w, "/admin/requests", "\"tenant\":\"t7\"", 3000));
    int64_t start = now_ms();
    snprintf(path, sizeof path, "/v1/adapters/short?tenant=t%d", N);
    expect_status(start_asking(&w, "PUT", path, "{\"kind\":\"text\",\"text\":\"Hi\"}"), 201);
    EXPECT(now_ms() - start < 1000);
    expect_status(fds[0], 201);
    EXPECT(now_ms() - start > 1000);
    for (int i = 1; i < N; i++)
        expect_status(fds[i], 201);
    buf_free(&text);
    fixture_stop(&w.f);
    close_world(&w);
}

TEST(work_is_told_while_it_runs)
{
    struct world w;
    fake_engine_plan(&(struct fake_plan){0});
    open_world(&w, &(struct fixture){0});
    run_sql(&w, "BEGIN IMMEDIATE");
    int tenant = start_asking(&w, "POST", "/admin/tenants", "{\"name\":\"acme\"}");
    int put = start_asking(&w, "PUT", "/v1/adapters/x", "{\"kind\":\"text\",\"text\":\"Hi\"}");
    EXPECT(wait_listed(&w, "/admin/requests", station_work, 3000));
    EXPECT(wait_listed(&w, "/admin/requests", "\"station\":\"changing an adapter\"", 3000));
    run_sql(&w, "COMMIT");
    expect_status(tenant, 201);
    expect_status(put, 201);
    EXPECT(wait_listed(&w, "/admin/requests", "\"data\":[]", 3000));
    close(tenant);
    close(put);
    fixture_stop(&w.f);
    close_world(&w);
}

/* ---- answers that nobody reads ------------------------------------------------------- */

/* The server runs in this process: its end of the connection gets small buffers too. */
static void shrink_other_end(int client)
{
    struct sockaddr_in own, peer;
    socklen_t size = sizeof own;
    int small = 4096;
    CHECK(getsockname(client, (struct sockaddr *)&own, &size) == 0);
    for (int fd = 0; fd < 1024; fd++) {
        socklen_t n = sizeof peer;
        if (fd != client && getpeername(fd, (struct sockaddr *)&peer, &n) == 0 &&
            peer.sin_family == AF_INET && peer.sin_port == own.sin_port)
            setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &small, sizeof small);
    }
}

static int open_small(struct world *w)
{
    int fd = client_open(&w->f), small = 4096;
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    send_on(fd, "GET", "/health", NULL);
    expect_status(fd, 200); /* it is accepted */
    shrink_other_end(fd);
    return fd;
}

/* The answer is made, so the question is over; and it is not kept for ever. */
TEST(work_whose_answer_nobody_reads_has_an_end)
{
    enum { N = 2 };
    struct world w;
    int fds[N];
    fake_engine_plan(&(struct fake_plan){0});
    open_world(&w, &(struct fixture){.read_grace_ms = 2000});
    run_sql(&w, "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 900)"
                " INSERT INTO usage SELECT 3600 * i, 1, 0, 'a', 1, 1, 1, 1, 1 FROM n");
    int64_t start = now_ms();
    for (int i = 0; i < N; i++) {
        fds[i] = open_small(&w);
        send_on(fds[i], "GET", "/v1/usage?group_by=hour&limit=1000", NULL);
    }
    EXPECT(wait_listed(&w, "/admin/requests", "\"station\":\"closing\"", 3000));
    usleep(100000);
    struct reply r = fixture_get(&w.f, "/v1/usage");
    EXPECT_EQ(r.status, 200);
    EXPECT(now_ms() - start < 2000);
    reply_free(&r);
    EXPECT(wait_listed(&w, "/metrics", "http_requests_total{status=\"499\"} 2\n", 8000));
    EXPECT(now_ms() - start >= 2000);
    for (int i = 0; i < N; i++)
        close(fds[i]);
    fixture_stop(&w.f);
    close_world(&w);
}

/* ---- the end of the server ----------------------------------------------------------- */

static bool is_home_free(const struct world *w)
{
    char path[300];
    snprintf(path, sizeof path, "%s/lock", w->dir);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    bool is_free = fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0;
    if (fd >= 0)
        close(fd);
    return is_free;
}

static bool wait_home_free(const struct world *w, int ms)
{
    int64_t end = now_ms() + ms;
    while (!is_home_free(w) && now_ms() < end)
        usleep(10000);
    return is_home_free(w);
}

/* A stream that does not end, and the wish that the server ends. */
static int hold_and_stop(struct world *w)
{
    struct buf got = {0};
    int fd = client_open(&w->f);
    client_post(fd, "{\"prompt\":\"a\",\"max_tokens\":9,\"stream\":true}");
    EXPECT(client_wait_for(fd, &got, " w1", 5000));
    buf_free(&got);
    fixture_signal(&w->f);
    return fd;
}

TEST(work_that_changes_anything_is_refused_once_the_server_stops)
{
    static const struct {
        const char *method, *path;
    } asks[] = {
        {"DELETE", "/v1/adapters/x"},        {"DELETE", "/admin/tenants/acme"},
        {"POST", "/admin/tenants/acme/suspend"}, {"POST", "/admin/tenants/acme/resume"},
        {"DELETE", "/admin/keys/key_1"},
    };
    enum { N = sizeof asks / sizeof *asks };
    struct world w;
    int fds[N];
    fake_engine_plan(&(struct fake_plan){.hold_after = 2});
    open_world(&w, &(struct fixture){0});
    for (int i = 0; i < N; i++) {
        fds[i] = client_open(&w.f);
        send_on(fds[i], "GET", "/health", NULL);
        expect_status(fds[i], 200);
    }
    int put = client_open(&w.f);
    client_send(put, "PUT /v1/adapters/late HTTP/1.1\r\nHost: x\r\nContent-Length: 27\r\n\r\n{");
    EXPECT(wait_listed(&w, "/admin/requests", "\"station\":\"reading the body\"", 3000));
    int held = hold_and_stop(&w);
    EXPECT(wait_home_free(&w, 3000)); /* from here on others may have it */
    for (int i = 0; i < N; i++) {
        send_on(fds[i], asks[i].method, asks[i].path, NULL);
        expect_status(fds[i], 503);
        close(fds[i]);
    }
    client_send(put, "\"kind\":\"text\",\"text\":\"Hi\"}");
    expect_status(put, 503);
    close(put);
    close(held);
    fixture_join(&w.f);
    close_world(&w);
}

TEST(work_under_way_keeps_the_home)
{
    struct world w;
    fake_engine_plan(&(struct fake_plan){.hold_after = 2});
    open_world(&w, &(struct fixture){0});
    run_sql(&w, "BEGIN IMMEDIATE");
    int tenant = start_asking(&w, "POST", "/admin/tenants", "{\"name\":\"acme\"}");
    EXPECT(wait_listed(&w, "/admin/requests", station_work, 3000));
    int held = hold_and_stop(&w);
    usleep(400000);
    EXPECT(!is_home_free(&w));
    run_sql(&w, "COMMIT");
    expect_status(tenant, 201);
    EXPECT(wait_home_free(&w, 3000)); /* though the stream goes on */
    close(tenant);
    close(held);
    fixture_join(&w.f);
    close_world(&w);
}

static const char use_x[] = "{\"model\":\"x\",\"prompt\":[7],\"max_tokens\":1}";

/* A load stores what it made. */
TEST(work_of_loads_keeps_the_home)
{
    struct world w;
    char path[300];
    fake_engine_plan(&(struct fake_plan){0});
    open_world(&w, &(struct fixture){0});
    expect_status(start_asking(&w, "PUT", "/v1/adapters/x", "{\"kind\":\"text\",\"text\":\"Hi\"}"),
                  201);
    fixture_stop(&w.f);
    snprintf(path, sizeof path, "%s/compiled", w.dir);
    adapter_files_remove_dir(path);
    w.f = (struct fixture){.state = w.dir};
    fake_engine_plan(&(struct fake_plan){.compile_us = 2500000, .hold_after = 2});
    fixture_start(&w.f);
    int asking = start_asking(&w, "POST", "/v1/completions", use_x);
    EXPECT(wait_listed(&w, "/admin/requests", "\"station\":\"acquiring the adapter\"", 3000));
    int held = hold_and_stop(&w);
    close(asking); /* nobody waits for it any more */
    usleep(300000);
    EXPECT(!is_home_free(&w));
    EXPECT(wait_home_free(&w, 8000));
    close(held);
    fixture_join(&w.f);
    close_world(&w);
}

/* What the adapters folder has and is refused is a row that is written. */
TEST(work_of_the_watch_keeps_the_home)
{
    static const char wrong[] = "{\"kind\":\"wrong\"}";
    struct world w;
    char *folder = adapter_files_tmp_dir();
    adapter_files_write(folder, "x.json", wrong, sizeof wrong - 1);
    fake_engine_plan(&(struct fake_plan){.hold_after = 2});
    open_world(&w, &(struct fixture){.folder = folder});
    run_sql(&w, "BEGIN IMMEDIATE");
    usleep(2000000); /* it has been looked at for long enough */
    int held = hold_and_stop(&w);
    usleep(400000);
    EXPECT(!is_home_free(&w));
    run_sql(&w, "COMMIT");
    EXPECT(wait_home_free(&w, 3000));
    close(held);
    fixture_join(&w.f);
    close_world(&w);
    adapter_files_remove_dir(folder);
    free(folder);
}
