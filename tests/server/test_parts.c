/* The parts that need no running server: addresses, keys, framing; and tokenizing over
 * HTTP. */
#include "adapters/store_tenants.h"
#include "core/base/utf8.h"
#include "server/auth.h"
#include "server/listen.h"
#include "server/sse.h"
#include "tests/server/fixture.h"
#include "tests/support/adapter_files.h"
#include "tests/support/fake_engine.h"
#include "tests/test.h"

#include <string.h>
#include <stdlib.h>
#include <unistd.h>

TEST(listen_knows_loopback_and_refuses_the_rest)
{
    static const struct {
        const char *spec;
        bool is_fine, is_loopback;
    } rows[] = {
        {"127.0.0.1:8080", true, true},
        {"127.9.9.9:0", true, true},
        {"localhost:1", true, true},
        {"[::1]:65535", true, true},
        {"0.0.0.0:80", true, false},
        {"[::]:80", true, false},
        {"10.1.2.3:80", true, false},
        {"127.0.0.1", false, false},
        {"127.0.0.1:", false, false},
        {"127.0.0.1:65536", false, false},
        {"127.0.0.1:8a", false, false},
        {"::1:80", false, false},
        {"example.com:80", false, false},
        {":80", false, false},
        {"", false, false},
        {"[127.0.0.1]:80", false, false},
        {"127.0.0.1:-1", false, false},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct listen_addr a;
        struct err err = {0};
        bool is_fine = listen_parse(&a, rows[i].spec, &err) == 0;
        if (is_fine != rows[i].is_fine || (is_fine && a.is_loopback != rows[i].is_loopback))
            test_fail(__FILE__, __LINE__, "%s: %d %d", rows[i].spec, is_fine,
                      a.is_loopback);
    }
}

TEST(listen_opens_v6_and_names_its_port)
{
    struct listen_addr a;
    struct err err = {0};
    ASSERT(listen_parse(&a, "[::1]:0", &err) == 0);
    int fd = listen_bind(&a, &err);
    if (fd < 0)
        SKIP("no IPv6 here");
    EXPECT_EQ(listen_start(&a, fd, &err), 0);
    EXPECT(a.port > 0);
    EXPECT(strncmp(a.url, "http://[::1]:", 13) == 0);
    struct listen_addr b = a;
    EXPECT(listen_bind(&b, &err) < 0); /* taken */
    close(fd);
}

static bool opens(const char *text)
{
    char path[] = "/tmp/prefixd-keys-XXXXXX";
    struct err err = {0};
    int fd = mkstemp(path);
    ssize_t n = write(fd, text, strlen(text));
    close(fd);
    struct auth *a = auth_open("--api-key-file", path, &err);
    unlink(path);
    auth_free(a);
    return a && n >= 0;
}

TEST(auth_key_files)
{
    struct err err = {0};
    EXPECT(opens("one"));
    EXPECT(opens("\r\none\r\n# two\n"));
    EXPECT(!opens(""));
    EXPECT(!opens("\n# only a comment\n"));
    EXPECT(!opens("two words\n"));
    EXPECT(auth_open("--api-key-file", "/nonexistent/keys", &err) == NULL);
    EXPECT_EQ(err.code, ERR_IO);
}

static void add_key(const char *dir)
{
    struct err err = {0};
    struct tenant_key key;
    char text[KEY_TEXT_MAX];
    struct store *s = store_open(&(struct store_opts){.dir = dir}, &err);
    ASSERT(s != NULL);
    EXPECT(store_add_key(s, "default", KEY_INFER, 0, text, &key, &err) == 0);
    store_close(s);
}

TEST(server_without_keys_stays_on_loopback)
{
    struct config cfg;
    struct err err = {0};
    char *dir = adapter_files_tmp_dir();
    char a0[] = "prefixd", a1[] = "--model=x/y.gguf", a2[] = "--listen=0.0.0.0:0";
    char *argv[] = {a0, a1, a2};
    ASSERT(config_from_args(&cfg, 3, argv, &err) == CONFIG_RUN);
    struct server *s = server_new(&cfg, &err);
    ASSERT(s != NULL);
    EXPECT_STR(s->base_name, "y");
    EXPECT(server_check_open(s, dir, &err) < 0);
    EXPECT(strstr(err.msg, "0.0.0.0:0") != NULL);
    cfg.allow_open = true;
    EXPECT_EQ(server_check_open(s, dir, &err), 0);
    cfg.allow_open = false;
    add_key(dir);
    EXPECT_EQ(server_check_open(s, dir, &err), 0);
    server_free(s);
    config_fini(&cfg);
    adapter_files_remove_dir(dir);
    free(dir);
}

