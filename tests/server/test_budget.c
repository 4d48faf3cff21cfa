/* Memory that tenants share: none of them keeps the others out. */
#include "server/budget.h"
#include "tests/server/fixture.h"
#include "tests/support/fake_engine.h"
#include "tests/test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static const struct fake_plan plain = {0};
static const char small[] = "{\"prompt\":\"a\",\"max_tokens\":1}";
static const char text[] = "{\"kind\":\"text\",\"text\":\"x\"}";

/* A request whose body does not come to its end. */
static int open_body(const struct fixture *f, const char *what, size_t length, size_t sent)
{
    struct buf b = {0};
    char *spaces = calloc(1, sent + 1);
    int fd = client_open(f);
    memset(spaces, ' ', sent);
    buf_printf(&b,
               "%s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
               "Content-Length: %zu\r\n\r\n%s",
               what, length, spaces);
    client_send(fd, b.data);
    buf_free(&b);
    free(spaces);
    return fd;
}

static void expect_status(struct fixture *f, const char *method, const char *path,
                          const char *json, int status)
{
    struct reply r =
        fixture_ask(f, method, path, "Content-Type: application/json\r\n", json);
    EXPECT_EQ(r.status, status);
    reply_free(&r);
}

static void expect_refused(const struct fixture *f, const char *what, size_t length)
{
    int fd = open_body(f, what, length, length);
    struct reply r = client_read(fd, true);
    EXPECT_EQ(r.status, 503);
    EXPECT_STR(reply_header(&r, "Retry-After"), "1");
    reply_free(&r);
    close(fd);
}

static void start_with_b(struct fixture *f)
{
    fake_engine_plan(&plain);
    fixture_start(f);
    expect_status(f, "POST", "/admin/tenants", "{\"name\":\"b\"}", 201);
}

/* One tenant's unfinished completions fill its share, and nobody else's. */
TEST(budget_bodies_of_one_leave_room_for_another)
{
    enum { SIZE = 20000, N = 64 };
    struct fixture f = {.max_body = SIZE};
    int fds[N];
    start_with_b(&f);
    for (int i = 0; i < N; i++)
        fds[i] = open_body(&f, "POST /v1/completions", SIZE, SIZE - 1);
    fixture_wait_metric(&f, "body_bytes", N * (SIZE - 1));
    expect_refused(&f, "POST /v1/completions", SIZE);
    expect_status(&f, "POST", "/v1/completions?tenant=b", small, 200);
    int b = open_body(&f, "POST /v1/completions?tenant=b", SIZE, SIZE - 1);
    fixture_wait_metric(&f, "body_bytes", (N + 1) * (SIZE - 1));
    for (int i = 0; i < N; i++)
        close(fds[i]);
    close(b);
    fixture_wait_metric(&f, "body_bytes", 0);
    fixture_stop(&f);
}

/* A length is no byte: neither one's own requests nor others' are kept out by it. */
TEST(budget_gives_nothing_for_announced_lengths)
{
    enum { SIZE = 1000000, N = 4 };
    struct fixture f = {.max_upload = SIZE};
    int fds[N];
    start_with_b(&f);
    for (int i = 0; i < N; i++)
        fds[i] = open_body(&f, "PUT /v1/adapters/a", SIZE, 1);
    fixture_wait_metric(&f, "upload_bytes", N);
    expect_status(&f, "PUT", "/v1/adapters/t?tenant=b", text, 201);
    expect_status(&f, "PUT", "/v1/adapters/t", text, 201);
    for (int i = 0; i < N; i++)
        close(fds[i]);
    fixture_wait_metric(&f, "upload_bytes", 0);
    fixture_stop(&f);
}

/* While one tenant holds all it may, another still gets half of a largest body in, and a
 * third its own. */
TEST(budget_uploads_of_one_leave_room_for_another)
{
    enum { SIZE = 1000000 };
    struct fixture f = {.max_upload = SIZE};
    start_with_b(&f);
    int a = open_body(&f, "PUT /v1/adapters/a", SIZE, SIZE - 1);
    int b = open_body(&f, "PUT /v1/adapters/b", SIZE, SIZE - 1);
    fixture_wait_metric(&f, "upload_bytes", 2 * (SIZE - 1));
    expect_refused(&f, "PUT /v1/adapters/c", SIZE);
    expect_refused(&f, "PUT /v1/adapters/c?tenant=b", SIZE);
    int c = open_body(&f, "PUT /v1/adapters/c?tenant=b", SIZE / 2, SIZE / 2 - 1);
    fixture_wait_metric(&f, "upload_bytes", 2 * (SIZE - 1) + SIZE / 2 - 1);
    expect_status(&f, "POST", "/admin/tenants", "{\"name\":\"d\"}", 201);
    expect_status(&f, "PUT", "/v1/adapters/t?tenant=d", text, 201);
    close(a);
    close(b);
    close(c);
    fixture_wait_metric(&f, "upload_bytes", 0);
    fixture_stop(&f);
}

