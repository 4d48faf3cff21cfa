/* Adapters over HTTP: putting, listing, using, deleting. */
#include "tests/server/fixture.h"
#include "tests/support/fake_engine.h"
#include "tests/test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const struct fake_plan plain = {0};
static const char json_type[] = "Content-Type: application/json\r\n";
static const char text_a[] = "{\"kind\":\"text\",\"text\":\"Answer like a pirate.\"}";
static const char text_b[] = "{\"kind\":\"text\",\"text\":\"Answer in one word, please.\"}";
static const char text_c[] = "{\"kind\":\"text\",\"text\":\"Answer in two words.\"}";
static const char text_d[] = "{\"kind\":\"text\",\"text\":\"Answer in three.\"}";

static struct reply put(struct fixture *f, const char *name, const char *json)
{
    char path[128];
    snprintf(path, sizeof path, "/v1/adapters/%s", name);
    return fixture_ask(f, "PUT", path, json_type, json);
}

/* The value of "version" in a reply; caller frees. */
static char *version_of(const struct reply *r)
{
    const char *at = r->body.data ? strstr(r->body.data, "\"version\":\"") : NULL;
    return at ? strndup(at + 11, 64) : strdup("none");
}

TEST(adapters_put_use_swap_delete)
{
    struct fixture f = {0};
    struct fake_seen seen;
    fake_engine_plan(&plain);
    fixture_start(&f);
    struct reply r = put(&f, "pirate", text_a);
    EXPECT_EQ(r.status, 201);
    EXPECT(reply_has(&r, "\"kind\":\"text\"") && reply_has(&r, "\"durable\":false"));
    EXPECT(reply_has(&r, "\"compile_ms\":") && reply_has(&r, "\"bytes\":"));
    char *first = version_of(&r);
    EXPECT_EQ(strlen(first), 64);
    const char *etag = reply_header(&r, "ETag");
    EXPECT(etag && strncmp(etag + 1, first, 64) == 0);
    reply_free(&r);

    r = fixture_complete(&f, "{\"model\":\"gqa:pirate\",\"prompt\":[7],\"max_tokens\":1}");
    fake_engine_seen(&seen);
    EXPECT_EQ(r.status, 200);
    EXPECT(seen.has_prefix);
    EXPECT(reply_has(&r, "\"model\":\"gqa:pirate\"") &&
           reply_has(&r, "\"prompt_tokens\":1,"));
    EXPECT(!reply_has(&r, "\"virtual_tokens\":0"));
    EXPECT_STR(reply_header(&r, "X-Adapter-Id"), "pirate");
    reply_free(&r);

    r = put(&f, "pirate", text_b);
    EXPECT_EQ(r.status, 200);
    char *second = version_of(&r);
    EXPECT(strcmp(first, second) != 0);
    reply_free(&r);
    r = fixture_get(&f, "/v1/models/pirate");
    EXPECT(r.status == 200 && reply_has(&r, "\"parent\":\"gqa\""));
    reply_free(&r);
    r = fixture_get(&f, "/v1/adapters/pirate/files/adapter.json");
    EXPECT_EQ(r.status, 200);
    EXPECT_STR(r.body.data, text_b);
    reply_free(&r);
    r = fixture_get(&f, "/v1/adapters");
    EXPECT(reply_has(&r, second) && !reply_has(&r, first));
    reply_free(&r);

    r = fixture_ask(&f, "DELETE", "/v1/adapters/pirate", "", NULL);
    EXPECT(r.status == 204 && r.body.len == 0);
    EXPECT(!reply_header(&r, "Content-Length") && !reply_header(&r, "Content-Type"));
    reply_free(&r);
    r = fixture_ask(&f, "DELETE", "/v1/adapters/pirate", "", NULL);
    EXPECT(r.status == 404 && reply_has(&r, "adapter_not_found"));
    reply_free(&r);
    r = fixture_complete(&f, "{\"model\":\"pirate\",\"prompt\":[7]}");
    EXPECT_EQ(r.status, 404);
    reply_free(&r);
    free(first);
    free(second);
    fixture_stop(&f);
}

/* ---- forms --------------------------------------------------------------------------- */

static void add_part(struct buf *b, const char *field, const char *file, const char *bytes,
                     size_t len)
{
    buf_printf(b,
               "--BB\r\nContent-Disposition: form-data; name=\"%s\"; filename=\"%s\"\r\n"
               "Content-Type: application/octet-stream\r\n\r\n",
               field, file);
    buf_add(b, bytes, len);
    buf_add_str(b, "\r\n");
}

