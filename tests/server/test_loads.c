/* Adapters that are not in memory when somebody asks for them. */
#include "server/loop.h"
#include "tests/server/fixture.h"
#include "tests/support/adapter_files.h"
#include "tests/support/fake_engine.h"
#include "tests/test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char use_x[] = "{\"model\":\"x\",\"prompt\":[7],\"max_tokens\":1}";

static void put(struct fixture *f, const char *name, int number)
{
    char path[100], json[100];
    snprintf(path, sizeof path, "/v1/adapters/%s", name);
    snprintf(json, sizeof json, "{\"kind\":\"text\",\"text\":\"Answer %d times.\"}", number);
    struct reply r = fixture_ask(f, "PUT", path, "", json);
    EXPECT_EQ(r.status, 201);
    reply_free(&r);
}

static void add_tenant(struct fixture *f, const char *name)
{
    char json[100];
    snprintf(json, sizeof json, "{\"name\":\"%s\"}", name);
    struct reply r = fixture_ask(f, "POST", "/admin/tenants", "", json);
    EXPECT_EQ(r.status, 201);
    reply_free(&r);
}

/* A server whose adapters are in the state folder as they were sent, and slow to compile. */
static void start_cold(struct fixture *f, const char *const *names, int n)
{
    struct fixture before = {.state = f->state};
    char path[300];
    fake_engine_plan(&(struct fake_plan){0});
    fixture_start(&before);
    add_tenant(&before, "other");
    for (int i = 0; i < n; i++)
        put(&before, names[i], i);
    fixture_stop(&before);
    snprintf(path, sizeof path, "%s/compiled", f->state);
    adapter_files_remove_dir(path);
    fake_engine_plan(&(struct fake_plan){.compile_us = 500000});
    fixture_start(f);
}

static int ask(const struct fixture *f, const char *query, const char *model)
{
    struct buf b = {0};
    char json[100];
    int fd = client_open(f);
    snprintf(json, sizeof json, "{\"model\":\"%s\",\"prompt\":[7],\"max_tokens\":1}", model);
    buf_printf(&b, "POST /v1/completions%s HTTP/1.1\r\nHost: x\r\nContent-Length: %zu\r\n\r\n%s",
               query, strlen(json), json);
    client_send(fd, b.data);
    buf_free(&b);
    return fd;
}

static void expect_status(int fd, int status)
{
    struct reply r = client_read(fd, true);
    EXPECT_EQ(r.status, status);
    reply_free(&r);
    close(fd);
}

static void expect_state(struct fixture *f, const char *name, const char *state)
{
    char path[64], want[64];
    snprintf(path, sizeof path, "/v1/adapters/%s", name);
    snprintf(want, sizeof want, "\"state\":\"%s\"", state);
    struct reply r = fixture_get(f, path);
    EXPECT(reply_has(&r, want));
    reply_free(&r);
}

static void expect_loads(struct fixture *f, int n)
{
    char want[64];
    snprintf(want, sizeof want, "prefixd_adapter_loads_total %d\n", n);
    struct reply r = fixture_get(f, "/metrics");
    EXPECT(reply_has(&r, want));
    reply_free(&r);
}

static const char *const only_x[] = {"x"};

TEST(loads_are_waited_for_together_and_hold_nobody)
{
    enum { N = 5 };
    char *dir = adapter_files_tmp_dir();
    struct fixture f = {.state = dir};
    int fds[N];
    start_cold(&f, only_x, 1);
    int64_t start = now_ms();
    for (int i = 0; i < N; i++)
        fds[i] = ask(&f, "", "x");
    usleep(50000);
    struct reply r = fixture_get(&f, "/v1/adapters/x");
    EXPECT(reply_has(&r, "\"state\":\"loading\"") && reply_has(&r, "\"resident\":false"));
    reply_free(&r);
    expect_status(ask(&f, "", "gqa"), 200);
    expect_state(&f, "x", "loading"); /* the base did not wait for it */
    for (int i = 0; i < N; i++)
        expect_status(fds[i], 200);
    EXPECT(now_ms() - start >= 450);
    expect_loads(&f, 1);
    expect_status(ask(&f, "", "x"), 200);
    expect_loads(&f, 1);
    r = fixture_get(&f, "/v1/adapters/x");
    EXPECT(reply_has(&r, "\"state\":\"ready\"") && reply_has(&r, "\"resident\":true"));
    reply_free(&r);
    fixture_stop(&f);
    adapter_files_remove_dir(dir);
    free(dir);
}

TEST(loads_outlive_who_waits_for_them)
{
    char *dir = adapter_files_tmp_dir();
    struct fixture f = {.state = dir, .deadline_ms = 250};
    start_cold(&f, only_x, 1);
    int gone = ask(&f, "", "x"), late = ask(&f, "", "x");
    usleep(50000);
    close(gone);
    expect_status(late, 504);
    usleep(400000);
    expect_status(ask(&f, "", "x"), 200);
    fixture_stop(&f);
    adapter_files_remove_dir(dir);
    free(dir);
}

