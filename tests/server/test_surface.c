/* The HTTP surface: routes, headers, bodies, keys. */
#include "server/exchange.h"
#include "tests/server/fixture.h"
#include "tests/support/fake_engine.h"
#include "tests/test.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const struct fake_plan plain = {0};
static const char json_type[] = "Content-Type: application/json\r\n";

#define EXPECT_STATUS(f, ...) expect_status(f, __LINE__, __VA_ARGS__)

static void expect_status(struct fixture *f, int line, const char *method, const char *path,
                          const char *headers, const char *body, int wanted)
{
    struct reply r = fixture_ask(f, method, path, headers, body);
    if (r.status != wanted)
        test_fail(__FILE__, line, "%s %s: %d, expected %d: %s", method, path, r.status,
                  wanted, r.body.data ? r.body.data : "");
    if (!reply_header(&r, "X-Request-Id"))
        test_fail(__FILE__, line, "%s %s: no X-Request-Id", method, path);
    reply_free(&r);
}

TEST(surface_status_routes_answer)
{
    struct fixture f = {0};
    fake_engine_plan(&plain);
    fixture_start(&f);
    struct reply r = fixture_get(&f, "/health");
    EXPECT_EQ(r.status, 200);
    EXPECT_STR(r.body.data, "{\"status\":\"ok\"}\n");
    EXPECT_STR(reply_header(&r, "Content-Type"), "application/json");
    reply_free(&r);
    EXPECT_STATUS(&f, "GET", "/ready", "", NULL, 200);
    EXPECT_STATUS(&f, "GET", "/version", "", NULL, 200);
    EXPECT_STATUS(&f, "HEAD", "/health", "", NULL, 200);
    EXPECT_STATUS(&f, "GET", "/nothing", "", NULL, 404);
    EXPECT_STATUS(&f, "GET", "/v1/adapters/a/b", "", NULL, 404);
    EXPECT_STATUS(&f, "GET", "/v1/models/", "", NULL, 404);
    fixture_stop(&f);
}

TEST(surface_wrong_method_names_the_right_ones)
{
    struct fixture f = {0};
    fake_engine_plan(&plain);
    fixture_start(&f);
    struct reply r = fixture_ask(&f, "DELETE", "/v1/completions", "", NULL);
    EXPECT_EQ(r.status, 405);
    EXPECT_STR(reply_header(&r, "Allow"), "POST");
    reply_free(&r);
    r = fixture_ask(&f, "POST", "/v1/adapters/x", "", "{}");
    EXPECT_EQ(r.status, 405);
    EXPECT_STR(reply_header(&r, "Allow"), "GET, HEAD, PUT, PATCH, DELETE");
    reply_free(&r);
    fixture_stop(&f);
}

TEST(surface_request_id_is_taken_over_or_made)
{
    struct fixture f = {0};
    fake_engine_plan(&plain);
    fixture_start(&f);
    struct reply r =
        fixture_ask(&f, "GET", "/nothing", "X-Request-Id: my.id_1-2\r\n", NULL);
    EXPECT_STR(reply_header(&r, "X-Request-Id"), "my.id_1-2");
    EXPECT(reply_has(&r, "\"request_id\":\"my.id_1-2\""));
    reply_free(&r);
    r = fixture_ask(&f, "GET", "/health", "X-Request-Id: bad id\r\n", NULL);
    EXPECT_EQ(strlen(reply_header(&r, "X-Request-Id")), 32);
    reply_free(&r);
    fixture_stop(&f);
}

