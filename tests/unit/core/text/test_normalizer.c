/* normalizer: Unicode forms, replacements, and marks without end. */
#include "core/text/normalizer.h"

#include <time.h>

#include "tests/test.h"

static void expect_form(enum norm_kind form, const char *text, const char *want, int line)
{
    struct normalizer n = {0};
    struct buf out = {0};
    EXPECT_EQ(normalizer_add_form(&n, form, NULL), 0);
    EXPECT_EQ(normalizer_run(&n, text, strlen(text), &out, NULL), 0);
    if (strcmp(out.data, want) != 0)
        test_fail(__FILE__, line, "\"%s\" became \"%s\", expected \"%s\"", text, out.data,
                  want);
    buf_free(&out);
}

#define FORM(form, text, want) expect_form(form, text, want, __LINE__)

/* Rows of Unicode's NormalizationTest.txt. */
TEST(normalizer_gives_the_unicode_forms)
{
    FORM(NORM_NFC, "plain", "plain");
    FORM(NORM_NFC, "e\xcc\x81", "\xc3\xa9");
    FORM(NORM_NFD, "\xc3\xa9", "e\xcc\x81");
    FORM(NORM_NFC, "\xe2\x84\xab", "\xc3\x85");                             /* U+212B */
    FORM(NORM_NFC, "\xe1\x84\x80\xe1\x85\xa1\xe1\x86\xa8", "\xea\xb0\x81"); /* Hangul */
    FORM(NORM_NFD, "\xea\xb0\x81", "\xe1\x84\x80\xe1\x85\xa1\xe1\x86\xa8");
    FORM(NORM_NFC, "D\xcc\x87\xcc\xa3", "\xe1\xb8\x8c\xcc\x87"); /* marks change places */
    FORM(NORM_NFD, "\xe1\xb8\x8a\xcc\xa3", "D\xcc\xa3\xcc\x87");
    FORM(NORM_NFC, "\xef\xac\x81", "\xef\xac\x81");
    FORM(NORM_NFKC, "\xef\xac\x81", "fi");
    FORM(NORM_NFKD, "\xc2\xbd",
         "1\xe2\x81\x84"
         "2");
    FORM(NORM_NFC, "\xe0\xa5\x98",
         "\xe0\xa4\x95\xe0\xa4\xbc"); /* excluded from composition */
}

TEST(normalizer_runs_its_steps_in_order)
{
    struct normalizer n = {0};
    struct buf out = {0};
    EXPECT_EQ(normalizer_add_prepend(&n, "_", NULL), 0);
    EXPECT_EQ(normalizer_add_replace(&n, " ", "_", NULL), 0);
    EXPECT_EQ(normalizer_add_replace(&n, "__", "+", NULL), 0);
    EXPECT_EQ(normalizer_run(&n, " a  b", 5, &out, NULL), 0);
    EXPECT_STR(out.data, "+a+b");
    EXPECT_EQ(normalizer_run(&n, "", 0, &out, NULL), 0);
    EXPECT_EQ(out.len, 0);
    EXPECT_EQ(normalizer_add_replace(&n, "", "x", NULL), -1);
    buf_free(&out);
}

TEST(normalizer_sorts_endless_marks_in_linear_time)
{
    struct normalizer n = {0};
    struct buf text = {0}, out = {0};
    buf_add_char(&text, 'x');
    for (int i = 0; i < 1 << 19; i++)
        buf_add_str(&text, i < 1 << 18 ? "\xcc\x81" : "\xcc\x96"); /* class 230, then 220 */
    clock_t start = clock();
    EXPECT_EQ(normalizer_add_form(&n, NORM_NFC, NULL), 0);
    EXPECT_EQ(normalizer_run(&n, text.data, text.len, &out, NULL), 0);
    EXPECT_EQ(out.len, text.len);
    EXPECT(memcmp(out.data, "x\xcc\x96\xcc\x96", 5) == 0);
    EXPECT((double)(clock() - start) / CLOCKS_PER_SEC < 10);
    buf_free(&text);
    buf_free(&out);
}

TEST(normalizer_stops_text_that_grows_beyond_reason)
{
    struct normalizer n = {0};
    struct buf text = {0}, out = {0};
    struct err err = {0};
    for (int i = 0; i < 1 << 16; i++)
        buf_add_char(&text, 'a');
    for (int i = 0; i < 4; i++)
        EXPECT_EQ(normalizer_add_replace(&n, "a", "aaaaaaaaaaaaaaaa", NULL), 0);
    EXPECT_EQ(normalizer_run(&n, text.data, text.len, &out, &err), -1);
    EXPECT_EQ(err.code, ERR_TOO_LARGE);
    buf_free(&text);
    buf_free(&out);
}
