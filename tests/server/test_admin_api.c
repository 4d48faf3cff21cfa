/* Tenants, keys, limits and usage over HTTP, over a real registry. */
#include "tests/server/fixture.h"
#include "tests/support/fake_engine.h"
#include "tests/test.h"

#include "core/base/check.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static const struct fake_plan plain = {0};
static const char text_a[] = "{\"kind\":\"text\",\"text\":\"Answer like a pirate.\"}";

struct key {
    char text[80], id[32]; /* "" : none */
};

static const struct key nobody = {"", ""};

static struct reply ask(struct fixture *f, const struct key *k, const char *method,
                        const char *path, const char *body)
{
    char headers[256] = "";
    if (k->text[0])
        snprintf(headers, sizeof headers, "Authorization: Bearer %s\r\n", k->text);
    return fixture_ask(f, method, path, headers, body);
}

/* Asks and expects a status and, unless NULL, a part of the body. */
#define EXPECT_ASKED(...) expect_asked(__LINE__, __VA_ARGS__)

static void expect_asked(int line, struct fixture *f, const struct key *k,
                         const char *method, const char *path, const char *body, int status,
                         const char *part)
{
    struct reply r = ask(f, k, method, path, body);
    if (r.status != status || (part && !reply_has(&r, part)))
        test_fail(__FILE__, line, "%s %s: %d, expected %d and %s in %s", method, path,
                  r.status, status, part ? part : "anything",
                  r.body.data ? r.body.data : "nothing");
    reply_free(&r);
}

/* The string after "name":" in the body. */
static void take_string(const struct reply *r, const char *name, char *out, size_t size)
{
    char mark[40];
    snprintf(mark, sizeof mark, "\"%s\":\"", name);
    const char *at = r->body.data ? strstr(r->body.data, mark) : NULL;
    out[0] = '\0';
    if (at)
        snprintf(out, size, "%.*s", (int)strcspn(at + strlen(mark), "\""),
                 at + strlen(mark));
}

static struct key make_key(struct fixture *f, const struct key *as, const char *json)
{
    struct key k;
    struct reply r = ask(f, as, "POST", "/admin/keys", json);
    EXPECT_EQ(r.status, 201);
    EXPECT_STR(reply_header(&r, "Cache-Control"), "no-store");
    take_string(&r, "key", k.text, sizeof k.text);
    take_string(&r, "id", k.id, sizeof k.id);
    EXPECT(strncmp(k.text, "pfx_", 4) == 0 && strlen(k.text) == 47);
    reply_free(&r);
    return k;
}

/* An administrator, and a tenant with these limits and a key of his own. */
struct world {
    struct fixture f;
    struct key admin, acme;
};

static void open_world(struct world *w, const struct fake_plan *plan, const char *limits)
{
    char json[300];
    memset(w, 0, sizeof *w);
    fake_engine_plan(plan);
    fixture_start(&w->f);
    w->admin = make_key(&w->f, &nobody, "{\"scope\":\"admin\"}");
    snprintf(json, sizeof json, "{\"name\":\"acme\",\"limits\":{%s}}", limits);
    EXPECT_ASKED(&w->f, &w->admin, "POST", "/admin/tenants", json, 201, NULL);
    w->acme = make_key(&w->f, &w->admin, "{\"tenant\":\"acme\"}");
}

/* ---- tenants ------------------------------------------------------------------------- */

TEST(admin_tenants_come_change_and_go)
{
    struct fixture f = {0};
    fake_engine_plan(&plain);
    fixture_start(&f);
    EXPECT_ASKED(&f, &nobody, "GET", "/admin/tenants", NULL, 200, "\"id\":\"default\"");
    EXPECT_ASKED(
        &f, &nobody, "POST", "/admin/tenants",
        "{\"name\":\"acme\",\"weight\":2,\"limits\":{\"max_running\":7}}", 201,
        "{\"id\":\"acme\",\"object\":\"tenant\",\"weight\":2,\"suspended\":false,");
    EXPECT_ASKED(&f, &nobody, "POST", "/admin/tenants", "{\"name\":\"acme\"}", 409,
                 "conflict");
    EXPECT_ASKED(&f, &nobody, "GET", "/admin/tenants/acme", NULL, 200,
                 "\"max_running\":7,\"max_queued\":1024");
    EXPECT_ASKED(&f, &nobody, "PATCH", "/admin/tenants/acme",
                 "{\"limits\":{\"max_queued\":3}}", 200,
                 "\"max_running\":7,\"max_queued\":3");
    EXPECT_ASKED(&f, &nobody, "PATCH", "/admin/tenants/acme",
                 "{\"weight\":9,\"limits\":{\"max_running\":null}}", 200,
                 "\"max_running\":1024,\"max_queued\":3");
    EXPECT_ASKED(&f, &nobody, "GET", "/admin/tenants/acme", NULL, 200, "\"weight\":9");
    EXPECT_ASKED(&f, &nobody, "PATCH", "/admin/tenants/acme", "{\"weight\":null}", 200,
                 "\"weight\":1,");
    EXPECT_ASKED(&f, &nobody, "POST", "/admin/tenants/acme/suspend", NULL, 200,
                 "\"suspended\":true");
    EXPECT_ASKED(&f, &nobody, "POST", "/admin/tenants/acme/resume", NULL, 200,
                 "\"suspended\":false");
    EXPECT_ASKED(&f, &nobody, "DELETE", "/admin/tenants/acme", NULL, 204, NULL);
    EXPECT_ASKED(&f, &nobody, "GET", "/admin/tenants/acme", NULL, 404, "not_found");
    EXPECT_ASKED(&f, &nobody, "DELETE", "/admin/tenants/acme", NULL, 404, "not_found");
    EXPECT_ASKED(&f, &nobody, "PATCH", "/admin/tenants/acme", "{\"weight\":2}", 404, NULL);
    EXPECT_ASKED(&f, &nobody, "POST", "/admin/tenants/acme/suspend", NULL, 404, NULL);
    EXPECT_ASKED(&f, &nobody, "DELETE", "/admin/tenants/default", NULL, 400, NULL);
    fixture_stop(&f);
}