static void add_file(struct buf *b, const char *field, const char *file, const char *rel)
{
    char bytes[65536];
    char *path = test_path(rel);
    FILE *in = fopen(path, "rb");
    size_t n = in ? fread(bytes, 1, sizeof bytes, in) : 0;
    EXPECT(n > 0);
    add_part(b, field, file, bytes, n);
    if (in)
        fclose(in);
    free(path);
}

static struct reply put_form(struct fixture *f, const char *name, struct buf *form,
                             bool is_chunked)
{
    struct buf b = {0};
    int fd = client_open(f);
    buf_add_str(form, "--BB--\r\n");
    buf_printf(&b,
               "PUT /v1/adapters/%s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
               "Content-Type: multipart/form-data; boundary=BB\r\n",
               name);
    if (is_chunked)
        buf_printf(&b, "Transfer-Encoding: chunked\r\n\r\n%zx\r\n", form->len);
    else
        buf_printf(&b, "Content-Length: %zu\r\n\r\n", form->len);
    buf_add(&b, form->data, form->len);
    if (is_chunked)
        buf_add_str(&b, "\r\n0\r\n\r\n");
    for (size_t at = 0; at < b.len;) {
        ssize_t n = write(fd, b.data + at, b.len - at);
        if (n <= 0)
            break;
        at += (size_t)n;
    }
    struct reply r = client_read(fd, true);
    close(fd);
    buf_free(&b);
    buf_free(form);
    return r;
}

static const char config_path[] =
    "tests/golden/adapters/gqa/prefix_tuning/adapter_config.json";
static const char weights_path[] =
    "tests/golden/adapters/gqa/prefix_tuning/adapter_model.safetensors";

TEST(adapters_forms_are_known_by_file_or_field)
{
    static const char *const names[][4] = {
        {"config", "adapter_config.json", "weights", "adapter_model.safetensors"},
        {"a", "adapter_config.json", "b", "adapter_model.safetensors"},
        {"config", "c.json", "weights", "w.safetensors"},
        {"config", "dir/adapter_config.json", "weights", "/x/adapter_model.safetensors"},
        {"weights", "adapter_config.json", "config", "adapter_model.safetensors"},
    };
    struct fixture f = {0};
    fake_engine_plan(&plain);
    fixture_start(&f);
    for (int i = 0; i < 10; i++) {
        struct buf form = {0};
        char name[8];
        snprintf(name, sizeof name, "p%d", i);
        add_file(&form, names[i / 2][0], names[i / 2][1], config_path);
        add_file(&form, names[i / 2][2], names[i / 2][3], weights_path);
        struct reply r = put_form(&f, name, &form, i % 2);
        if (r.status != 201 || !reply_has(&r, "PREFIX_TUNING"))
            test_fail(__FILE__, __LINE__, "%d: %d %s", i, r.status,
                      r.body.data ? r.body.data : "");
        reply_free(&r);
    }
    struct reply r = fixture_get(&f, "/v1/adapters/p0/files/adapter_model.safetensors");
    EXPECT_EQ(r.status, 200);
    EXPECT(r.body.len > 100);
    reply_free(&r);
    r = fixture_get(&f, "/v1/adapters/p0/files/etc");
    EXPECT_EQ(r.status, 404);
    reply_free(&r);
    fixture_stop(&f);
}

TEST(adapters_pickles_are_known_by_their_file)
{
    static const char *const files[] = {"adapter_model.bin", "x/a.pt", "a.pth", "a.ckpt",
                                        "a.pkl"};
    struct fixture f = {0};
    fake_engine_plan(&plain);
    fixture_start(&f);
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        struct buf form = {0};
        add_file(&form, "config", "adapter_config.json", config_path);
        add_file(&form, i % 2 ? "adapter_model.safetensors" : "weights", files[i],
                 weights_path);
        struct reply r = put_form(&f, "a", &form, false);
        EXPECT_EQ(r.status, 422);
        EXPECT(reply_has(&r, "save with safe_serialization=True"));
        EXPECT(r.body.len && r.body.data[r.body.len - 1] == '\n');
        reply_free(&r);
    }
    fixture_stop(&f);
}

