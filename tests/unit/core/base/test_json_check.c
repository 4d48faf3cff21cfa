/* json_check: what RFC 8259 allows passes, everything else is refused. */
#include "core/base/json_check.h"

#include "core/base/buf.h"

#include "tests/test.h"

static const struct json_limits limits = {
    .max_len = 1 << 20, .max_depth = 8, .max_items = 50, .integers_only = false};

static bool passes_len(const char *s, size_t len, const struct json_limits *lim)
{
    struct err err = {0};
    int rc = json_check(s, len, lim, &err);
    if (rc < 0 && (err.code != ERR_INVALID || !err.msg[0]))
        test_fail(__FILE__, __LINE__, "refused without a reason: %s", s);
    return rc == 0;
}

static bool passes(const char *s)
{
    return passes_len(s, strlen(s), &limits);
}

TEST(json_check_accepts_rfc_8259)
{
    static const char *const good[] = {
        "0",
        "-0",
        " \t\r\n1\n",
        "1.5e+10",
        "1E-2",
        "-12.0",
        "true",
        "false",
        "null",
        "\"\"",
        "[]",
        "[ ]",
        "{}",
        "{ }",
        "[1,2 , 3]",
        "{\"a\":1,\"b\":{\"a\":2}}",
        "[[],{}]",
        "\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u00e9\"",
        "\"\\ud83d\\ude00\"",
        "\"\xc3\xa9\"",
        "\"\xf0\x9f\x98\x80\"",
        "\"\x7f\"",
        "[[[[[[[[1]]]]]]]]",
        "{\"\":1}",
        "{\"a\":1,\"A\":2,\"aa\":3}",
        "[{\"a\":1},{\"a\":1}]",
    };
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        if (!passes(good[i]))
            test_fail(__FILE__, __LINE__, "refused: %s", good[i]);
}

TEST(json_check_refuses_the_rest)
{
    static const char *const bad[] = {
        "",
        " ",
        "nul",
        "nulll",
        "True",
        "+1",
        "01",
        "-",
        "-01",
        "1.",
        ".5",
        "1e",
        "1e+",
        "0x1",
        "NaN",
        "Infinity",
        "[1,]",
        "[,1]",
        "[1 2]",
        "[1",
        "]",
        "{",
        "{\"a\"}",
        "{\"a\":}",
        "{\"a\":1,}",
        "{a:1}",
        "{1:1}",
        "{\"a\" 1}",
        "[1}",
        "{\"a\":1]",
        "\"",
        "\"a",
        "\"\\",
        "\"\\x\"",
        "\"\\u12\"",
        "\"\\u12g4\"",
        "\"\n\"",
        "\"\t\"",
        "'a'",
        "1 2",
        "[] []",
        "{}x",
        "/**/1",
        ("\xef\xbb\xbf"
         "1"),
        "\"\\u0000\"",
        "\"\\ud800\"",
        "\"\\udc00\"",
        "\"\\ud800\\u0041\"",
        "\"\\ud800x\"",
        "\"\\ud800\\ud800\"",
        "\"\xff\"",
        "\"\xc0\x80\"",
        "\"\xed\xa0\x80\"",
        "\"\xf4\x90\x80\x80\"",
        "\"\xc3\"",
        "\"\xe2\x82\"",
        "\xc3\xa9",
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (passes(bad[i]))
            test_fail(__FILE__, __LINE__, "accepted: %s", bad[i]);
    EXPECT(!passes_len("\"a\0b\"", 5, &limits));
    EXPECT(!passes_len("1\0", 2, &limits));
    EXPECT(!passes_len("\"\\\0\"", 4, &limits));
}

TEST(json_check_finds_duplicate_keys)
{
    EXPECT(!passes("{\"a\":1,\"a\":1}"));
    EXPECT(!passes("{\"a\":1,\"b\":2,\"\\u0061\":3}"));
    EXPECT(!passes("{\"\":1,\"\":2}"));
    EXPECT(!passes("{\"a\":{\"x\":1,\"y\":2,\"x\":3}}"));
    EXPECT(!passes("{\"a\":1,\"b\":{\"a\":1},\"a\":2}"));
    EXPECT(!passes("{\"\\ud83d\\ude00\":1,\"\xf0\x9f\x98\x80\":2}"));
}

TEST(json_check_keeps_its_limits)
{
    EXPECT(!passes("[[[[[[[[[1]]]]]]]]]"));
    EXPECT(!passes("{\"a\":[[[[[[[[]]]]]]]]}"));
    struct json_limits few = {.max_len = 10, .max_depth = 3, .max_items = 3};
    EXPECT(passes_len("[1,2]", 5, &few));
    EXPECT(!passes_len("[1,2,3]", 7, &few));
    EXPECT(passes_len("1234567890", 10, &few));
    EXPECT(!passes_len("12345678901", 11, &few));
}

TEST(json_check_integers_only)
{
    struct json_limits lim = limits;
    lim.integers_only = true;
    EXPECT(passes_len("[0,1,12]", 8, &lim));
    EXPECT(passes_len("9007199254740991", 16, &lim));
    EXPECT(!passes_len("9007199254740992", 16, &lim));
    EXPECT(!passes_len("18446744073709551617", 20, &lim));
    EXPECT(!passes_len("-1", 2, &lim));
    EXPECT(!passes_len("1.0", 3, &lim));
    EXPECT(!passes_len("1e3", 3, &lim));
}

TEST(json_check_survives_deep_and_wide_input)
{
    struct json_limits lim = {
        .max_len = 1 << 24, .max_depth = 1000000, .max_items = 10000000};
    struct buf b = {0};
    for (int i = 0; i < 100000; i++)
        buf_add_char(&b, '[');
    EXPECT(!passes_len(b.data, b.len, &lim));
    for (int i = 0; i < 100000; i++)
        buf_add_char(&b, ']');
    EXPECT(passes_len(b.data, b.len, &lim));
    buf_clear(&b);
    for (int i = 0; i < 100000; i++)
        buf_printf(&b, "%c\"k%d\":%d", i ? ',' : '{', i, i);
    buf_add_char(&b, '}');
    EXPECT(passes_len(b.data, b.len, &lim));
    b.len--;
    buf_add_str(&b, ",\"k777\":0}");
    EXPECT(!passes_len(b.data, b.len, &lim));
    buf_free(&b);
}

TEST(json_check_names_the_place)
{
    struct err err = {0};
    EXPECT_EQ(json_check("[1,x]", 5, &limits, &err), -1);
    EXPECT(strstr(err.msg, "byte 3") != NULL);
}
