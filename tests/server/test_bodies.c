/* Bodies: how much of them may be in memory together, and how long they may take. */
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

static void send_bytes(int fd, const char *bytes, size_t len)
{
    while (len > 0) {
        ssize_t n = send(fd, bytes, len, MSG_NOSIGNAL);
        if (n <= 0)
            return;
        bytes += n;
        len -= (size_t)n;
    }
}

/* An upload whose end never comes; is_chunked says nothing about its length. */
static int open_upload(const struct fixture *f, bool is_chunked, size_t length, size_t sent)
{
    struct buf b = {0};
    char *bytes = calloc(1, sent + 1);
    int fd = client_open(f);
    buf_add_str(&b, "PUT /v1/adapters/a HTTP/1.1\r\nHost: x\r\n"
                    "Content-Type: application/json\r\n");
    if (is_chunked)
        buf_printf(&b, "Transfer-Encoding: chunked\r\n\r\n%zx\r\n", length);
    else
        buf_printf(&b, "Content-Length: %zu\r\n\r\n", length);
    buf_add(&b, bytes, sent);
    send_bytes(fd, b.data, b.len);
    buf_free(&b);
    free(bytes);
    return fd;
}

static void expect_refused(struct fixture *f, int fd, size_t length)
{
    char *bytes = calloc(1, length);
    send_bytes(fd, bytes, length);
    free(bytes);
    struct reply r = client_read(fd, true);
    EXPECT_EQ(r.status, 503);
    EXPECT_STR(reply_header(&r, "Retry-After"), "1");
    reply_free(&r);
    r = fixture_complete(f, small);
    EXPECT_EQ(r.status, 200);
    reply_free(&r);
}

/* Two of the largest size fit, as much as has come of them; what comes beyond waits outside,
 * and only uploads do. */
TEST(bodies_uploads_are_counted_as_they_come)
{
    enum { LENGTH = 1000000 };
    struct fixture f = {.max_upload = LENGTH};
    int fds[3];
    fake_engine_plan(&plain);
    fixture_start(&f);
    fds[0] = open_upload(&f, false, LENGTH, LENGTH - 1);
    fds[1] = open_upload(&f, false, LENGTH, LENGTH - 1);
    fixture_wait_metric(&f, "upload_bytes", 2 * LENGTH - 2);
    fds[2] = open_upload(&f, false, LENGTH, 0);
    expect_refused(&f, fds[2], LENGTH);
    close(fds[0]);
    fixture_wait_metric(&f, "upload_bytes", LENGTH - 1);
    struct reply r = fixture_ask(&f, "PUT", "/v1/adapters/t",
                                 "Content-Type: application/json\r\n",
                                 "{\"kind\":\"text\",\"text\":\"x\"}");
    EXPECT_EQ(r.status, 201);
    reply_free(&r);
    close(fds[1]);
    close(fds[2]);
    fixture_wait_metric(&f, "upload_bytes", 0);
    fixture_stop(&f);
}

TEST(bodies_chunked_uploads_are_counted_as_they_come)
{
    enum { LENGTH = 1000000 };
    struct fixture f = {.max_upload = LENGTH};
    fake_engine_plan(&plain);
    fixture_start(&f);
    int a = open_upload(&f, false, LENGTH, LENGTH - 1);
    int b = open_upload(&f, true, LENGTH, 600000);
    fixture_wait_metric(&f, "upload_bytes", LENGTH - 1 + 600000);
    int c = open_upload(&f, true, 500000, 500000);
    client_send(c, "\r\n0\r\n\r\n");
    struct reply r = client_read(c, true);
    EXPECT_EQ(r.status, 503);
    reply_free(&r);
    fixture_wait_metric(&f, "upload_bytes", LENGTH - 1 + 600000);
    close(a);
    close(b);
    close(c);
    fixture_wait_metric(&f, "upload_bytes", 0);
    fixture_stop(&f);
}

/* ---- time ---------------------------------------------------------------------------- */

