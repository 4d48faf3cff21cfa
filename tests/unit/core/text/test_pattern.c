/* pattern: what is translated, what is refused, and that limits give errors. */
#include "core/text/pattern.h"

#include "core/base/buf.h"
#include "core/text/pretokenizer.h"

#include "tests/test.h"

/* The matches of a pattern in a text, joined by "|". */
static void expect_matches(const char *regex, const char *text, const char *want, int line)
{
    struct err err = {0};
    struct buf got = {0};
    struct pattern *p = pattern_new(regex, false, &err);
    struct pattern_run *run = pattern_run_new(strlen(text));
    size_t at = 0, start, end;
    buf_reserve(&got, 1);
    got.data[0] = '\0';
    while (p && pattern_next(p, run, text, strlen(text), at, &start, &end, &err) == 1) {
        buf_add(&got, text + start, end - start);
        buf_add_char(&got, '|');
        at = end;
    }
    if (strcmp(got.data, want) != 0)
        test_fail(__FILE__, line, "%s: \"%s\", expected \"%s\" %s", regex, got.data, want,
                  err.msg);
    pattern_free(p);
    pattern_run_free(run);
    buf_free(&got);
}

#define MATCHES(regex, text, want) expect_matches(regex, text, want, __LINE__)

TEST(pattern_reads_the_dialect_of_tokenizer_files)
{
    MATCHES("\\s+",
            "a \t\xc2\xa0"
            "b\xe1\xa0\x8e",
            " \t\xc2\xa0|"); /* U+180E is no white space */
    MATCHES("\\S+", " a\xe1\xa0\x8e ", "a\xe1\xa0\x8e|");
    MATCHES("[^\\s\\p{L}]+", "a. b!", ".|!|");
    MATCHES("[\\s\\d]+", "a1 2b", "1 2|");
    MATCHES("(?i:'s|'t)", "'S't'x", "'S|'t|");
    MATCHES("\\p{N}{1,3}", "12345", "123|45|");
    MATCHES(pretokenizer_gpt2, "it's  a test!", "it|'s| | a| test|!|");
    MATCHES(pretokenizer_llama3, "a\n\n 1234", "a|\n\n| |123|4|");
}

TEST(pattern_refuses_what_the_dialects_read_differently)
{
    static const char *const bad[] = {
        "",        "a*",    "\\s*",        "^a",     "a$",     "\\w+", "\\h",
        "\\b",     "\\K",   "\\G",         "\\1",    "\\x41",  "\\Ra", "\\p{Han}",
        "\\p{^L}", "\\pL",  "[[:alpha:]]", "[a[b]]", "[a&&b]", "[]a]", "[^]a]",
        "a{2}+",   "a{,2}", "(?<n>a)",     "(?>a)",  "(?#x)a", "(?R)", "(*UTF)a",
        "(?m)a",   "(a",    "[a",          "a)",     "a\\",    "\\Q",  "(?C1)a",
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct err err = {0};
        struct pattern *p = pattern_new(bad[i], false, &err);
        if (p || !err.msg[0])
            test_fail(__FILE__, __LINE__, "accepted: %s", bad[i]);
        pattern_free(p);
    }
}

TEST(pattern_literal_is_not_a_regex)
{
    size_t start = 0, end = 0;
    struct pattern *p = pattern_new("a.(", true, NULL);
    struct pattern_run *run = pattern_run_new(8);
    ASSERT(p);
    EXPECT_EQ(pattern_next(p, run, "abc a.(", 7, 0, &start, &end, NULL), 1);
    EXPECT_EQ(start, 4);
    EXPECT_EQ(end, 7);
    EXPECT_EQ(pattern_next(p, run, "abc a.(", 7, 5, &start, &end, NULL), 0);
    pattern_free(p);
    pattern_run_free(run);
}

TEST(pattern_that_explodes_gives_an_error)
{
    struct err err = {0};
    struct buf text = {0};
    size_t start, end;
    struct pattern *p = pattern_new("(a+a+)+b", false, &err);
    ASSERT(p);
    for (int i = 0; i < 3000; i++)
        buf_add_char(&text, 'a');
    buf_add_str(&text, "cb");
    struct pattern_run *run = pattern_run_new(text.len);
    EXPECT_EQ(pattern_next(p, run, text.data, text.len, 0, &start, &end, &err), -1);
    EXPECT_EQ(err.code, ERR_INVALID);
    pattern_free(p);
    pattern_run_free(run);
    buf_free(&text);
}
