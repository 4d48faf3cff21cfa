/* What happens while a request lives: clients that go away or read slowly, waiting,
 * deadlines, the end. */
#include "tests/server/fixture.h"
#include "tests/support/fake_engine.h"
#include "tests/test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static const char stream_of[] = "{\"prompt\":\"a\",\"max_tokens\":%d,\"stream\":true}";

static void post_stream(int fd, int max_tokens)
{
    char json[128];
    snprintf(json, sizeof json, stream_of, max_tokens);
    client_post(fd, json);
}

static struct fake_seen seen_now(void)
{
    struct fake_seen s;
    fake_engine_seen(&s);
    return s;
}

/* Milliseconds until so many jobs were posted, or cancelled, or ms when that did not come.
 */
static int64_t wait_posted(int n, int ms)
{
    int64_t start = now_ms();
    while (seen_now().n_posted < n && now_ms() - start < ms)
        usleep(1000);
    return now_ms() - start;
}

static int64_t wait_cancelled(int n, int ms)
{
    int64_t start = now_ms();
    while (seen_now().n_cancelled < n && now_ms() - start < ms)
        usleep(1000);
    return now_ms() - start;
}

static double cpu_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

/* ---- clients that go away ------------------------------------------------------------ */

static void leave(const struct fake_plan *plan, const char *json, const char *wait_for)
{
    struct fixture f = {0};
    struct buf got = {0};
    fake_engine_plan(plan);
    fixture_start(&f);
    int fd = client_open(&f);
    client_post(fd, json);
    EXPECT(wait_posted(1, 5000) < 5000);
    if (wait_for)
        EXPECT(client_wait_for(fd, &got, wait_for, 5000));
    usleep(20000); /* so that it surely sleeps */
    close(fd);
    EXPECT(wait_cancelled(1, 2000) <
           250 + 100); /* 250 promised, the rest for a busy machine */
    buf_free(&got);
    fixture_stop(&f);
    EXPECT_EQ(seen_now().n_final, 1);
}

TEST(life_client_gone_while_queued)
{
    static const struct fake_plan held = {.is_held = true};
    leave(&held, "{\"prompt\":\"a\",\"stream\":true}", NULL);
    leave(&held, "{\"prompt\":\"a\"}", NULL);
}

TEST(life_client_gone_while_running)
{
    static const struct fake_plan held = {.hold_after = 2};
    leave(&held, "{\"prompt\":\"a\",\"stream\":true}", " w1");
    leave(&held, "{\"prompt\":\"a\"}", NULL);
}

TEST(life_client_gone_behind_a_pipelined_request)
{
    struct fixture f = {0};
    fake_engine_plan(&(struct fake_plan){.is_held = true});
    fixture_start(&f);
    int fd = client_open(&f);
    post_stream(fd, 3);
    client_send(fd, "GET /health HTTP/1.1\r\nHost: x\r\n\r\n");
    EXPECT(wait_posted(1, 5000) < 5000);
    close(fd);
    EXPECT(wait_cancelled(1, 2000) < 350);
    fixture_stop(&f);
}

/* The last bytes and the end of the connection come together. */
TEST(life_client_gone_in_the_middle_of_its_body)
{
    struct fixture f = {0};
    fake_engine_plan(&(struct fake_plan){0});
    fixture_start(&f);
    for (int i = 0; i < 20; i++) {
        int fd = client_open(&f);
        client_send(
            fd, "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{");
        close(fd);
    }
    int64_t start = now_ms();
    bool are_all_gone = false;
    while (!are_all_gone && now_ms() - start < 20000) {
        struct reply r = fixture_get(&f, "/metrics");
        are_all_gone = reply_has(&r, "{status=\"499\"} 20\n");
        reply_free(&r);
    }
    EXPECT(are_all_gone);
    fixture_stop(&f);
}

static int n_sockets(void)
{
    char path[40], target[16];
    int n = 0;
    for (int fd = 0; fd < 1024; fd++) {
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        n += readlink(path, target, sizeof target) > 7 && memcmp(target, "socket:", 7) == 0;
    }
    return n;
}

/* Neither half a head nor an idle connection may keep its descriptor when its client left.
 */
TEST(life_connections_without_a_request_end_with_their_client)
{
    enum { N = 50 };
    struct fixture f = {0};
    fake_engine_plan(&(struct fake_plan){0});
    fixture_start(&f);
    int before = n_sockets();
    for (int i = 0; i < N; i++) {
        int fd = client_open(&f);
        client_send(fd, i % 2 ? "GET /hea" : "GET /health HTTP/1.1\r\nHost: x\r\n\r\n");
        close(fd);
    }
    int64_t start = now_ms();
    while (n_sockets() > before && now_ms() - start < 20000)
        usleep(10000);
    EXPECT_EQ(n_sockets(), before);
    fixture_stop(&f);
}