TEST(surface_refuses_bodies_by_size)
{
    struct fixture f = {.max_body = 2000};
    char *big = calloc(1, 4001);
    memset(big, ' ', 4000);
    fake_engine_plan(&plain);
    fixture_start(&f);
    EXPECT_STATUS(&f, "POST", "/v1/completions", json_type, big, 413);
    /* The same without a length in front: one chunk of 4000 bytes. */
    struct buf b = {0};
    buf_printf(
        &b,
        "POST /v1/completions HTTP/1.1\r\nHost: x\r\n%sTransfer-Encoding: chunked\r\n\r\n"
        "fa0\r\n%s\r\n0\r\n\r\n",
        json_type, big);
    int fd = client_open(&f);
    client_send(fd, b.data);
    struct reply r = client_read(fd, true);
    EXPECT_EQ(r.status, 413);
    EXPECT(reply_has(&r, "request_too_large"));
    reply_free(&r);
    /* The connection goes on. */
    client_send(fd, "GET /health HTTP/1.1\r\nHost: x\r\n\r\n");
    r = client_read(fd, true);
    EXPECT_EQ(r.status, 200);
    reply_free(&r);
    close(fd);
    buf_free(&b);
    free(big);
    fixture_stop(&f);
}

TEST(surface_expect_continue_is_answered_before_the_body)
{
    struct fixture f = {.max_body = 2000};
    struct buf got = {0};
    fake_engine_plan(&plain);
    fixture_start(&f);
    int fd = client_open(&f);
    client_send(
        fd, "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            "Expect: 100-continue\r\nContent-Length: 29\r\n\r\n");
    EXPECT(client_wait_for(fd, &got, "100 Continue\r\n\r\n", 5000));
    client_send(fd, "{\"prompt\":\"a\",\"max_tokens\":1}");
    EXPECT(client_wait_for(fd, &got, "200 OK", 5000));
    close(fd);
    buf_clear(&got);
    fd = client_open(&f);
    client_send(
        fd, "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            "Expect: 100-continue\r\nContent-Length: 99999\r\n\r\n");
    EXPECT(client_wait_for(fd, &got, "413", 5000));
    EXPECT(got.data && !strstr(got.data, "100 Continue"));
    close(fd);
    buf_free(&got);
    fixture_stop(&f);
}

TEST(surface_content_types)
{
    static const char body[] = "{\"prompt\":\"a\",\"max_tokens\":1}";
    struct fixture f = {0};
    fake_engine_plan(&plain);
    fixture_start(&f);
    EXPECT_STATUS(&f, "POST", "/v1/completions", "Content-Type: text/plain\r\n", body, 415);
    EXPECT_STATUS(&f, "POST", "/v1/completions", "Content-Type: application/jsonx\r\n",
                  body, 415);
    EXPECT_STATUS(&f, "POST", "/v1/completions",
                  "Content-Type: application/json; charset=utf-8\r\n", body, 200);
    EXPECT_STATUS(&f, "POST", "/v1/completions",
                  "Content-Type: application/x-www-form-urlencoded\r\n", body, 200);
    EXPECT_STATUS(&f, "POST", "/v1/completions",
                  "Content-Type: application/x-www-form-urlencoded\r\n", "prompt=a", 415);
    EXPECT_STATUS(&f, "POST", "/v1/completions", "", body, 200);
    EXPECT_STATUS(&f, "POST", "/v1/completions", json_type, "{\"prompt\":", 400);
    EXPECT_STATUS(&f, "POST", "/v1/completions", json_type, "", 400);
    fixture_stop(&f);
}

TEST(surface_paths_with_nul_or_slash_are_refused)
{
    struct fixture f = {0};
    fake_engine_plan(&plain);
    fixture_start(&f);
    EXPECT_STATUS(&f, "GET", "/v1/adapters/a%00b", "", NULL, 400);
    EXPECT_STATUS(&f, "GET", "/v1/adapters/a%2Fb", "", NULL, 400);
    EXPECT_STATUS(&f, "GET", "/v1/adapters/a%2fb", "", NULL, 400);
    EXPECT_STATUS(&f, "PUT", "/v1/adapters/a%20b", json_type,
                  "{\"kind\":\"text\",\"text\":\"x\"}", 400);
    EXPECT_STATUS(&f, "PUT", "/v1/adapters/gqa", json_type,
                  "{\"kind\":\"text\",\"text\":\"x\"}", 400);
    EXPECT_STATUS(&f, "GET", "/v1/models/%67qa", "", NULL, 200);
    EXPECT_STATUS(&f, "GET", "/v1/adapters/%ff", "", NULL, 400);
    fixture_stop(&f);
}

static char *key_file(const char *text)
{
    static char path[] = "/tmp/prefixd-keys-XXXXXX";
    strcpy(path + sizeof path - 7, "XXXXXX");
    int fd = mkstemp(path);
    if (write(fd, text, strlen(text)) < 0)
        return NULL;
    close(fd);
    return path;
}

TEST(surface_whole_addresses_are_accepted)
{
    struct fixture f = {0};
    fake_engine_plan(&plain);
    fixture_start(&f);
    EXPECT_STATUS(&f, "GET", "http://127.0.0.1:8080/v1/models/%67qa", "", NULL, 200);
    EXPECT_STATUS(&f, "GET", "HTTP://x/health?a=b", "", NULL, 200);
    EXPECT_STATUS(&f, "GET", "http://x", "", NULL, 404);
    EXPECT_STATUS(&f, "GET", "https://x/health", "", NULL, 404);
    fixture_stop(&f);
}

TEST(surface_keys_guard_all_but_the_open_routes)
{
    struct fixture f = {.key_file = key_file("# ours\nsecret-1\n\n  secret-2  \n")};
    fake_engine_plan(&plain);
    fixture_start(&f);
    struct reply r = fixture_get(&f, "/v1/models");
    EXPECT_EQ(r.status, 401);
    EXPECT_STR(reply_header(&r, "WWW-Authenticate"), "Bearer");
    EXPECT(reply_has(&r, "invalid_api_key"));
    reply_free(&r);
    EXPECT_STATUS(&f, "GET", "/health", "", NULL, 200);
    EXPECT_STATUS(&f, "GET", "/ready", "", NULL, 200);
    EXPECT_STATUS(&f, "GET", "/version", "", NULL, 200);
    EXPECT_STATUS(&f, "GET", "/metrics", "", NULL, 401);
    EXPECT_STATUS(&f, "GET", "/nothing", "", NULL, 401);
    EXPECT_STATUS(&f, "GET", "/v1/models", "Authorization: Bearer secret-2\r\n", NULL, 200);
    EXPECT_STATUS(&f, "GET", "/v1/models", "Authorization: bearer secret-1\r\n", NULL, 200);
    EXPECT_STATUS(&f, "GET", "/v1/models", "Authorization: Bearer secret-\r\n", NULL, 401);
    EXPECT_STATUS(&f, "GET", "/v1/models", "Authorization: Bearer secret-22\r\n", NULL,
                  401);
    EXPECT_STATUS(&f, "GET", "/v1/models", "Authorization: Bearer # ours\r\n", NULL, 401);
    EXPECT_STATUS(&f, "GET", "/v1/models", "Authorization: secret-1\r\n", NULL, 401);
    EXPECT_STATUS(&f, "POST", "/v1/completions", json_type, "{\"prompt\":\"a\"}", 401);
    fixture_stop(&f);
    unlink(f.key_file);
}

TEST(surface_cors_is_off_unless_configured)
{
    struct fixture f = {0};
    fake_engine_plan(&plain);
    fixture_start(&f);
    struct reply r =
        fixture_ask(&f, "OPTIONS", "/v1/completions", "Origin: http://a\r\n", NULL);
    EXPECT_EQ(r.status, 204);
    EXPECT(reply_header(&r, "Access-Control-Allow-Origin") == NULL);
    reply_free(&r);
    fixture_stop(&f);
    struct fixture g = {.cors_origin = "http://a"};
    fixture_start(&g);
    r = fixture_ask(&g, "OPTIONS", "/v1/completions", "Origin: http://a\r\n", NULL);
    EXPECT_STR(reply_header(&r, "Access-Control-Allow-Origin"), "http://a");
    EXPECT_STR(reply_header(&r, "Access-Control-Allow-Methods"), "POST");
    reply_free(&r);
    r = fixture_get(&g, "/v1/models");
    EXPECT_STR(reply_header(&r, "Access-Control-Allow-Origin"), "http://a");
    reply_free(&r);
    fixture_stop(&g);
}

TEST(surface_keep_alive_serves_many_requests)
{
    struct fixture f = {0};
    fake_engine_plan(&plain);
    fixture_start(&f);
    int fd = client_open(&f);
    for (int i = 0; i < 20; i++) {
        client_post(fd, i % 2 ? "{\"prompt\":\"a\",\"max_tokens\":2}"
                              : "{\"prompt\":\"a\",\"max_tokens\":2,\"stream\":true}");
        struct reply r = client_read(fd, true);
        EXPECT_EQ(r.status, 200);
        EXPECT(reply_has(&r, "w0"));
        reply_free(&r);
    }
    /* Two at once: the second waits for the first. */
    client_send(
        fd,
        "GET /health HTTP/1.1\r\nHost: x\r\n\r\nGET /version HTTP/1.1\r\nHost: x\r\n\r\n");
    struct buf got = {0};
    EXPECT(client_wait_for(fd, &got, "\"version\"", 5000));
    buf_free(&got);
    close(fd);
    fixture_stop(&f);
}

TEST(surface_old_http_gets_whole_answers_but_no_streams)
{
    struct fixture f = {0};
    struct buf got = {0};
    fake_engine_plan(&plain);
    fixture_start(&f);
    int fd = client_open(&f);
    client_send(fd, "POST /v1/completions HTTP/1.0\r\nContent-Length: 29\r\n\r\n"
                    "{\"prompt\":\"a\",\"max_tokens\":1}");
    EXPECT(client_wait_for(fd, &got, "\"usage\"", 5000));
    close(fd);
    buf_clear(&got);
    fd = client_open(&f);
    client_send(fd, "POST /v1/completions HTTP/1.0\r\nContent-Length: 28\r\n\r\n"
                    "{\"prompt\":\"a\",\"stream\":true}");
    EXPECT(client_wait_for(fd, &got, "400 Bad Request", 5000));
    close(fd);
    buf_free(&got);
    fixture_stop(&f);
}

/* What is no HTTP must neither stop the server nor leave anything behind (the sanitizers
 * look). */
TEST(surface_survives_garbage)
{
    static const char *const garbage[] = {
        "\r\n\r\n\r\n",
        "GET\r\n\r\n",
        "GET / HTTP/9.9\r\n\r\n",
        "\x16\x03\x01\x02\r\n\r\n",
        "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: "
        "99999999999999999999999\r\n\r\n",
        "POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: "
        "chunked\r\n\r\nzz\r\n",
        "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n123",
        ("PUT /v1/adapters/a HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data\r\n"
         "Content-Length: 5\r\n\r\n12345"),
        "GET /%",
        "GET /% HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET /%4 HTTP/1.1\r\nHost: x\r\n\r\n",
    };
    struct fixture f = {0};
    fake_engine_plan(&plain);
    fixture_start(&f);
    for (size_t i = 0; i < sizeof garbage / sizeof *garbage; i++) {
        struct buf got = {0};
        int fd = client_open(&f);
        client_send(fd, garbage[i]);
        client_wait_for(fd, &got, "\r\n\r\n", 100);
        close(fd);
        buf_free(&got);
    }
    EXPECT_STATUS(&f, "GET", "/health", "", NULL, 200);
    fixture_stop(&f);
}

TEST(surface_metrics_have_the_promised_names)
{
    static const char *const names[] = {
        "prefixd_num_requests_running{model_name=\"gqa\"} 0\n",
        "prefixd_num_requests_waiting{model_name=\"gqa\"} 0\n",
        "prefixd_kv_cache_usage_perc{model_name=\"gqa\"} 0\n",
        "prefixd_prompt_tokens_total{model_name=\"gqa\"} 3\n",
        "prefixd_generation_tokens_total{model_name=\"gqa\"} 4\n",
        "prefixd_virtual_tokens_total 0\n",
        "prefixd_prefill_rows_total",
        "prefixd_answer_bytes 0\n",
        "prefixd_compile_rows_total",
        "prefixd_prefix_reads_total",
        "prefixd_request_success_total{model_name=\"gqa\",finished_reason=\"length\"} 2\n",
        "prefixd_http_requests_total{status=\"200\"} 1\n",
        "prefixd_time_to_first_token_seconds_count{model_name=\"gqa\"} 1\n",
        "prefixd_inter_token_latency_seconds_count{model_name=\"gqa\"} 2\n",
        "prefixd_e2e_request_latency_seconds_bucket{model_name=\"gqa\",le=\"+Inf\"} 1\n",
        "prefixd_adapter_requests_total{tenant=\"default\",adapter=\"\"} 1\n",
        "prefixd_workers 1\n",
        "prefixd_worker_deaths_total 0\n",
        "prefixd_rows_per_step ",
        "prefixd_adapter_evictions_total 0\n",
        "prefixd_throttles_total{reason=\"max_running\"} 0\n",
        "prefixd_tenant_requests_total{tenant=\"default\",outcome=\"ok\"} 1\n",
        "prefixd_tenant_prompt_tokens_total{tenant=\"default\"} 3\n",
        "prefixd_tenant_generation_tokens_total{tenant=\"default\"} 4\n",
        "prefixd_tenant_time_to_first_token_seconds_count{tenant=\"default\"} 1\n",
        "prefixd_tenant_inter_token_latency_seconds_count{tenant=\"default\"} 2\n",
        "prefixd_tenant_queue_time_seconds_count{tenant=\"default\"} 1\n",
        "prefixd_request_prompt_tokens_bucket{model_name=\"gqa\",le=\"1\"} 0\n",
        "prefixd_request_prompt_tokens_bucket{model_name=\"gqa\",le=\"5\"} 1\n",
        "prefixd_request_generation_tokens_sum{model_name=\"gqa\"} 4\n",
        "prefixd_request_queue_time_seconds_count{model_name=\"gqa\"} 1\n",
        "prefixd_request_prefill_time_seconds_count{model_name=\"gqa\"} 1\n",
        "prefixd_request_decode_time_seconds_count{model_name=\"gqa\"} 1\n",
        "prefixd_prefix_cache_queries{model_name=\"gqa\"} 0\n",
        "prefixd_prefix_cache_hits{model_name=\"gqa\"} 0\n",
    };
    struct fixture f = {0};
    fake_engine_plan(&plain);
    fixture_start(&f);
    struct reply r = fixture_complete(&f, "{\"prompt\":[1,2,3],\"max_tokens\":2,\"n\":2}");
    EXPECT_EQ(r.status, 200);
    reply_free(&r);
    r = fixture_get(&f, "/metrics");
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!reply_has(&r, names[i]))
            test_fail(__FILE__, __LINE__, "no %s", names[i]);
    reply_free(&r);
    fixture_stop(&f);
}

TEST(surface_metrics_count_every_choice_once)
{
    static const char *const names[] = {
        "finished_reason=\"stop\"} 3\n",
        "finished_reason=\"length\"} 2\n",
        "finished_reason=\"error\"} 4\n",
        "prefixd_request_generation_tokens_sum{model_name=\"gqa\"} 18\n",
        "prefixd_request_generation_tokens_count{model_name=\"gqa\"} 9\n",
        "outcome=\"ok\"} 2\n",
        "outcome=\"refused\"} 2\n",
        "outcome=\"error\"} 1\n",
        "outcome=\"cancelled\"} 0\n",
        "prefixd_throttles_total{reason=\"queue_full\"} 1\n",
    };
    struct fixture f = {0};
    fake_engine_plan(&plain);
    fixture_start(&f);
    EXPECT_STATUS(&f, "POST", "/v1/completions", json_type,
                  "{\"prompt\":[1],\"max_tokens\":2,\"n\":2}", 200);
    fake_engine_plan(&(struct fake_plan){.eos_after = 1});
    EXPECT_STATUS(&f, "POST", "/v1/completions", json_type,
                  "{\"prompt\":[1],\"max_tokens\":3,\"n\":3,\"stream\":true}", 200);
    fake_engine_plan(&(struct fake_plan){.fail_code = ERR_INTERNAL, .fail_after = 2});
    EXPECT_STATUS(&f, "POST", "/v1/completions", json_type,
                  "{\"prompt\":[1],\"max_tokens\":3,\"n\":4}", 500);
    fake_engine_plan(&(struct fake_plan){.post_code = ERR_QUEUE_FULL});
    EXPECT_STATUS(&f, "POST", "/v1/completions", json_type, "{\"prompt\":[1]}", 429);
    EXPECT_STATUS(&f, "POST", "/v1/completions", json_type,
                  "{\"prompt\":[1],\"model\":\"none\"}", 404);
    struct reply r = fixture_get(&f, "/metrics");
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!reply_has(&r, names[i]))
            test_fail(__FILE__, __LINE__, "no %s in %s", names[i], r.body.data);
    reply_free(&r);
    fixture_stop(&f);
}