TEST(adapters_bad_forms_are_refused)
{
    struct fixture f = {0};
    struct buf form = {0};
    fake_engine_plan(&plain);
    fixture_start(&f);
    add_file(&form, "config", "adapter_config.json", config_path);
    struct reply r = put_form(&f, "a", &form, false);
    EXPECT(r.status >= 400 && r.status < 500);
    reply_free(&r);
    add_file(&form, "config", "adapter_config.json", config_path);
    add_file(&form, "config", "adapter_config.json", config_path);
    r = put_form(&f, "a", &form, false);
    EXPECT_EQ(r.status, 400);
    reply_free(&r);
    add_part(&form, "other", "other.txt", "x", 1);
    r = put_form(&f, "a", &form, false);
    EXPECT(r.status == 400 && reply_has(&r, "other.txt"));
    reply_free(&r);
    for (int i = 0; i < 9; i++)
        add_part(&form, "config", "c.json", "{}", 2);
    r = put_form(&f, "a", &form, false);
    EXPECT_EQ(r.status, 400);
    reply_free(&r);
    buf_add_str(&form, "this is no form");
    r = put_form(&f, "a", &form, false);
    EXPECT_EQ(r.status, 400);
    reply_free(&r);
    r = fixture_ask(&f, "PUT", "/v1/adapters/a", "Content-Type: multipart/form-data\r\n",
                    "x");
    EXPECT_EQ(r.status, 400);
    reply_free(&r);
    r = fixture_ask(&f, "PUT", "/v1/adapters/a", "Content-Type: text/html\r\n", "x");
    EXPECT_EQ(r.status, 415);
    reply_free(&r);
    r = fixture_get(&f, "/v1/adapters");
    EXPECT_STR(r.body.data, "{\"object\":\"list\",\"data\":[],\"has_more\":false}\n");
    reply_free(&r);
    fixture_stop(&f);
}

TEST(adapters_too_large_upload_is_refused)
{
    struct fixture f = {.max_upload = 5000};
    struct buf form = {0};
    char *big = calloc(1, 60000);
    fake_engine_plan(&plain);
    fixture_start(&f);
    for (int is_chunked = 0; is_chunked < 2; is_chunked++) {
        add_part(&form, "weights", "adapter_model.safetensors", big, 60000);
        struct reply r = put_form(&f, "a", &form, is_chunked);
        EXPECT_EQ(r.status, 413);
        reply_free(&r);
    }
    free(big);
    fixture_stop(&f);
}

/* Many changes at once, some of whose clients leave: all are carried out, one after the
 * other. */
TEST(adapters_changes_queue_and_outlive_their_clients)
{
    enum { N = 12 };
    struct fixture f = {0};
    int fds[N];
    fake_engine_plan(&plain);
    fixture_start(&f);
    for (int i = 0; i < N; i++) {
        struct buf b = {0};
        fds[i] = client_open(&f);
        buf_printf(
            &b,
            "PUT /v1/adapters/t%d HTTP/1.1\r\nHost: x\r\n%sContent-Length: %zu\r\n\r\n%s",
            i, json_type, strlen(text_a), text_a);
        client_send(fds[i], b.data);
        buf_free(&b);
    }
    for (int i = 0; i < N; i++) {
        if (i % 3 == 0)
            continue;
        struct reply r = client_read(fds[i], true);
        EXPECT_EQ(r.status, 201);
        reply_free(&r);
    }
    for (int i = 0; i < N; i++)
        close(fds[i]);
    struct reply r = fixture_get(&f, "/v1/adapters");
    EXPECT(reply_has(&r, "\"id\":\"t1\"") && reply_has(&r, "\"id\":\"t11\""));
    reply_free(&r);
    fixture_stop(&f);
}

static int send_change(struct fixture *f, const char *method, const char *name,
                       const char *json)
{
    struct buf b = {0};
    int fd = client_open(f);
    buf_printf(&b, "%s /v1/adapters/%s HTTP/1.1\r\nHost: x\r\n%sContent-Length: %zu\r\n\r\n%s",
               method, name, json_type, strlen(json), json);
    client_send(fd, b.data);
    buf_free(&b);
    usleep(50000); /* one after the other */
    return fd;
}

static void expect_answer(int fd, int status, const char *part)
{
    struct reply r = client_read(fd, true);
    EXPECT_EQ(r.status, status);
    EXPECT(!part || reply_has(&r, part));
    reply_free(&r);
    close(fd);
}

