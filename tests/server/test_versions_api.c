/* Versions over HTTP: listing, rolling back, conditions, dry puts, pages. */
#include "tests/server/fixture.h"
#include "tests/support/adapter_files.h"
#include "tests/support/fake_engine.h"
#include "tests/test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct fake_plan plain = {0};
static const char text_a[] = "{\"kind\":\"text\",\"text\":\"Answer like a pirate.\"}";
static const char text_b[] = "{\"kind\":\"text\",\"text\":\"Answer in one word, please.\"}";

struct version {
    char id[65], etag[80];
};

/* Asks with headers, expects a status and, unless NULL, a part of the body. */
static void expect(struct fixture *f, const char *method, const char *path, const char *headers,
                   const char *body, int status, const char *part)
{
    struct reply r = fixture_ask(f, method, path, headers, body);
    if (r.status != status || (part && !reply_has(&r, part)))
        test_fail(__FILE__, __LINE__, "%s %s: %d, expected %d and %s in %s", method, path, r.status,
                  status, part ? part : "anything", r.body.data ? r.body.data : "nothing");
    reply_free(&r);
}

static struct version put(struct fixture *f, const char *name, const char *json)
{
    struct version v = {0};
    char path[100];
    snprintf(path, sizeof path, "/v1/adapters/%s", name);
    struct reply r = fixture_ask(f, "PUT", path, "", json);
    const char *etag = reply_header(&r, "ETag");
    EXPECT(r.status / 100 == 2 && etag && strlen(etag) == 66);
    snprintf(v.etag, sizeof v.etag, "%s", etag ? etag : "");
    snprintf(v.id, sizeof v.id, "%.64s", v.etag[0] ? v.etag + 1 : "");
    reply_free(&r);
    return v;
}

static void roll_back(struct fixture *f, const char *headers, const struct version *to, int status,
                      const char *part)
{
    char body[100];
    snprintf(body, sizeof body, "{\"version\": \"%s\"}", to->id);
    expect(f, "POST", "/v1/adapters/x/rollback", headers, body, status, part);
}

TEST(versions_roll_back)
{
    struct fixture f = {0};
    fake_engine_plan(&plain);
    fixture_start(&f);
    struct version a = put(&f, "x", text_a), b = put(&f, "x", text_b);
    struct reply r = fixture_get(&f, "/v1/adapters/x/versions");
    const char *first = r.body.data ? strstr(r.body.data, b.id) : NULL;
    EXPECT(r.status == 200 && first && strstr(first, a.id) != NULL);
    EXPECT(reply_has(&r, "\"number\":2,\"current\":true") &&
           reply_has(&r, "\"kind\":\"text\"") && reply_has(&r, "\"number\":1,\"current\":false"));
    reply_free(&r);
    roll_back(&f, "", &a, 200, a.id);
    expect(&f, "GET", "/v1/adapters/x", "", NULL, 200, a.id);
    expect(&f, "GET", "/v1/adapters/x/files/adapter.json", "", NULL, 200, "pirate");
    expect(&f, "GET", "/v1/adapters/x/versions", "", NULL, 200, "\"number\":1,\"current\":true");
    r = fixture_complete(&f, "{\"model\":\"x\",\"prompt\":[7],\"max_tokens\":1}");
    EXPECT(r.status == 200 && reply_header(&r, "X-Adapter-Id") != NULL);
    reply_free(&r);
    roll_back(&f, "", &a, 200, a.id);
    roll_back(&f, "", &b, 200, b.id);
    expect(&f, "DELETE", "/v1/adapters/x", "", NULL, 204, NULL);
    roll_back(&f, "", &a, 404, "adapter_not_found");
    expect(&f, "GET", "/v1/adapters/x/versions", "", NULL, 404, "adapter_not_found");
    fixture_stop(&f);
}

TEST(versions_bad_rollbacks_are_refused)
{
    static const char *const bad[] = {
        "", "{}", "[]", "7", "{\"version\": 7}", "{\"version\": \"abc\"}", "{\"number\": 1}",
        "{\"version\": \"../../../../../../../../../../../../../../../../../../../../../x\"}",
    };
    struct fixture f = {0};
    fake_engine_plan(&plain);
    fixture_start(&f);
    struct version a = put(&f, "x", text_a);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        expect(&f, "POST", "/v1/adapters/x/rollback", "", bad[i], 400, "invalid_request_error");
    a.id[0] = a.id[0] == '0' ? '1' : '0';
    roll_back(&f, "", &a, 404, "not kept");
    expect(&f, "GET", "/v1/adapters/x/rollback", "", NULL, 405, NULL);
    fixture_stop(&f);
}

static void with(char *out, size_t size, const char *header, const char *value)
{
    snprintf(out, size, "%s: %s\r\n", header, value);
}