TEST(admin_tenants_have_to_make_sense)
{
    static const struct {
        const char *json, *param;
    } bad[] = {
        {"", NULL},
        {"[]", NULL},
        {"{}", "\"param\":\"name\""},
        {"{\"name\":\"\"}", "\"param\":\"name\""},
        {"{\"name\":\"a b\"}", "\"param\":\"name\""},
        {"{\"name\":7}", "\"param\":\"name\""},
        {"{\"name\":\"x\",\"weight\":0}", "\"param\":\"weight\""},
        {"{\"name\":\"x\",\"weight\":1001}", "\"param\":\"weight\""},
        {"{\"name\":\"x\",\"weight\":\"2\"}", "\"param\":\"weight\""},
        {"{\"name\":\"x\",\"weight\":1.5}", NULL},
        {"{\"name\":\"x\",\"weight\":-1}", NULL},
        {"{\"name\":\"x\",\"nonsense\":1}", "\"param\":\"nonsense\""},
        {"{\"name\":\"x\",\"limits\":3}", "\"param\":\"limits\""},
        {"{\"name\":\"x\",\"limits\":{\"nonsense\":1}}", "\"param\":\"nonsense\""},
        {"{\"name\":\"x\",\"limits\":{\"name\":\"y\"}}", "\"param\":\"name\""},
        {"{\"name\":\"x\",\"max_running\":1}", "\"param\":\"max_running\""},
        {"{\"name\":\"x\",\"limits\":{\"max_running\":0}}", "\"param\":\"max_running\""},
        {"{\"name\":\"x\",\"limits\":{\"max_running\":{}}}", NULL},
        {"{\"name\":\"x\",\"name\":\"y\"}", NULL},
    };
    struct fixture f = {0};
    fake_engine_plan(&plain);
    fixture_start(&f);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        EXPECT_ASKED(&f, &nobody, "POST", "/admin/tenants", bad[i].json, 400, bad[i].param);
    EXPECT_ASKED(&f, &nobody, "PATCH", "/admin/tenants/default", "{\"name\":\"x\"}", 400,
                 "\"param\":\"name\"");
    EXPECT_ASKED(&f, &nobody, "GET", "/admin/tenants?limit=0", NULL, 400,
                 "\"param\":\"limit\"");
    EXPECT_ASKED(&f, &nobody, "GET", "/admin/tenants/x", NULL, 404,
                 NULL); /* none was made */
    fixture_stop(&f);
}

TEST(admin_lists_are_paged)
{
    struct fixture f = {0};
    char json[64];
    fake_engine_plan(&plain);
    fixture_start(&f);
    for (int i = 0; i < 3; i++) {
        snprintf(json, sizeof json, "{\"name\":\"t%d\"}", i);
        EXPECT_ASKED(&f, &nobody, "POST", "/admin/tenants", json, 201, NULL);
    }
    struct reply r = fixture_get(&f, "/admin/tenants?limit=2&after=default");
    EXPECT(r.status == 200 && reply_has(&r, "\"t0\"") && reply_has(&r, "\"t1\""));
    EXPECT(!reply_has(&r, "\"t2\"") && reply_has(&r, "\"has_more\":true"));
    reply_free(&r);
    r = fixture_get(&f, "/admin/tenants?limit=2&after=t1");
    EXPECT(reply_has(&r, "\"t2\"") && !reply_has(&r, "\"t1\"") &&
           reply_has(&r, "\"has_more\":false"));
    reply_free(&r);
    struct key admin = make_key(&f, &nobody, "{\"scope\":\"admin\"}");
    struct key k1 = make_key(&f, &admin, "{\"tenant\":\"t1\"}");
    struct key k2 = make_key(&f, &admin, "{\"tenant\":\"t2\"}");
    r = ask(&f, &admin, "GET", "/admin/keys?limit=1&after=key_1", NULL);
    EXPECT(reply_has(&r, k1.id) && !reply_has(&r, k2.id) &&
           reply_has(&r, "\"has_more\":true"));
    reply_free(&r);
    r = ask(&f, &admin, "GET", "/admin/keys?tenant=t2", NULL);
    EXPECT(reply_has(&r, k2.id) && !reply_has(&r, k1.id) &&
           reply_has(&r, "\"has_more\":false"));
    reply_free(&r);
    EXPECT_ASKED(&f, &admin, "GET", "/admin/keys?tenant=t9", NULL, 404, NULL);
    EXPECT_ASKED(&f, &admin, "GET", "/admin/keys?after=12", NULL, 400,
                 "\"param\":\"after\"");
    fixture_stop(&f);
}