/* One tenant's come one after the other, and another's need not wait for them. */
TEST(loads_of_one_tenant_do_not_hold_another)
{
    static const char *const names[] = {"a", "b", "c", "d", "e?tenant=other"};
    char *dir = adapter_files_tmp_dir();
    struct fixture f = {.state = dir};
    int fds[4];
    start_cold(&f, names, 5);
    int64_t start = now_ms();
    for (int i = 0; i < 4; i++)
        fds[i] = ask(&f, "", names[i]);
    expect_status(ask(&f, "?tenant=other", "e"), 200);
    expect_state(&f, "d", "loading"); /* the last of four */
    for (int i = 0; i < 4; i++)
        expect_status(fds[i], 200);
    EXPECT(now_ms() - start >= 1900);
    fixture_stop(&f);
    adapter_files_remove_dir(dir);
    free(dir);
}

/* A text that takes 1.6 s to compile, if a token of it takes 2 ms. */
static void put_long(struct fixture *f, const char *query)
{
    enum { WORDS = 400 };
    struct buf text = {0};
    char path[300];
    buf_add_str(&text, "{\"kind\":\"text\",\"text\":\"");
    for (int i = 0; i < WORDS; i++)
        buf_add_str(&text, " a");
    buf_add_str(&text, "\"}");
    snprintf(path, sizeof path, "/v1/adapters/long%s", query);
    struct reply r = fixture_ask(f, "PUT", path, "", text.data);
    EXPECT_EQ(r.status, 201);
    reply_free(&r);
    buf_free(&text);
}

/* As many tenants as there are threads wait for what takes long; what does not finds one. */
TEST(loads_that_are_long_leave_threads_for_short_ones)
{
    enum { N = LOOP_LOADS_AT_ONCE };
    char *dir = adapter_files_tmp_dir();
    struct fixture f = {.state = dir};
    char path[300], names[N + 1][8], queries[N + 1][24];
    int fds[N];
    fake_engine_plan(&(struct fake_plan){0});
    fixture_start(&f);
    for (int i = 0; i <= N; i++) {
        snprintf(names[i], sizeof names[i], "t%d", i);
        snprintf(queries[i], sizeof queries[i], "?tenant=t%d", i);
        add_tenant(&f, names[i]);
        if (i < N)
            put_long(&f, queries[i]);
    }
    snprintf(path, sizeof path, "x%s", queries[N]);
    put(&f, path, 1);
    fixture_stop(&f);
    snprintf(path, sizeof path, "%s/compiled", dir);
    adapter_files_remove_dir(path);
    f = (struct fixture){.state = dir};
    fake_engine_plan(&(struct fake_plan){.compile_token_us = 2000});
    fixture_start(&f);
    for (int i = 0; i < N; i++)
        fds[i] = ask(&f, queries[i], "long");
    usleep(100000);
    int64_t start = now_ms();
    expect_status(ask(&f, queries[N], "x"), 200);
    EXPECT(now_ms() - start < 1000);
    expect_status(fds[0], 200);
    EXPECT(now_ms() - start > 1000);
    for (int i = 1; i < N; i++)
        expect_status(fds[i], 200);
    fixture_stop(&f);
    adapter_files_remove_dir(dir);
    free(dir);
}

TEST(loads_are_carried_through_at_the_end)
{
    char *dir = adapter_files_tmp_dir();
    struct fixture f = {.state = dir};
    start_cold(&f, only_x, 1);
    int fd = ask(&f, "", "x");
    usleep(100000);
    fixture_signal(&f);
    expect_status(fd, 200);
    fixture_join(&f);
    adapter_files_remove_dir(dir);
    free(dir);
}

/* The time for requests is over before the load is; what waited for it is told so. */
TEST(loads_are_not_waited_for_beyond_the_drain)
{
    char *dir = adapter_files_tmp_dir();
    struct fixture f = {.state = dir, .drain_ms = 50};
    start_cold(&f, only_x, 1);
    int fd = ask(&f, "", "x");
    usleep(100000);
    fixture_signal(&f);
    expect_status(fd, 503);
    fixture_join(&f);
    adapter_files_remove_dir(dir);
    free(dir);
}

/* A budget for one of them: they take turns, and each answers every time. */
TEST(loads_bring_back_what_was_put_out)
{
    char *dir = adapter_files_tmp_dir();
    struct fixture f = {.state = dir, .adapter_bytes = 1};
    fake_engine_plan(&(struct fake_plan){0});
    fixture_start(&f);
    put(&f, "x", 1);
    put(&f, "y", 2);
    for (int i = 0; i < 20; i++) {
        struct reply r = fixture_complete(&f, use_x);
        EXPECT_EQ(r.status, 200);
        EXPECT_STR(reply_header(&r, "X-Adapter-Id"), "x");
        reply_free(&r);
        expect_status(ask(&f, "", "y"), 200);
    }
    fixture_stop(&f);
    adapter_files_remove_dir(dir);
    free(dir);
}