/* What the name becomes, or NULL if it is refused. */
static char *name_with(const char *name, const char *model)
{
    char flags[2][200], flag[] = "prefixd", listen[] = "--listen=127.0.0.1:0";
    char *argv[] = {flag, listen, flags[0], flags[1]}, *got = NULL;
    struct config cfg;
    struct err err = {0};
    snprintf(flags[0], sizeof flags[0], "--model=%s", model);
    snprintf(flags[1], sizeof flags[1], "--name=%s", name);
    if (config_from_args(&cfg, 4, argv, &err) != CONFIG_RUN)
        return NULL;
    struct server *s = server_new(&cfg, &err);
    if (s)
        got = strdup(s->base_name);
    else
        EXPECT(strstr(err.msg, "--name") && utf8_valid_len(err.msg, strlen(err.msg)) ==
                                                strlen(err.msg));
    server_free(s);
    config_fini(&cfg);
    return got;
}

static void expect_name(const char *name, const char *model, const char *want)
{
    char *got = name_with(name, model);
    if (!got != !want || (got && strcmp(got, want) != 0))
        test_fail(__FILE__, __LINE__, "--name=%s --model=%s: %s", name, model,
                  got ? got : "refused");
    free(got);
}

TEST(server_names_the_base)
{
    expect_name("a", "x/y.gguf", "a");
    expect_name("org/model-1.5 \xc3\xa9", "x", "org/model-1.5 \xc3\xa9");
    expect_name("", "x/y.gguf", "y");
    expect_name("", "x/y///", "y");
    expect_name("", "/tmp/.", "tmp");
    expect_name("", "/tmp/../tmp/..", "model");
    expect_name("", "nowhere/.", "model");
    expect_name("a:b", "x", NULL);
    expect_name("", "x/a:b", NULL);
    expect_name("a\nb", "x", NULL);
    expect_name("a\x7f", "x", NULL);
    expect_name("a\xff", "x", NULL);
    expect_name("\xc3", "x", NULL);
}

TEST(sse_frames)
{
    struct buf b = {0};
    sse_begin_data(&b);
    buf_add_str(&b, "{}");
    sse_end_data(&b);
    sse_add_comment(&b, "hi");
    sse_add_error(&b, "{}", 2);
    sse_add_done(&b);
    EXPECT_STR(b.data, "data: {}\n\n: hi\n\nevent: error\ndata: {}\n\ndata: [DONE]\n\n");
    buf_free(&b);
}

static void ask(struct fixture *f, const char *path, const char *body, int status,
                const char *part)
{
    struct reply r =
        fixture_ask(f, "POST", path, "Content-Type: application/json\r\n", body);
    if (r.status != status || !reply_has(&r, part))
        test_fail(__FILE__, __LINE__, "%s %.60s: %d %.200s", path, body, r.status,
                  r.body.data ? r.body.data : "");
    reply_free(&r);
}

TEST(tokenize_both_ways)
{
    struct fixture f = {0};
    struct buf big = {0};
    fake_engine_plan(&(struct fake_plan){0});
    fixture_start(&f);
    ask(&f, "/tokenize", "{\"content\":\"\"}", 200,
        "{\"tokens\":[],\"count\":0,\"max_model_len\":1000}");
    ask(&f, "/tokenize", "{\"prompt\":\"ab\",\"add_special_tokens\":false}", 200,
        "\"count\":");
    ask(&f, "/tokenize", "{\"prompt\":1}", 400, "\"param\":\"prompt\"");
    ask(&f, "/tokenize", "{\"content\":\"a\",\"add_special\":1}", 400, "add_special");
    ask(&f, "/tokenize", "{}", 400, "prompt");
    ask(&f, "/tokenize", "[]", 400, "object");
    ask(&f, "/tokenize", "{\"content\":\"a\\u0000b\"}", 400, "error");
    ask(&f, "/detokenize", "{\"tokens\":[]}", 200, "{\"content\":\"\",\"prompt\":\"\"}");
    ask(&f, "/detokenize", "{\"tokens\":[1.5]}", 400, "\"param\":\"tokens\"");
    ask(&f, "/detokenize", "{\"tokens\":[-1]}", 400, "tokens");
    ask(&f, "/detokenize", "{\"tokens\":[320]}", 400, "319");
    ask(&f, "/detokenize", "{\"tokens\":\"a\"}", 400, "tokens");
    buf_add_str(&big, "{\"content\":\"");
    for (int i = 0; i < 20000; i++)
        buf_add_str(&big, "z ");
    buf_add_str(&big, "\"}");
    ask(&f, "/tokenize", big.data, 200, "\"count\":");
    buf_free(&big);
    fixture_stop(&f);
}