/* ---- keys ---------------------------------------------------------------------------- */

TEST(admin_keys_are_told_once_and_revoked_at_once)
{
    struct world w;
    open_world(&w, &plain, "");
    EXPECT_ASKED(&w.f, &w.acme, "GET", "/v1/models", NULL, 200, NULL);
    struct reply r = ask(&w.f, &w.admin, "GET", "/admin/keys", NULL);
    EXPECT(reply_has(&r, "\"tenant\":\"acme\",\"scope\":\"manage\"") &&
           reply_has(&r, "\"tenant\":null,\"scope\":\"admin\"") &&
           reply_has(&r, "\"expires\":null,\"revoked\":null"));
    EXPECT(!reply_has(&r, "pfx_"));
    reply_free(&r);
    char path[64];
    snprintf(path, sizeof path, "/admin/keys/%s", w.acme.id);
    EXPECT_ASKED(&w.f, &w.admin, "DELETE", path, NULL, 204, NULL);
    EXPECT_ASKED(&w.f, &w.acme, "GET", "/v1/models", NULL, 401, "invalid_api_key");
    r = ask(&w.f, &w.admin, "GET", "/admin/keys?tenant=acme", NULL);
    EXPECT(reply_has(&r, w.acme.id) && !reply_has(&r, "\"revoked\":null"));
    reply_free(&r);
    EXPECT_ASKED(&w.f, &w.admin, "DELETE", "/admin/keys/key_77", NULL, 404, "not_found");
    EXPECT_ASKED(&w.f, &w.admin, "DELETE", "/admin/keys/77", NULL, 404, "not_found");
    EXPECT_ASKED(&w.f, &w.admin, "DELETE", "/admin/keys/key_99999999999999999999", NULL,
                 404, NULL);
    fixture_stop(&w.f);
}

TEST(admin_keys_have_to_make_sense)
{
    struct world w;
    char json[100];
    open_world(&w, &plain, "");
    EXPECT_ASKED(&w.f, &w.admin, "POST", "/admin/keys", "{}", 400, "\"param\":\"tenant\"");
    EXPECT_ASKED(&w.f, &w.admin, "POST", "/admin/keys", "{\"tenant\":\"x\"}", 404, NULL);
    EXPECT_ASKED(&w.f, &w.admin, "POST", "/admin/keys",
                 "{\"tenant\":\"acme\",\"scope\":\"all\"}", 400, "\"param\":\"scope\"");
    EXPECT_ASKED(&w.f, &w.admin, "POST", "/admin/keys",
                 "{\"tenant\":\"acme\",\"scope\":\"admin\"}", 400, NULL);
    EXPECT_ASKED(&w.f, &w.admin, "POST", "/admin/keys",
                 "{\"tenant\":\"acme\",\"expires\":1700000000}", 400,
                 "\"param\":\"expires\"");
    EXPECT_ASKED(&w.f, &w.admin, "POST", "/admin/keys",
                 "{\"tenant\":\"acme\",\"key\":\"pfx_\"}", 400, "\"param\":\"key\"");
    snprintf(json, sizeof json, "{\"tenant\":\"acme\",\"expires\":%lld}",
             (long long)time(NULL) + 2);
    struct key k = make_key(&w.f, &w.admin, json);
    EXPECT_ASKED(&w.f, &k, "GET", "/v1/models", NULL, 200, NULL);
    sleep(3);
    EXPECT_ASKED(&w.f, &k, "GET", "/v1/models", NULL, 401, "expired");
    fixture_stop(&w.f);
}

