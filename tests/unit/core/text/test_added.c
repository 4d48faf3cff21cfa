/* added: leftmost and longest, white space swallowed, words left whole. */
#include "core/text/added.h"

#include "core/base/buf.h"

#include "tests/test.h"

static void put(struct added *a, struct added_token token, const char *content)
{
    struct err err = {0};
    size_t n = strlen(content);
    if (added_put(a, &token, content, n, content, n, &err) < 0)
        test_fail(__FILE__, __LINE__, "%s", err.msg);
}

/* Pieces as "text" or "<id:text>", joined by "|". */
static void expect_split(const struct added *a, const char *text, const char *want,
                         int line)
{
    struct added_pieces pieces = {0};
    struct buf got = {0};
    added_split(a, ADDED_RAW, text, strlen(text), &pieces);
    buf_add_str(&got, "");
    for (size_t i = 0; i < pieces.n; i++) {
        struct added_piece p = pieces.list[i];
        if (p.id >= 0)
            buf_printf(&got, "%d:", p.id);
        buf_printf(&got, "%.*s|", (int)p.len, text + p.at);
    }
    if (strcmp(got.data, want) != 0)
        test_fail(__FILE__, line, "\"%s\" gave \"%s\", expected \"%s\"", text, got.data,
                  want);
    added_pieces_free(&pieces);
    buf_free(&got);
}

#define SPLIT(text, want) expect_split(&a, text, want, __LINE__)

TEST(added_takes_the_leftmost_then_longest)
{
    struct added a = {0};
    SPLIT("<a>", "<a>|");
    put(&a, (struct added_token){.id = 1}, "<a>");
    put(&a, (struct added_token){.id = 2}, "<a>bc");
    put(&a, (struct added_token){.id = 3}, "bcd");
    SPLIT("x<a>bcd<a>b", "x|2:<a>bc|d|1:<a>|b|");
    SPLIT("<a><a>bcd", "1:<a>|2:<a>bc|d|");
    SPLIT("bcd<a", "3:bcd|<a|");
    SPLIT("", "");
    added_free(&a);
}

TEST(added_swallows_white_space_and_spares_words)
{
    struct added a = {0};
    put(&a, (struct added_token){.id = 1, .lstrip = true}, "<l>");
    put(&a, (struct added_token){.id = 2, .rstrip = true}, "<r>");
    put(&a, (struct added_token){.id = 3, .single_word = true}, "w");
    SPLIT("a \xe3\x80\x80<l> b", "a|1: \xe3\x80\x80<l>| b|");
    SPLIT("<r> \n<l>", "2:<r> \n|1:<l>|");
    SPLIT("w aw w\xc3\xa9 w.", "3:w| aw w\xc3\xa9 |3:w|.|");
    added_free(&a);
}

TEST(added_refuses_empty_and_endless_tokens)
{
    static const char endless[ADDED_MAX_LEN + 1] = "";
    struct added a = {0};
    struct added_token token = {.id = 1};
    struct err err = {0};
    EXPECT_EQ(added_put(&a, &token, "", 0, "", 0, &err), -1);
    EXPECT_EQ(added_put(&a, &token, endless, sizeof endless, endless, sizeof endless, &err),
              -1);
    EXPECT(!added_find(&a, 1));
    added_free(&a);
}