TEST(versions_conditions)
{
    struct fixture f = {0};
    char is_a[120], is_b[120], is_new[] = "If-None-Match: *\r\n", twice[240];
    fake_engine_plan(&plain);
    fixture_start(&f);
    expect(&f, "PUT", "/v1/adapters/x", "If-Match: *\r\n", text_a, 412, "precondition_failed");
    expect(&f, "PUT", "/v1/adapters/x", is_new, text_a, 201, NULL);
    expect(&f, "PUT", "/v1/adapters/x", is_new, text_a, 412, "precondition_failed");
    struct version a = put(&f, "x", text_a), b = put(&f, "x", text_b);
    with(is_a, sizeof is_a, "If-Match", a.etag);
    with(is_b, sizeof is_b, "If-Match", b.etag);
    expect(&f, "PUT", "/v1/adapters/x", is_a, text_a, 412, b.id);
    roll_back(&f, is_a, &a, 412, b.id);
    expect(&f, "DELETE", "/v1/adapters/x", is_a, NULL, 412, b.id);
    expect(&f, "DELETE", "/v1/adapters/y", is_a, NULL, 404, NULL);
    roll_back(&f, is_b, &a, 200, a.id);
    expect(&f, "PUT", "/v1/adapters/x", is_a, text_b, 200, b.id);
    expect(&f, "PUT", "/v1/adapters/x", "If-Match: x\r\n", text_b, 400, "If-Match");
    snprintf(twice, sizeof twice, "%s%s", is_a, is_b);
    expect(&f, "PUT", "/v1/adapters/x", twice, text_b, 400, "If-Match");
    expect(&f, "DELETE", "/v1/adapters/x", is_b, NULL, 204, NULL);
    fixture_stop(&f);
}

TEST(versions_dry_puts)
{
    struct fixture f = {0};
    fake_engine_plan(&plain);
    fixture_start(&f);
    expect(&f, "PUT", "/v1/adapters/x?dry_run=1", "", text_a, 200, "\"would\":\"create\"");
    expect(&f, "PUT", "/v1/adapters/x?dry_run", "", text_a, 200, "\"dry_run\":true");
    expect(&f, "GET", "/v1/adapters/x", "", NULL, 404, NULL);
    put(&f, "x", text_a);
    expect(&f, "PUT", "/v1/adapters/x?dry_run=true", "", text_a, 200, "\"would\":\"nothing\"");
    expect(&f, "PUT", "/v1/adapters/x?dry_run=1", "", text_b, 200, "\"would\":\"replace\"");
    expect(&f, "PUT", "/v1/adapters/x?dry_run=1", "If-None-Match: *\r\n", text_b, 412, NULL);
    expect(&f, "PUT", "/v1/adapters/x?dry_run=1", "", "{\"kind\":\"text\"}", 422, NULL);
    expect(&f, "PUT", "/v1/adapters/x?dry_run=maybe", "", text_b, 400, "dry_run");
    expect(&f, "GET", "/v1/adapters/x/files/adapter.json", "", NULL, 200, "pirate");
    expect(&f, "PUT", "/v1/adapters/x?dry_run=0", "", text_b, 200, "\"id\":\"x\"");
    expect(&f, "GET", "/v1/adapters/x/files/adapter.json", "", NULL, 200, "one word");
    fixture_stop(&f);
}

TEST(versions_lists_come_in_pages)
{
    static const char *const bad[] = {"limit=0", "limit=1001", "limit=x", "limit=", "limit=-1",
                                      "limit=99999999999999999999"};
    struct fixture f = {0};
    char path[200];
    fake_engine_plan(&plain);
    fixture_start(&f);
    put(&f, "a", text_a);
    put(&f, "b", text_a);
    struct version first = put(&f, "x", text_a), second = put(&f, "x", text_b);
    expect(&f, "GET", "/v1/adapters?limit=2", "", NULL, 200, "],\"has_more\":true}");
    expect(&f, "GET", "/v1/adapters?limit=3", "", NULL, 200, "],\"has_more\":false}");
    expect(&f, "GET", "/v1/adapters?after=b&limit=1", "", NULL, 200,
           "{\"object\":\"list\",\"data\":[{\"id\":\"x\"");
    expect(&f, "GET", "/v1/adapters?after=x", "", NULL, 200, "\"data\":[]");
    expect(&f, "GET", "/v1/adapters/x/versions?limit=1", "", NULL, 200, "],\"has_more\":true}");
    snprintf(path, sizeof path, "/v1/adapters/x/versions?limit=1&after=%s", second.id);
    struct reply r = fixture_get(&f, path);
    EXPECT(reply_has(&r, first.id) && !reply_has(&r, second.id) &&
           reply_has(&r, "],\"has_more\":false}"));
    reply_free(&r);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        snprintf(path, sizeof path, "/v1/adapters?%s", bad[i]);
        expect(&f, "GET", path, "", NULL, 400, "limit");
    }
    fixture_stop(&f);
}

/* Under the state folder all of it is there after a restart. */
TEST(versions_survive_a_restart)
{
    char *dir = adapter_files_tmp_dir();
    struct fixture f = {.state = dir}, again = {.state = dir};
    fake_engine_plan(&plain);
    fixture_start(&f);
    struct version a = put(&f, "x", text_a), b = put(&f, "x", text_b);
    roll_back(&f, "", &a, 200, a.id);
    fixture_stop(&f);
    fixture_start(&again);
    expect(&again, "GET", "/v1/adapters/x", "", NULL, 200, a.id);
    expect(&again, "GET", "/v1/adapters/x/versions", "", NULL, 200, b.id);
    roll_back(&again, "", &b, 200, b.id);
    fixture_stop(&again);
    adapter_files_remove_dir(dir);
    free(dir);
}