TEST(admin_scopes_say_what_a_key_may_do)
{
    struct world w;
    const struct key bad = {.text = "pfx_nobody's"};
    open_world(&w, &plain, "");
    struct key infer =
        make_key(&w.f, &w.admin, "{\"tenant\":\"acme\",\"scope\":\"infer\"}");
    EXPECT_ASKED(&w.f, &nobody, "GET", "/v1/models", NULL, 401, "invalid_api_key");
    EXPECT_ASKED(&w.f, &bad, "GET", "/v1/models", NULL, 401, "invalid_api_key");
    EXPECT_ASKED(&w.f, &nobody, "GET", "/health", NULL, 200, NULL);
    static const char *const admins[] = {"/metrics", "/admin/tenants", "/admin/keys",
                                         "/admin/usage"};
    for (size_t i = 0; i < sizeof admins / sizeof *admins; i++) {
        EXPECT_ASKED(&w.f, &nobody, "GET", admins[i], NULL, 401, NULL);
        EXPECT_ASKED(&w.f, &w.acme, "GET", admins[i], NULL, 403, "permission_error");
        EXPECT_ASKED(&w.f, &w.admin, "GET", admins[i], NULL, 200, NULL);
    }
    EXPECT_ASKED(&w.f, &infer, "PUT", "/v1/adapters/x", text_a, 403, "permission_error");
    EXPECT_ASKED(&w.f, &w.acme, "PUT", "/v1/adapters/x", text_a, 201, NULL);
    EXPECT_ASKED(&w.f, &infer, "GET", "/v1/adapters/x", NULL, 200, NULL);
    EXPECT_ASKED(&w.f, &infer, "POST", "/v1/completions",
                 "{\"model\":\"x\",\"prompt\":[7],\"max_tokens\":1}", 200, NULL);
    EXPECT_ASKED(&w.f, &infer, "DELETE", "/v1/adapters/x", NULL, 403, "permission_error");
    EXPECT_ASKED(&w.f, &w.acme, "PATCH", "/v1/adapters/x", "{\"public\":true}", 403, NULL);
    EXPECT_ASKED(&w.f, &w.admin, "GET", "/v1/adapters/x", NULL, 404, NULL);
    EXPECT_ASKED(&w.f, &w.admin, "GET", "/v1/adapters/x?tenant=acme", NULL, 200, NULL);
    EXPECT_ASKED(&w.f, &w.admin, "GET", "/v1/adapters/x?tenant=nobody", NULL, 404,
                 "not_found");
    EXPECT_ASKED(&w.f, &w.acme, "GET", "/v1/adapters/x?tenant=acme", NULL, 403, NULL);
    EXPECT_ASKED(&w.f, &w.acme, "GET", "/v1/adapters/x?tenant=nobody", NULL, 403, NULL);
    fixture_stop(&w.f);
}

TEST(admin_suspended_tenants_are_refused)
{
    struct world w;
    open_world(&w, &plain, "");
    EXPECT_ASKED(&w.f, &w.admin, "POST", "/admin/tenants/acme/suspend", NULL, 200, NULL);
    EXPECT_ASKED(&w.f, &w.acme, "GET", "/v1/models", NULL, 403, "tenant_suspended");
    EXPECT_ASKED(&w.f, &w.acme, "POST", "/v1/completions", "{\"prompt\":[7]}", 403,
                 "tenant_suspended");
    EXPECT_ASKED(&w.f, &w.acme, "GET", "/nothing", NULL, 403, "tenant_suspended");
    EXPECT_ASKED(&w.f, &w.admin, "POST", "/admin/tenants/default/suspend", NULL, 200, NULL);
    EXPECT_ASKED(&w.f, &w.admin, "POST", "/admin/tenants/acme/resume", NULL, 200, NULL);
    EXPECT_ASKED(&w.f, &w.acme, "GET", "/v1/models", NULL, 200, NULL);
    fixture_stop(&w.f);
}

/* Without keys the tenant may be suspended as well, and whoever did it can undo it. */
TEST(admin_suspends_the_only_tenant)
{
    struct fixture f = {0};
    fake_engine_plan(&plain);
    fixture_start(&f);
    EXPECT_ASKED(&f, &nobody, "POST", "/admin/tenants/default/suspend", NULL, 200, NULL);
    EXPECT_ASKED(&f, &nobody, "GET", "/v1/models", NULL, 403, "tenant_suspended");
    EXPECT_ASKED(&f, &nobody, "GET", "/health", NULL, 200, NULL);
    EXPECT_ASKED(&f, &nobody, "POST", "/admin/tenants/default/resume", NULL, 200, NULL);
    EXPECT_ASKED(&f, &nobody, "GET", "/v1/models", NULL, 200, NULL);
    fixture_stop(&f);
}

TEST(admin_is_not_for_web_pages_without_a_key)
{
    struct fixture f = {0};
    static const char origin[] = "Origin: http://example.org\r\n";
    fake_engine_plan(&plain);
    fixture_start(&f);
    struct reply r =
        fixture_ask(&f, "POST", "/admin/keys", origin, "{\"scope\":\"admin\"}");
    EXPECT_EQ(r.status, 403);
    reply_free(&r);
    EXPECT_ASKED(&f, &nobody, "GET", "/v1/models", NULL, 200, NULL); /* no key was made */
    fixture_stop(&f);
}

/* ---- limits -------------------------------------------------------------------------- */

static const char one_token[] = "{\"prompt\":[7,8,9],\"max_tokens\":1}";

static int64_t number_of(const struct reply *r, const char *header)
{
    const char *v = reply_header(r, header);
    return v ? strtoll(v, NULL, 10) : -1;
}

/* A stream that begins while the server drains, to a browser, with a tenant's key, of an
 * adapter: no answer has more headers. */
