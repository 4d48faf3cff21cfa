/* What runs is listed, with its station and its tokens, and only while it runs. */
#include "tests/server/fixture.h"
#include "tests/support/fake_engine.h"
#include "tests/test.h"

#include <string.h>
#include <unistd.h>

static const char json_type[] = "Content-Type: application/json\r\n";

static void expect_list(struct fixture *f, const char *const *texts, size_t n)
{
    struct reply r = fixture_get(f, "/admin/requests");
    EXPECT_EQ(r.status, 200);
    for (size_t i = 0; i < n; i++)
        if (!reply_has(&r, texts[i]))
            test_fail(__FILE__, __LINE__, "no %s in %s", texts[i], r.body.data);
    reply_free(&r);
}

static bool is_empty(struct fixture *f)
{
    struct reply r = fixture_get(f, "/admin/requests");
    bool got = reply_has(&r, "{\"object\":\"list\",\"data\":[]}");
    reply_free(&r);
    return got;
}

static bool gets_empty(struct fixture *f)
{
    for (int i = 0; i < 1000; i++, usleep(2000))
        if (is_empty(f))
            return true;
    return false;
}

TEST(requests_api_lists_a_stream_while_it_runs)
{
    struct fixture f = {0};
    struct buf got = {0};
    char pid[32];
    fake_engine_plan(&(struct fake_plan){.hold_after = 3});
    fixture_start(&f);
    EXPECT(is_empty(&f)); /* but for the one that asks */
    struct reply r = fixture_ask(&f, "PUT", "/v1/adapters/words", json_type,
                                 "{\"kind\":\"text\",\"text\":\"Hi\"}");
    EXPECT_EQ(r.status, 201);
    reply_free(&r);
    int fd = client_open(&f);
    client_send(fd, "POST /v1/completions HTTP/1.1\r\nHost: x\r\nX-Request-Id: mine-1\r\n"
                    "Content-Length: 62\r\n\r\n");
    client_send(fd, "{\"model\":\"words\",\"prompt\":[1,2],\"max_tokens\":9,"
                    "\"stream\":true} ");
    EXPECT(client_wait_for(fd, &got, " w2", 5000));
    snprintf(pid, sizeof pid, "\"worker\":%d,", (int)getpid());
    const char *const texts[] = {
        "{\"object\":\"list\",\"data\":[{\"object\":\"request\",\"id\":\"mine-1\",",
        pid,
        "\"tenant\":\"default\",\"adapter\":\"words\",\"version\":\"",
        "\"station\":\"streaming\",\"age_ms\":",
        "\"prompt_tokens\":2,",
        "\"generated_tokens\":3}]}",
    };
    expect_list(&f, texts, sizeof texts / sizeof *texts);
    close(fd);
    EXPECT(gets_empty(&f));
    buf_free(&got);
    fixture_stop(&f);
}

TEST(requests_api_lists_what_has_not_come_yet)
{
    struct fixture f = {0};
    fake_engine_plan(&(struct fake_plan){.step_us = 100});
    fixture_start(&f);
    int fd = client_open(&f);
    client_send(fd, "POST /v1/completions HTTP/1.1\r\nHost: x\r\n"
                    "Content-Length: 99\r\n\r\n{");
    for (int i = 0; i < 1000 && is_empty(&f); i++)
        usleep(2000);
    const char *const texts[] = {"\"adapter\":null,\"version\":null,"
                                 "\"station\":\"reading the body\",",
                                 "\"prompt_tokens\":0,"};
    expect_list(&f, texts, 2);
    close(fd);
    EXPECT(gets_empty(&f));
    fixture_stop(&f);
}
