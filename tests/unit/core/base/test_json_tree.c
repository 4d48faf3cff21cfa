/* json_tree: values, escapes and lookups, from text that ends where its memory ends. */
#include "core/base/json_tree.h"

#include <stdlib.h>
#include <string.h>

#include "core/base/mem.h"
#include "tests/test.h"

static const struct json_limits limits = {.max_len = 4096, .max_depth = 8, .max_items = 100};

/* In memory that is exactly as long as the text, so that a sanitizer sees a byte too far. */
static int parse(struct json_tree *t, const char *text, struct err *err)
{
    size_t len = strlen(text);
    char *exact = xmalloc(len ? len : 1);
    memcpy(exact, text, len);
    int rc = json_tree_parse(t, exact, len, &limits, err);
    free(exact);
    return rc;
}

TEST(json_tree_reads_every_kind)
{
    struct json_tree t;
    struct err err = {0};
    ASSERT(parse(&t, " { \"n\" : null , \"t\":true,\"f\" :false,\"i\":-12, \"d\":1.5e2,\"s\":\"x\","
                 "\"a\":[ 1,[], {} , \"y\" ] , \"o\":{\"n\":7}} \n", &err) == 0);
    const struct json_node *r = t.root;
    EXPECT(json_is(r, JSON_OBJECT) && r->n == 8);
    EXPECT(json_is(json_member(r, "n"), JSON_NULL));
    EXPECT(json_is(json_member(r, "t"), JSON_BOOL) && json_member(r, "t")->number == 1);
    EXPECT(json_is(json_member(r, "f"), JSON_BOOL) && json_member(r, "f")->number == 0);
    EXPECT(json_member(r, "i")->number == -12 && json_member(r, "d")->number == 150);
    EXPECT_STR(json_string(json_member(r, "s")), "x");
    const struct json_node *a = json_member(r, "a");
    EXPECT(json_is(a, JSON_ARRAY) && a->n == 4 && a->first->number == 1);
    EXPECT(json_is(a->first->next, JSON_ARRAY) && a->first->next->n == 0);
    EXPECT_STR(json_string(a->first->next->next->next), "y");
    EXPECT(a->first->next->next->next->next == NULL);
    EXPECT(json_member(json_member(r, "o"), "n")->number == 7);
    EXPECT(!json_member(r, "x") && !json_member(a, "x") && !json_member(NULL, "x"));
    EXPECT(!json_string(a) && !json_string(NULL) && !json_is(NULL, JSON_NULL));
    json_tree_free(&t);
}

TEST(json_tree_unescapes)
{
    static const struct {
        const char *json, *text;
    } cases[] = {
        {"\"\"", ""},
        {"\"\\\"\\\\\\/\"", "\"\\/"},
        {"\"\\b\\f\\n\\r\\t\"", "\b\f\n\r\t"},
        {"\"a\\u0041\\u00e9\\u20AC\\ud83d\\uDE00z\"", "aA\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80z"},
        {"\"\xc3\xa9\\\\u0041\"", "\xc3\xa9\\u0041"},
        {"\"\\udbff\\udfff\"", "\xf4\x8f\xbf\xbf"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct json_tree t;
        struct err err = {0};
        ASSERT(parse(&t, cases[i].json, &err) == 0);
        EXPECT_STR(json_string(t.root), cases[i].text);
        json_tree_free(&t);
    }
    struct json_tree t;
    ASSERT(parse(&t, "{\"\\u0061b\":1}", NULL) == 0); /* keys too */
    EXPECT(json_member(t.root, "ab") != NULL);
    json_tree_free(&t);
}

TEST(json_tree_refuses_what_the_check_refuses)
{
    static const char *const bad[] = {"", "{", "[1,]", "{\"a\":1,\"a\":2}", "\"\\ud800\"",
                                      "\"\\u0000\"", "1 2", "[[[[[[[[[1]]]]]]]]]", "\"\xff\"",
                                      "nul", "01"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct json_tree t;
        struct err err = {0};
        if (parse(&t, bad[i], &err) == 0 || err.code != ERR_INVALID)
            test_fail(__FILE__, __LINE__, "%s was read", bad[i]);
        json_tree_free(&t);
    }
}