TEST(admin_fullest_answer_has_all_its_headers)
{
    static const char *const names[] = {"X-Request-Id",
                                        "X-Prefixd-Worker",
                                        "Access-Control-Allow-Origin",
                                        "Access-Control-Expose-Headers",
                                        "Vary",
                                        "Connection",
                                        "x-ratelimit-limit-requests",
                                        "x-ratelimit-reset-tokens",
                                        "X-Adapter-Id",
                                        "X-Adapter-Version",
                                        "Cache-Control",
                                        "X-Accel-Buffering"};
    struct fixture f = {.cors_origin = "http://a"};
    char head[600];
    fake_engine_plan(&(struct fake_plan){.is_held = true});
    fixture_start(&f);
    struct key admin = make_key(&f, &nobody, "{\"scope\":\"admin\"}");
    EXPECT_ASKED(&f, &admin, "POST", "/admin/tenants", "{\"name\":\"acme\"}", 201, NULL);
    struct key acme = make_key(&f, &admin, "{\"tenant\":\"acme\"}");
    EXPECT_ASKED(&f, &acme, "PUT", "/v1/adapters/x", text_a, 201, NULL);
    int fd = client_open(&f);
    const char *body = "{\"model\":\"x\",\"prompt\":[7],\"max_tokens\":1,\"stream\":true}";
    snprintf(head, sizeof head,
             "POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n"
             "Content-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s",
             acme.text, strlen(body), body);
    client_send(fd, head);
    struct fake_seen seen = {0};
    for (int i = 0; i < 5000 && !seen.n_posted; i++, usleep(1000))
        fake_engine_seen(&seen);
    fixture_signal(&f);
    for (int i = 0, late; i < 500 && (late = client_open(&f)) >= 0; i++, usleep(10000))
        close(late); /* until it drains */
    fake_engine_plan(&plain);
    struct reply r = client_read(fd, true);
    EXPECT_EQ(r.status, 200);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!reply_header(&r, names[i]))
            test_fail(__FILE__, __LINE__, "%s is missing", names[i]);
    EXPECT(reply_has(&r, "[DONE]"));
    reply_free(&r);
    close(fd);
    fixture_join(&f);
}

TEST(admin_requests_of_a_minute_are_limited)
{
    struct world w;
    open_world(&w, &plain, "\"requests_per_minute\":2,\"tokens_per_minute\":1000");
    struct reply r = ask(&w.f, &w.acme, "POST", "/v1/completions", one_token);
    EXPECT_EQ(r.status, 200);
    EXPECT_EQ(number_of(&r, "x-ratelimit-limit-requests"), 2);
    EXPECT_EQ(number_of(&r, "x-ratelimit-remaining-requests"), 1);
    EXPECT_EQ(number_of(&r, "x-ratelimit-limit-tokens"), 1000);
    EXPECT(number_of(&r, "x-ratelimit-remaining-tokens") >= 995);
    EXPECT_STR(reply_header(&r, "x-ratelimit-reset-requests"), "30s");
    reply_free(&r);
    EXPECT_ASKED(&w.f, &w.acme, "POST", "/v1/completions", one_token, 200, NULL);
    r = ask(&w.f, &w.acme, "POST", "/v1/completions", one_token);
    EXPECT_EQ(r.status, 429);
    EXPECT(reply_has(&r, "\"code\":\"rate_limit_exceeded\"") &&
           reply_has(&r, "2 requests a minute"));
    EXPECT(number_of(&r, "Retry-After") >= 28 && number_of(&r, "Retry-After") <= 30);
    EXPECT_EQ(number_of(&r, "x-ratelimit-remaining-requests"), 0);
    EXPECT_STR(reply_header(&r, "x-ratelimit-reset-requests"), "1m0s");
    reply_free(&r);
    EXPECT_ASKED(&w.f, &w.acme, "GET", "/v1/models", NULL, 200, NULL);
    r = ask(&w.f, &w.admin, "POST", "/v1/completions", one_token); /* as another tenant */
    EXPECT_EQ(r.status, 200);
    EXPECT_EQ(number_of(&r, "x-ratelimit-limit-requests"), 600000);
    reply_free(&r);
    r = ask(&w.f, &w.acme, "POST", "/v1/completions", "{\"prompt\":3}");
    EXPECT_EQ(r.status, 400);
    EXPECT_EQ(number_of(&r, "x-ratelimit-remaining-requests"), 0);
    reply_free(&r);
    EXPECT_ASKED(&w.f, &w.admin, "PATCH", "/admin/tenants/acme",
                 "{\"limits\":{\"requests_per_minute\":100}}", 200, NULL);
    EXPECT_ASKED(&w.f, &w.acme, "POST", "/v1/completions", one_token, 200, NULL);
    fixture_stop(&w.f);
}