TEST(adapters_changes_of_one_name_stay_in_order)
{
    struct fixture f = {0};
    fake_engine_plan(&(struct fake_plan){.compile_us = 300000});
    fixture_start(&f);
    int a = send_change(&f, "PUT", "a", text_a), b = send_change(&f, "PUT", "b", text_c);
    expect_answer(a, 201, "\"a\"");
    a = send_change(&f, "PUT", "a", text_b);
    int d = send_change(&f, "DELETE", "a", "");
    expect_answer(b, 201, "\"b\"");
    expect_answer(a, 200, "\"a\"");
    expect_answer(d, 204, NULL);
    struct reply r = fixture_get(&f, "/v1/adapters/a");
    EXPECT_EQ(r.status, 404);
    reply_free(&r);
    fixture_stop(&f);
}

TEST(adapters_a_delete_goes_before_puts_that_wait)
{
    struct fixture f = {0};
    fake_engine_plan(&plain);
    fixture_start(&f);
    struct reply r = put(&f, "old", text_a);
    reply_free(&r);
    fake_engine_plan(&(struct fake_plan){.compile_us = 500000});
    int a = send_change(&f, "PUT", "a", text_b), b = send_change(&f, "PUT", "b", text_c);
    int c = send_change(&f, "PUT", "c", text_d), d = send_change(&f, "DELETE", "old", "");
    int64_t start = now_ms();
    expect_answer(d, 204, NULL);
    struct reply c_now = fixture_get(&f, "/v1/adapters/c");
    EXPECT_EQ(c_now.status, 404); /* the puts behind the first have not been made */
    reply_free(&c_now);
    expect_answer(a, 201, "\"a\"");
    expect_answer(b, 201, "\"b\"");
    expect_answer(c, 201, "\"c\"");
    EXPECT(now_ms() - start > 800);
    fixture_stop(&f);
}

TEST(adapters_a_change_that_waits_too_long_changes_nothing)
{
    struct fixture f = {.deadline_ms = 300};
    fake_engine_plan(&(struct fake_plan){.compile_us = 900000});
    fixture_start(&f);
    int a = send_change(&f, "PUT", "a", text_a), b = send_change(&f, "PUT", "b", text_b);
    expect_answer(b, 504, "deadline_exceeded");
    expect_answer(a, 201, "\"a\""); /* what has begun is carried through */
    fake_engine_plan(&plain);
    struct reply r = put(&f, "c", text_a);
    EXPECT_EQ(r.status, 201);
    reply_free(&r);
    r = fixture_get(&f, "/v1/adapters");
    EXPECT(reply_has(&r, "\"id\":\"a\"") && !reply_has(&r, "\"id\":\"b\""));
    reply_free(&r);
    fixture_stop(&f);
}

static void add_tenant(struct fixture *f, const char *name)
{
    char json[100];
    snprintf(json, sizeof json, "{\"name\":\"%s\"}", name);
    struct reply r = fixture_ask(f, "POST", "/admin/tenants", json_type, json);
    EXPECT_EQ(r.status, 201);
    reply_free(&r);
}

/* Each is slow; together they take as long as one. */
TEST(adapters_changes_of_tenants_run_at_once)
{
    enum { N = 4 };
    struct fixture f = {0};
    int fds[N];
    char name[32];
    fake_engine_plan(&(struct fake_plan){.compile_us = 1000000});
    fixture_start(&f);
    for (int i = 0; i < N; i++) {
        snprintf(name, sizeof name, "t%d", i);
        add_tenant(&f, name);
    }
    int64_t start = now_ms();
    for (int i = 0; i < N; i++) {
        snprintf(name, sizeof name, "x?tenant=t%d", i);
        fds[i] = send_change(&f, "PUT", name, text_a);
    }
    for (int i = 0; i < N; i++)
        expect_answer(fds[i], 201, "\"x\"");
    EXPECT(now_ms() - start >= 1000 && now_ms() - start < N * 1000);
    fixture_stop(&f);
}