TEST(life_many_clients_leave_at_once)
{
    enum { N = 40 };
    struct fixture f = {0};
    int fds[N];
    fake_engine_plan(&(struct fake_plan){.hold_after = 3});
    fixture_start(&f);
    for (int i = 0; i < N; i++) {
        fds[i] = client_open(&f);
        post_stream(fds[i], 100);
    }
    EXPECT(wait_posted(N, 5000) < 5000);
    for (int i = 0; i < N; i++)
        close(fds[i]);
    EXPECT(wait_cancelled(N, 3000) < 1000);
    fixture_stop(&f);
    EXPECT_EQ(seen_now().n_final, N);
}

/* ---- slow readers, idle streams ------------------------------------------------------ */

TEST(life_slow_reader_is_cut_and_holds_nobody)
{
    struct fixture f = {.max_backlog = 256 * 1024};
    fake_engine_plan(&(struct fake_plan){.text_bytes = 16 * 1024, .step_us = 2000});
    fixture_start(&f);
    int slow = client_open(&f), small = 64 * 1024;
    setsockopt(slow, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    post_stream(slow, 900);
    EXPECT(wait_posted(1, 5000) < 5000);
    int64_t start = now_ms();
    struct reply r = fixture_complete(&f, "{\"prompt\":\"b\",\"max_tokens\":1}");
    EXPECT_EQ(r.status, 200);
    EXPECT(now_ms() - start < 1500);
    reply_free(&r);
    EXPECT(wait_cancelled(1, 5000) < 5000);
    /* What it reads after all ends with an error event. */
    struct buf got = {0};
    EXPECT(client_wait_for(slow, &got, "[DONE]", 20000));
    EXPECT(got.data && strstr(got.data, "read too slowly"));
    EXPECT(got.len < 12 * 1024 * 1024); /* not all of its 15 MB were made and kept */
    buf_free(&got);
    close(slow);
    fixture_stop(&f);
}

/* Answers that nobody reads: the connections end, and so do the exchanges. */
static int slow_factor(void)
{
    const char *slow = getenv("PREFIXD_TEST_SLOW");
    return !slow || atoi(slow) <= 1 ? 1 : atoi(slow) < 10 ? 4 : 8;
}

TEST(life_unread_answers_have_an_end)
{
    static const char *const asks[] = {
        "{\"prompt\":\"a\",\"max_tokens\":900}",
        "{\"prompt\":\"a\",\"max_tokens\":900,\"stream\":true}",
    };
    for (int i = 0; i < 2; i++) {
        /* long enough for the whole answer to be made on a slow machine */
        struct fixture f = {.deadline_ms = 3000 * slow_factor(), .read_grace_ms = 300};
        fake_engine_plan(&(struct fake_plan){.text_bytes = 16 * 1024});
        fixture_start(&f);
        int slow = client_open(&f), small = 4096;
        setsockopt(slow, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
        client_post(slow, asks[i]);
        struct reply r = {0};
        int64_t start = now_ms();
        do {
            reply_free(&r);
            usleep(50000);
            r = fixture_get(&f, "/metrics");
        } while (!reply_has(&r, "http_requests_total{status=\"499\"} 1\n") &&
                 now_ms() - start < 120000);
        EXPECT(now_ms() - start > 1000);
        EXPECT(reply_has(&r, "http_requests_total{status=\"499\"} 1\n"));
        reply_free(&r);
        close(slow);
        fixture_stop(&f);
    }
}

TEST(life_idle_stream_does_not_spin)
{
    struct fixture f = {0};
    struct buf got = {0};
    fake_engine_plan(&(struct fake_plan){.hold_after = 1, .step_us = 20000});
    fixture_start(&f);
    int fd = client_open(&f);
    post_stream(fd, 9);
    EXPECT(client_wait_for(fd, &got, " w0", 5000));
    double before = cpu_ms();
    usleep(500000);
    EXPECT(cpu_ms() - before < 8); /* 1 asleep, 12 and more when woken all the time */
    close(fd);
    buf_free(&got);
    fixture_stop(&f);
}

TEST(life_waiting_stream_gets_headers_and_comments)
{
    struct fixture f = {.keepalive_ms = 300};
    struct buf got = {0};
    fake_engine_plan(&(struct fake_plan){.is_held = true});
    fixture_start(&f);
    int fd = client_open(&f);
    post_stream(fd, 2);
    EXPECT(!client_wait_for(fd, &got, "HTTP/1.1",
                            150)); /* a refusal could still have a status */
    EXPECT(client_wait_for(fd, &got, "200 OK", 2000));
    EXPECT(client_wait_for(fd, &got, ": waiting\n\n", 2000));
    buf_clear(&got);
    EXPECT(client_wait_for(fd, &got, ": waiting\n\n", 2000));
    fake_engine_plan(&(struct fake_plan){.fail_code = ERR_NO_MEMORY});
    EXPECT(client_wait_for(fd, &got, "data: {\"error\":", 2000));
    EXPECT(client_wait_for(fd, &got, "data: [DONE]", 2000));
    close(fd);
    buf_free(&got);
    fixture_stop(&f);
}

/* ---- deadlines ----------------------------------------------------------------------- */

TEST(life_deadline_before_the_first_byte)
{
    struct fixture f = {.deadline_ms = 300};
    fake_engine_plan(&(struct fake_plan){.is_held = true});
    fixture_start(&f);
    struct reply r = fixture_complete(&f, "{\"prompt\":\"a\"}");
    EXPECT_EQ(r.status, 504);
    EXPECT(reply_has(&r, "deadline_exceeded"));
    reply_free(&r);
    EXPECT(wait_cancelled(1, 1000) < 1000);
    fixture_stop(&f);
}

TEST(life_deadline_after_the_first_byte)
{
    struct fixture f = {.deadline_ms = 300};
    fake_engine_plan(&(struct fake_plan){.hold_after = 1});
    fixture_start(&f);
    struct reply r = fixture_complete(&f, "{\"prompt\":\"a\",\"stream\":true}");
    EXPECT_EQ(r.status, 200);
    EXPECT(reply_has(&r, "deadline_exceeded"));
    EXPECT(reply_has(&r, "[DONE]"));
    reply_free(&r);
    fixture_stop(&f);
}

/* ---- the end of the server ----------------------------------------------------------- */

TEST(life_drain_lets_requests_finish)
{
    struct fixture f = {0};
    struct buf got = {0};
    fake_engine_plan(&(struct fake_plan){.hold_after = 2});
    fixture_start(&f);
    int fd = client_open(&f), idle = client_open(&f);
    client_send(idle, "GET /ready HTTP/1.1\r\nHost: x\r\n\r\n");
    struct reply r = client_read(idle, true);
    EXPECT_EQ(r.status, 200);
    reply_free(&r);
    post_stream(fd, 4);
    EXPECT(client_wait_for(fd, &got, " w1", 5000));
    fixture_signal(&f);
    for (int i = 0; i < 100; i++) {
        int late = client_open(&f);
        if (late < 0)
            break;
        close(late);
        EXPECT(i < 99);
        usleep(10000);
    }
    client_send(idle, "GET /ready HTTP/1.1\r\nHost: x\r\n\r\n");
    r = client_read(idle, true);
    EXPECT_EQ(r.status, 503);
    reply_free(&r);
    fake_engine_plan(&(struct fake_plan){0});
    EXPECT(client_wait_for(fd, &got, "[DONE]", 5000));
    EXPECT(strstr(got.data, " w3") && strstr(got.data, "\"length\"") &&
           !strstr(got.data, "error"));
    close(fd);
    close(idle);
    buf_free(&got);
    fixture_join(&f);
}

TEST(life_drain_refuses_new_work_on_old_connections)
{
    struct fixture f = {0};
    fake_engine_plan(&(struct fake_plan){.is_held = true});
    fixture_start(&f);
    int held = client_open(&f), other = client_open(&f);
    client_send(other, "GET /health HTTP/1.1\r\nHost: x\r\n\r\n");
    struct reply r = client_read(other, true);
    reply_free(&r);
    post_stream(held, 4);
    EXPECT(wait_posted(1, 5000) < 5000);
    fixture_signal(&f);
    usleep(100000);
    client_post(other, "{\"prompt\":\"a\"}");
    r = client_read(other, true);
    EXPECT_EQ(r.status, 503);
    EXPECT_STR(reply_header(&r, "Connection"), "close");
    reply_free(&r);
    close(held);
    close(other);
    fixture_join(&f);
}

TEST(life_drain_has_an_end)
{
    struct fixture f = {.drain_ms = 300};
    struct buf got = {0};
    fake_engine_plan(&(struct fake_plan){.hold_after = 2});
    fixture_start(&f);
    int streaming = client_open(&f), waiting = client_open(&f);
    post_stream(streaming, 4);
    EXPECT(client_wait_for(streaming, &got, " w1", 5000));
    client_post(waiting, "{\"prompt\":\"a\"}");
    EXPECT(wait_posted(2, 5000) < 5000);
    int64_t start = now_ms();
    fixture_signal(&f);
    EXPECT(client_wait_for(streaming, &got, "[DONE]", 5000));
    EXPECT(strstr(got.data, "shutting down") != NULL);
    struct reply r = client_read(waiting, true);
    EXPECT_EQ(r.status, 503);
    reply_free(&r);
    close(streaming);
    close(waiting);
    fixture_join(&f);
    EXPECT(now_ms() - start < 3000);
    buf_free(&got);
}

/* Nothing may be left waiting for an engine that is gone. */
TEST(life_stop_with_an_open_upload_and_a_stuck_reader)
{
    struct fixture f = {.drain_ms = 100};
    fake_engine_plan(&(struct fake_plan){.text_bytes = 32 * 1024});
    fixture_start(&f);
    int upload = client_open(&f), stuck = client_open(&f), small = 4096;
    client_send(
        upload,
        "PUT /v1/adapters/a HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        "Content-Length: 100\r\n\r\n{\"kind\":");
    setsockopt(stuck, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    post_stream(stuck, 900);
    EXPECT(wait_posted(1, 5000) < 5000);
    usleep(100000);
    int64_t start = now_ms();
    fixture_stop(&f);
    EXPECT(now_ms() - start < 8000);
    client_send(upload, "x"); /* it was cut; nobody crashes */
    close(upload);
    close(stuck);
}