TEST(admin_tokens_of_a_minute_are_limited)
{
    struct world w;
    open_world(&w, &(struct fake_plan){.eos_after = 2}, "\"tokens_per_minute\":100");
    EXPECT_ASKED(&w.f, &w.acme, "POST", "/v1/completions",
                 "{\"prompt\":[7,8,9],\"max_tokens\":98}", 403, "101 tokens");
    for (int i = 0; i < 5; i++) /* what was reserved and not used comes back */
        EXPECT_ASKED(&w.f, &w.acme, "POST", "/v1/completions",
                     "{\"prompt\":[7,8,9],\"max_tokens\":60}", 200, NULL);
    struct reply r = ask(&w.f, &w.acme, "POST", "/v1/completions",
                         "{\"prompt\":[7,8,9],\"max_tokens\":97}");
    EXPECT_EQ(r.status, 429);
    EXPECT(reply_has(&r, "100 tokens a minute"));
    EXPECT(number_of(&r, "Retry-After") >= 12 && number_of(&r, "Retry-After") <= 18);
    reply_free(&r);
    fixture_stop(&w.f);
}

static int post_as(const struct fixture *f, const struct key *k, const char *json)
{
    struct buf b = {0};
    int fd = client_open(f);
    buf_printf(
        &b,
        "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        "Authorization: Bearer %s\r\nContent-Length: %zu\r\n\r\n%s",
        k->text, strlen(json), json);
    client_send(fd, b.data);
    buf_free(&b);
    return fd;
}

static int n_posted(void)
{
    struct fake_seen seen;
    fake_engine_seen(&seen);
    return seen.n_posted;
}

static bool wait_posted(int n, int ms)
{
    int64_t end = now_ms() + ms;
    while (n_posted() < n && now_ms() < end)
        usleep(2000);
    return n_posted() >= n;
}

TEST(admin_running_sequences_are_limited)
{
    struct world w;
    open_world(&w, &(struct fake_plan){.is_held = true},
               "\"max_running\":2,\"max_queued\":2");
    EXPECT_ASKED(&w.f, &w.acme, "POST", "/v1/completions", "{\"prompt\":[7],\"n\":3}", 403,
                 "3 sequences");
    int first = post_as(&w.f, &w.acme, "{\"prompt\":[7],\"n\":2}");
    EXPECT(wait_posted(1, 5000));
    int second = post_as(&w.f, &w.acme, "{\"prompt\":[7]}");
    int third = post_as(&w.f, &w.acme, "{\"prompt\":[7]}");
    int64_t end = now_ms() + 5000;
    struct reply r = {0};
    while (r.status != 429 && now_ms() < end) { /* the two may still be on their way */
        reply_free(&r);
        r = ask(&w.f, &w.acme, "POST", "/v1/completions", "{\"prompt\":[7],\"n\":2}");
    }
    EXPECT_EQ(r.status, 429);
    EXPECT_EQ(number_of(&r, "Retry-After"), 1);
    reply_free(&r);
    EXPECT_EQ(n_posted(), 1);
    int other = post_as(&w.f, &w.admin, "{\"prompt\":[7]}");
    EXPECT(wait_posted(2, 5000)); /* another tenant's does not wait */
    close(second);                /* one that waits gives up */
    usleep(300000);
    EXPECT_EQ(n_posted(), 2);
    close(first);
    EXPECT(wait_posted(3, 5000)); /* the third's turn */
    close(third);
    close(other);
    fixture_stop(&w.f);
}

TEST(admin_compiling_is_charged)
{
    struct world w;
    open_world(&w, &plain, "\"tokens_per_minute\":100");
    EXPECT_ASKED(&w.f, &w.acme, "PUT", "/v1/adapters/x",
                 "{\"kind\":\"text\",\"text\":\"One text of nearly as many tokens as this "
                 "tenant may spend in a minute, and they are spent all the same.\"}",
                 201, NULL);
    EXPECT_ASKED(&w.f, &w.acme, "PUT", "/v1/adapters/y",
                 "{\"kind\":\"text\",\"text\":\"Another one, which is as long as that and comes "
                 "much too early.\"}",
                 429, "100 tokens a minute");
    EXPECT_ASKED(&w.f, &w.acme, "POST", "/v1/completions",
                 "{\"prompt\":[7],\"max_tokens\":70}", 429, "100 tokens a minute");
    EXPECT_ASKED(&w.f, &w.admin, "PUT", "/v1/adapters/y", text_a, 201, NULL);
    fixture_stop(&w.f);
}

/* ---- usage --------------------------------------------------------------------------- */

static void wait_for_usage(struct world *w, const char *part)
{
    int64_t end = now_ms() + 5000;
    bool is_there = false;
    while (!is_there && now_ms() < end) {
        struct reply r = ask(&w->f, &w->admin, "GET", "/admin/usage", NULL);
        is_there = reply_has(&r, part);
        reply_free(&r);
        usleep(50000);
    }
    EXPECT(is_there);
}