/* A completion that is asked for on a connection of its own, and not answered yet. */
static int open_answer(const struct fixture *f, const char *query, int max_tokens)
{
    struct buf b = {0};
    char json[64];
    int fd = client_open(f);
    snprintf(json, sizeof json, "{\"prompt\":[7],\"max_tokens\":%d}", max_tokens);
    buf_printf(&b, "POST /v1/completions%s HTTP/1.1\r\nHost: x\r\nContent-Length: %zu\r\n\r\n%s",
               query, strlen(json), json);
    client_send(fd, b.data);
    buf_free(&b);
    return fd;
}

static void expect_no_answer(struct fixture *f, const char *query, const char *json)
{
    char path[64];
    snprintf(path, sizeof path, "/v1/completions%s", query);
    struct reply r = fixture_ask(f, "POST", path, "", json);
    EXPECT_EQ(r.status, 503);
    EXPECT_STR(reply_header(&r, "Retry-After"), "1");
    reply_free(&r);
}

/* As long as an answer is being made, or not yet read, its bytes are its tenant's. */
TEST(budget_answers_of_one_leave_room_for_another)
{
    enum { BYTES = 48, LONG = 15 }; /* of a token; tokens: a third of a share */
    struct fixture f = {.max_answers = 3 * LONG * BYTES};
    int fds[4];
    start_with_b(&f);
    fake_engine_plan(&(struct fake_plan){.is_held = true});
    for (int i = 0; i < 3; i++)
        fds[i] = open_answer(&f, "", LONG);
    fixture_wait_metric(&f, "answer_bytes", 3 * LONG * BYTES);
    expect_no_answer(&f, "", small);
    fds[3] = open_answer(&f, "?tenant=b", LONG);
    fixture_wait_metric(&f, "answer_bytes", 4 * LONG * BYTES);
    expect_no_answer(&f, "?tenant=b", small);
    for (int i = 0; i < 4; i++)
        close(fds[i]);
    fixture_wait_metric(&f, "answer_bytes", 0);
    fixture_stop(&f);
}

/* ---- the rule ------------------------------------------------------------------------ */

static size_t take_all(struct budget_hold *h, struct budget *b, int64_t tenant)
{
    size_t start = h->bytes;
    for (size_t step = 1 << 20; step > 0;)
        if (!budget_take(h, b, tenant, step))
            step /= 2;
    return h->bytes - start;
}

TEST(budget_shares_are_two_thirds_of_what_others_leave)
{
    struct budget b = {0};
    struct budget_hold holds[3] = {{0}};
    budget_set(&b, 54000);
    EXPECT_EQ(b.max, 81000);
    for (size_t i = 0, left = 81000; i < 3; i++, left /= 3)
        EXPECT_EQ(take_all(&holds[i], &b, (int64_t)i), left / 3 * 2);
    budget_drop(&holds[0]);
    EXPECT_EQ(take_all(&holds[0], &b, 0), 38000); /* of 57000 */
    for (int i = 0; i < 3; i++)
        budget_drop(&holds[i]);
    EXPECT_EQ(b.used, 0);
    EXPECT(!b.shares);
}

/* Several bodies are one share, whichever of them goes first. */
TEST(budget_shares_are_of_tenants_not_of_bodies)
{
    struct budget b = {0};
    struct budget_hold holds[2] = {{0}};
    budget_set(&b, 60000);
    EXPECT(budget_take(&holds[0], &b, 7, 40000));
    EXPECT(budget_take(&holds[1], &b, 7, 20000));
    EXPECT(!budget_take(&holds[0], &b, 7, 1));
    EXPECT(!budget_take(&holds[1], &b, 7, 1));
    budget_drop(&holds[0]);
    EXPECT_EQ(b.used, 20000);
    EXPECT(!budget_take(&holds[1], &b, 7, 40001));
    EXPECT(budget_take(&holds[1], &b, 7, 40000));
    EXPECT(!budget_take(&holds[1], &b, 7, (size_t)-1));
    budget_drop(&holds[1]);
    budget_drop(&holds[1]);
    EXPECT_EQ(b.used, 0);
    EXPECT(!b.shares);
}