TEST(surface_request_ids_are_taken_over)
{
    static const char *const kept[] = {"a", "req:1/2+3=[x]{y}~|", "Root=1-67891233-abc;Self=1",
                                       "<a\\b>"};
    static const char *const not_kept[] = {"a b", "a\"b", "it's", "caf\xc3\xa9", "\t", ""};
    struct fixture f = {0};
    char header[400], full[EXCHANGE_ID_MAX + 2];
    fake_engine_plan(&plain);
    fixture_start(&f);
    for (size_t i = 0; i < 4; i++) {
        snprintf(header, sizeof header, "X-Request-Id: %s\r\n", kept[i]);
        struct reply r = fixture_ask(&f, "GET", "/health", header, NULL);
        EXPECT_STR(reply_header(&r, "X-Request-Id"), kept[i]);
        reply_free(&r);
    }
    for (size_t i = 0; i < 6; i++) {
        snprintf(header, sizeof header, "X-Request-Id: %s\r\n", not_kept[i]);
        struct reply r = fixture_ask(&f, "GET", "/health", header, NULL);
        EXPECT_EQ(strlen(reply_header(&r, "X-Request-Id")), 32);
        reply_free(&r);
    }
    for (size_t n = EXCHANGE_ID_MAX; n <= EXCHANGE_ID_MAX + 1; n++) {
        memset(full, 'x', n);
        full[n] = '\0';
        snprintf(header, sizeof header, "X-Request-Id: %s\r\n", full);
        struct reply r = fixture_ask(&f, "GET", "/health", header, NULL);
        EXPECT_EQ(strlen(reply_header(&r, "X-Request-Id")), n > EXCHANGE_ID_MAX ? 32 : n);
        reply_free(&r);
    }
    fixture_stop(&f);
}

TEST(surface_preflight_allows_the_headers_that_are_asked_for)
{
    struct fixture f = {.cors_origin = "http://a"};
    fake_engine_plan(&plain);
    fixture_start(&f);
    struct reply r = fixture_ask(
        &f, "OPTIONS", "/v1/completions",
        "Origin: http://a\r\nAccess-Control-Request-Headers: authorization,x-stainless-os\r\n",
        NULL);
    EXPECT_STR(reply_header(&r, "Access-Control-Allow-Headers"),
               "authorization,x-stainless-os");
    reply_free(&r);
    r = fixture_ask(&f, "OPTIONS", "/v1/completions",
                    "Origin: http://a\r\nAccess-Control-Request-Headers: a: b\r\n", NULL);
    EXPECT_STR(reply_header(&r, "Access-Control-Allow-Headers"),
               "Authorization, Content-Type, X-Request-Id");
    reply_free(&r);
    fixture_stop(&f);
}