TEST(adapters_flags)
{
    static const char *const bad[] = {"{\"public\":1}", "{\"name\":\"y\"}", "[]", "", "{"};
    struct fixture f = {0};
    fake_engine_plan(&plain);
    fixture_start(&f);
    struct reply r = put(&f, "x", text_a);
    EXPECT(reply_has(&r, "\"public\":false,\"pinned\":false") &&
           reply_has(&r, "\"state\":\"ready\",\"why\":null,\"until\":null,\"resident\":true"));
    reply_free(&r);
    r = fixture_ask(&f, "PATCH", "/v1/adapters/x", json_type,
                    "{\"public\":true,\"pinned\":true}");
    EXPECT(r.status == 200 && reply_has(&r, "\"public\":true,\"pinned\":true"));
    reply_free(&r);
    add_tenant(&f, "other");
    r = fixture_get(&f, "/v1/adapters/x?tenant=other");
    EXPECT(r.status == 200 && reply_has(&r, "\"public\":true"));
    reply_free(&r);
    r = fixture_ask(&f, "PATCH", "/v1/adapters/x", json_type, "{\"public\":false}");
    EXPECT(r.status == 200 && reply_has(&r, "\"public\":false,\"pinned\":true"));
    reply_free(&r);
    r = fixture_get(&f, "/v1/adapters/x?tenant=other");
    EXPECT_EQ(r.status, 404);
    reply_free(&r);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        r = fixture_ask(&f, "PATCH", "/v1/adapters/x", json_type, bad[i]);
        EXPECT_EQ(r.status, 400);
        reply_free(&r);
    }
    r = fixture_ask(&f, "PATCH", "/v1/adapters/y", json_type, "{\"public\":true}");
    EXPECT_EQ(r.status, 404);
    reply_free(&r);
    fixture_stop(&f);
}

TEST(adapters_models_come_in_pages)
{
    struct fixture f = {0};
    static const struct {
        const char *query, *ids[3];
        bool has_more;
    } rows[] = {
        {"", {"gqa", "a", "b"}, false},        {"?limit=3", {"gqa", "a", "b"}, false},
        {"?limit=2", {"gqa", "a"}, true},      {"?limit=1", {"gqa"}, true},
        {"?after=gqa", {"a", "b"}, false},     {"?after=gqa&limit=1", {"a"}, true},
        {"?after=a&limit=1", {"b"}, false},    {"?after=b", {NULL}, false},
    };
    fake_engine_plan(&plain);
    fixture_start(&f);
    for (int i = 0; i < 2; i++) {
        struct reply r = put(&f, i ? "b" : "a", text_a);
        reply_free(&r);
    }
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char path[64];
        snprintf(path, sizeof path, "/v1/models%s", rows[i].query);
        struct reply r = fixture_get(&f, path);
        const char *at = r.body.data;
        for (int k = 0; k < 3 && rows[i].ids[k] && at; k++) {
            char id[32];
            snprintf(id, sizeof id, "{\"id\":\"%s\"", rows[i].ids[k]);
            at = strstr(at, id);
            at = at ? at + strlen(id) : NULL;
        }
        if (!at || strstr(at, "{\"id\"") ||
            !reply_has(&r, rows[i].has_more ? "],\"has_more\":true}" : "],\"has_more\":false}"))
            test_fail(__FILE__, __LINE__, "%s: %s", path, r.body.data);
        reply_free(&r);
    }
    fixture_stop(&f);
}

/* A request keeps the version that it started with. */
TEST(adapters_swap_under_a_running_stream)
{
    struct fixture f = {0};
    struct buf got = {0};
    fake_engine_plan(&(struct fake_plan){.hold_after = 1});
    fixture_start(&f);
    struct reply r = put(&f, "x", text_a);
    char *first = version_of(&r);
    reply_free(&r);
    int fd = client_open(&f);
    client_post(fd, "{\"model\":\"x\",\"prompt\":\"a\",\"max_tokens\":3,\"stream\":true}");
    EXPECT(client_wait_for(fd, &got, " w0", 5000));
    EXPECT(strstr(got.data, first) != NULL);
    r = put(&f, "x", text_b);
    EXPECT_EQ(r.status, 200);
    reply_free(&r);
    r = fixture_ask(&f, "DELETE", "/v1/adapters/x", "", NULL);
    EXPECT_EQ(r.status, 204);
    reply_free(&r);
    fake_engine_plan(&plain);
    EXPECT(client_wait_for(fd, &got, "[DONE]", 5000));
    EXPECT(!strstr(got.data, "error"));
    close(fd);
    free(first);
    buf_free(&got);
    fixture_stop(&f);
}