TEST(admin_usage_is_told)
{
    struct world w;
    char key[100], path[200];
    open_world(&w, &plain, "");
    EXPECT_ASKED(&w.f, &w.acme, "GET", "/v1/usage", NULL, 200,
                 "\"data\":[{\"object\":\"usage\",\"requests\":0,\"prompt_tokens\":0,"
                 "\"cached_tokens\":0,\"virtual_tokens\":0,\"generated_tokens\":0}]");
    EXPECT_ASKED(&w.f, &w.acme, "PUT", "/v1/adapters/x", text_a, 201, NULL);
    for (int i = 0; i < 3; i++)
        EXPECT_ASKED(&w.f, &w.acme, "POST", "/v1/completions",
                     "{\"model\":\"x\",\"prompt\":[7,8],\"max_tokens\":4}", 200, NULL);
    EXPECT_ASKED(&w.f, &w.acme, "POST", "/v1/completions", one_token, 200, NULL);
    EXPECT_ASKED(&w.f, &w.admin, "POST", "/v1/completions", one_token, 200, NULL);
    EXPECT_ASKED(&w.f, &w.acme, "POST", "/v1/completions",
                 "{\"model\":\"y\",\"prompt\":[7]}", 404, NULL); /* costs nothing */
    wait_for_usage(&w, "\"requests\":5,\"prompt_tokens\":12,");
    EXPECT_ASKED(&w.f, &w.acme, "GET", "/v1/usage", NULL, 200,
                 "\"requests\":4,\"prompt_tokens\":9,");
    snprintf(key, sizeof key, "\"key\":\"%s\",\"adapter\":\"x\",\"requests\":3", w.acme.id);
    EXPECT_ASKED(&w.f, &w.acme, "GET", "/v1/usage?group_by=key,adapter", NULL, 200, key);
    EXPECT_ASKED(&w.f, &w.acme, "GET", "/v1/usage?group_by=adapter", NULL, 200,
                 "\"adapter\":null,\"requests\":1,");
    EXPECT_ASKED(&w.f, &w.acme, "GET", "/v1/usage?group_by=adapter&limit=1", NULL, 200,
                 "\"has_more\":true");
    EXPECT_ASKED(&w.f, &w.admin, "GET", "/admin/usage?group_by=tenant", NULL, 200,
                 "\"tenant\":\"acme\",\"requests\":4,");
    EXPECT_ASKED(&w.f, &w.admin, "GET", "/admin/usage?tenant=acme", NULL, 200,
                 "\"requests\":4,");
    EXPECT_ASKED(&w.f, &w.admin, "GET", "/admin/usage?tenant=nobody", NULL, 404, NULL);
    long long hour = (long long)time(NULL) / 3600 * 3600;
    snprintf(path, sizeof path, "/v1/usage?group_by=hour&start=%lld&end=%lld", hour - 3600,
             hour + 3600);
    EXPECT_ASKED(&w.f, &w.acme, "GET", path, NULL, 200, "\"start\":");
    EXPECT_ASKED(&w.f, &w.acme, "GET", "/v1/usage?end=2001-01-01", NULL, 200,
                 "\"requests\":0,");
    EXPECT_ASKED(&w.f, &w.acme, "GET", "/v1/usage?start=2001-01-01T00:00:00Z", NULL, 200,
                 "\"requests\":4,");
    fixture_stop(&w.f);
}

static void complete_with(struct world *w, const struct key *k, const char *model)
{
    char body[100];
    snprintf(body, sizeof body, "{\"model\":\"%s\",\"prompt\":[7],\"max_tokens\":1}",
             model);
    EXPECT_ASKED(&w->f, k, "POST", "/v1/completions", body, 200, NULL);
}

/* The books can be written when the tenant has left, and another has taken its name. */
TEST(admin_usage_names_tenants_that_are_gone)
{
    struct world w;
    open_world(&w, &plain, "");
    complete_with(&w, &w.acme, "");
    wait_for_usage(&w, "\"requests\":1,");
    EXPECT_ASKED(&w.f, &w.admin, "DELETE", "/admin/tenants/acme", NULL, 204, NULL);
    EXPECT_ASKED(&w.f, &w.admin, "GET", "/admin/usage?group_by=tenant", NULL, 200,
                 "\"tenant\":\"acme\",\"removed\":1");
    EXPECT_ASKED(&w.f, &w.admin, "GET", "/admin/usage?tenant=acme", NULL, 200,
                 "\"requests\":1,");
    EXPECT_ASKED(&w.f, &w.admin, "GET", "/v1/usage?tenant=acme", NULL, 404, NULL);
    EXPECT_ASKED(&w.f, &w.admin, "POST", "/admin/tenants", "{\"name\":\"acme\"}", 201, NULL);
    EXPECT_ASKED(&w.f, &w.admin, "GET", "/admin/usage?tenant=acme", NULL, 200,
                 "\"requests\":0,");
    EXPECT_ASKED(&w.f, &w.admin, "GET", "/v1/usage?tenant=acme", NULL, 200,
                 "\"requests\":0,");
    EXPECT_ASKED(&w.f, &w.admin, "GET", "/admin/usage?group_by=tenant", NULL, 200,
                 "\"tenant\":\"acme\",\"removed\":1");
    fixture_stop(&w.f);
}