static void expect_cut(int fd, const char *status, int ms)
{
    struct buf got = {0};
    char byte;
    int64_t start = now_ms();
    EXPECT(client_wait_for(fd, &got, status, ms));
    EXPECT(client_wait_for(fd, &got, "\"error\"", 1000));
    EXPECT(got.data && strstr(got.data, "X-Request-Id: "));
    EXPECT(got.data && strstr(got.data, "Connection: close"));
    while (recv(fd, &byte, 1, 0) > 0)
        ;
    EXPECT(now_ms() - start < ms + 1000);
    close(fd);
    buf_free(&got);
}

TEST(bodies_have_their_time)
{
    struct fixture f = {.body_timeout_ms = 300};
    fake_engine_plan(&plain);
    fixture_start(&f);
    int fd = client_open(&f);
    client_send(fd, "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n{");
    expect_cut(fd, "408 Request Timeout", 2000);
    expect_cut(open_upload(&f, false, 1000000, 100), "408 Request Timeout", 2000);
    expect_cut(open_upload(&f, true, 1000000, 100), "408 Request Timeout", 2000);
    fixture_wait_metric(&f, "upload_bytes", 0);
    fixture_stop(&f);
}

TEST(bodies_of_uploads_have_more_time_while_they_come)
{
    enum { PIECE = 60000, N = 8 };
    struct fixture f = {.body_timeout_ms = 300};
    char *bytes = calloc(1, PIECE);
    fake_engine_plan(&plain);
    fixture_start(&f);
    int fd = open_upload(&f, false, N * PIECE, 0);
    for (int i = 0; i < N; i++) {
        usleep(100000);
        send_bytes(fd, bytes, PIECE);
    }
    struct reply r = client_read(fd, true);
    EXPECT_EQ(r.status, 415); /* zeros are no adapter, but all of them were taken */
    reply_free(&r);
    close(fd);
    free(bytes);
    fixture_stop(&f);
}

TEST(bodies_do_not_outlive_the_deadline)
{
    struct fixture f = {.deadline_ms = 300};
    fake_engine_plan(&plain);
    fixture_start(&f);
    int fd = client_open(&f);
    client_send(fd, "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n{");
    expect_cut(fd, "504 Gateway Timeout", 2000);
    fixture_stop(&f);
}

/* ---- refused bodies ------------------------------------------------------------------ */

TEST(bodies_without_a_key_are_answered_however_large)
{
    enum { PIECE = 1 << 20, N = 100 };
    char path[] = "/tmp/prefixd-keys-XXXXXX";
    int keys = mkstemp(path);
    EXPECT(write(keys, "secret\n", 7) == 7);
    close(keys);
    struct fixture f = {.key_file = path};
    char *bytes = calloc(1, PIECE);
    fake_engine_plan(&plain);
    fixture_start(&f);
    int fd = open_upload(&f, true, (size_t)N * PIECE, 0);
    for (int i = 0; i < N; i++)
        send_bytes(fd, bytes, PIECE);
    struct reply r = client_read(fd, true);
    EXPECT_EQ(r.status, 401);
    reply_free(&r);
    close(fd);
    free(bytes);
    fixture_stop(&f);
    unlink(path);
}

TEST(bodies_that_are_framed_twice_end_the_connection)
{
    static const char *const frames[] = {
        "Content-Length: 29\r\nTransfer-Encoding: chunked\r\n",
        "Content-Length: 29\r\nContent-Length: 4\r\n",
        "Content-Length: 29\r\nContent-Length: 29\r\nContent-Length: 28\r\n",
    };
    struct fixture f = {0};
    fake_engine_plan(&plain);
    fixture_start(&f);
    for (int i = 0; i < 3; i++) {
        struct buf b = {0}, got = {0};
        int fd = client_open(&f);
        buf_printf(&b, "POST /v1/completions HTTP/1.1\r\nHost: x\r\n%s\r\n%s", frames[i], small);
        client_send(fd, b.data);
        EXPECT(client_wait_for(fd, &got, "400 Bad Request", 5000));
        EXPECT(!client_wait_for(fd, &got, "200 OK", 3000)); /* leaves when it is closed */
        EXPECT(got.data && strstr(got.data, "Connection: close"));
        close(fd);
        buf_free(&b);
        buf_free(&got);
    }
    fixture_stop(&f);
}