/* Follows "next" from the first page to the last; the adapters of all, in their order. */
static void read_pages(struct world *w, const char *query, struct buf *adapters)
{
    char path[300], next[200] = "", adapter[80];
    for (int n_pages = 0; n_pages < 20; n_pages++) {
        snprintf(path, sizeof path, "/v1/usage?%s&limit=1%s%s", query,
                 next[0] ? "&after=" : "", next);
        struct reply r = ask(&w->f, &w->acme, "GET", path, NULL);
        EXPECT_EQ(r.status, 200);
        take_string(&r, "adapter", adapter, sizeof adapter);
        take_string(&r, "next", next, sizeof next);
        EXPECT_EQ(reply_has(&r, "\"has_more\":true"), next[0] != '\0');
        EXPECT_EQ(reply_has(&r, "\"next\":null"), next[0] == '\0');
        buf_printf(adapters, "%s;", adapter);
        reply_free(&r);
        if (!next[0])
            return;
    }
}

TEST(admin_usage_is_read_in_pages)
{
    static const char *const queries[] = {"group_by=adapter", "group_by=adapter,key",
                                          "group_by=adapter,hour", "group_by=day,adapter"};
    struct world w;
    open_world(&w, &plain, "");
    EXPECT_ASKED(&w.f, &w.acme, "PUT", "/v1/adapters/a.1", text_a, 201, NULL);
    EXPECT_ASKED(&w.f, &w.acme, "PUT", "/v1/adapters/b", text_a, 201, NULL);
    complete_with(&w, &w.acme, "b");
    complete_with(&w, &w.acme, "");
    complete_with(&w, &w.acme, "a.1");
    wait_for_usage(&w, "\"requests\":3,");
    for (size_t i = 0; i < sizeof queries / sizeof *queries; i++) {
        struct buf seen = {0};
        read_pages(&w, queries[i], &seen);
        EXPECT_STR(seen.data, ";a.1;b;");
        buf_free(&seen);
    }
    EXPECT_ASKED(&w.f, &w.acme, "GET", "/v1/usage?group_by=adapter&after=0.0.0.b", NULL,
                 200, "\"data\":[],");
    fixture_stop(&w.f);
}

/* Counters are of hours: an answer is about whole ones, and says about which. */
TEST(admin_usage_is_of_whole_hours)
{
    static const char open_end[] = "\"start\":null,\"end\":null,\"has_more\":false";
    struct world w;
    char path[200], span[200];
    open_world(&w, &plain, "");
    long long now = (long long)time(NULL), hour = now / 3600 * 3600;
    complete_with(&w, &w.acme, "");
    wait_for_usage(&w, "\"requests\":1,");
    EXPECT_ASKED(&w.f, &w.acme, "GET", "/v1/usage", NULL, 200, open_end);
    snprintf(path, sizeof path, "/v1/usage?start=%lld&end=%lld", now, now + 3601);
    snprintf(span, sizeof span, "\"start\":%lld,\"end\":%lld,", hour,
             (now + 3601 + 3599) / 3600 * 3600);
    EXPECT_ASKED(&w.f, &w.acme, "GET", path, NULL, 200, "\"requests\":1,");
    EXPECT_ASKED(&w.f, &w.acme, "GET", path, NULL, 200, span);
    snprintf(path, sizeof path, "/v1/usage?start=%lld", now - 600);
    snprintf(span, sizeof span, "\"start\":%lld,\"end\":null,",
             (now - 600) / 3600 * 3600);
    EXPECT_ASKED(&w.f, &w.acme, "GET", path, NULL, 200, "\"requests\":1,");
    EXPECT_ASKED(&w.f, &w.acme, "GET", path, NULL, 200, span);
    EXPECT_ASKED(&w.f, &w.acme, "GET", "/v1/usage?end=7200", NULL, 200,
                 "\"start\":null,\"end\":7200,");
    EXPECT_ASKED(&w.f, &w.acme, "GET", "/v1/usage?end=7201", NULL, 200,
                 "\"start\":null,\"end\":10800,");
    EXPECT_ASKED(&w.f, &w.acme, "GET", "/v1/usage?start=0", NULL, 200,
                 "\"start\":0,\"end\":null,");
    fixture_stop(&w.f);
}

TEST(admin_usage_refuses_nonsense)
{
    static const char *const bad[] = {
        "start=x",
        "start=-1",
        "start=2024-13-01",
        "start=2024-02-30",
        "start=2024-1-1",
        "end=2024-01-01T25:00:00Z",
        "end=0",
        "start=100&end=100",
        "group_by=nothing",
        "group_by=tenant",
        "group_by=hour,day",
        "group_by=,",
        "limit=0",
        "start=99999999999999999999",
        "after=0.0.0.x", /* one row has no next */
        "group_by=adapter&after=",
        "group_by=adapter&after=x",
        "group_by=adapter&after=0.0.x",
        "group_by=adapter&after=0.0.-1.x",
        "group_by=adapter&after=0.0.9999999999999999999999.x",
    };
    struct world w;
    char path[100];
    open_world(&w, &plain, "");
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        snprintf(path, sizeof path, "/v1/usage?%s", bad[i]);
        EXPECT_ASKED(&w.f, &w.acme, "GET", path, NULL, 400, "invalid_request_error");
    }
    EXPECT_ASKED(&w.f, &nobody, "GET", "/v1/usage", NULL, 401, NULL);
    fixture_stop(&w.f);
}
