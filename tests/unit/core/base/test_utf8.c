/* utf8: the table of well-formed sequences, and repair by maximal ill-formed parts. */
#include "core/base/utf8.h"

#include "tests/test.h"

static void expect_lossy(const char *in, size_t len, const char *want, int line)
{
    struct buf b = {0};
    utf8_add_lossy(&b, in, len);
    if (b.len != strlen(want) || (b.len && memcmp(b.data, want, b.len) != 0))
        test_fail(__FILE__, line, "repair gave \"%s\", expected \"%s\"",
                  b.data ? b.data : "", want);
    buf_free(&b);
}

#define LOSSY(in, want) expect_lossy(in, sizeof(in) - 1, want, __LINE__)
#define BAD "\xef\xbf\xbd"

TEST(utf8_every_code_point_round_trips)
{
    struct buf b = {0};
    for (uint32_t c = 0; c <= 0x10ffff; c++) {
        buf_clear(&b);
        utf8_encode(&b, c);
        bool is_surrogate = c >= 0xd800 && c <= 0xdfff;
        int n = utf8_char_len(b.data, b.len, NULL);
        if (n != (is_surrogate ? 0 : (int)b.len) || (n && utf8_decode(b.data, n) != c))
            test_fail(__FILE__, __LINE__, "U+%04X does not round-trip", c);
    }
    buf_free(&b);
}

TEST(utf8_cut_characters_are_told_from_bad_ones)
{
    bool cut = false;
    EXPECT_EQ(utf8_char_len("\xe2\x82", 2, &cut), 0);
    EXPECT(cut);
    EXPECT_EQ(utf8_char_len("\xe2\x28", 2, &cut), 0);
    EXPECT(!cut);
    EXPECT_EQ(utf8_char_len("\xe0\x80", 2, &cut),
              0); /* overlong already at the second byte */
    EXPECT(!cut);
    EXPECT_EQ(utf8_char_len("\xff", 1, &cut), 0);
    EXPECT(!cut);
    EXPECT_EQ(utf8_char_len("", 0, &cut), 0);
    EXPECT(!cut);
    EXPECT_EQ(utf8_valid_len("a\xc3\xa9\xf0\x9f\x98", 6), 3);
}

/* The first rows are the examples of Unicode 15, tables 3-8 to 3-11. */
TEST(utf8_repair_replaces_maximal_parts)
{
    LOSSY("\xc0\xaf\xe0\x80\xbf\xf0\x81\x82\x41", BAD BAD BAD BAD BAD BAD BAD BAD "A");
    LOSSY("\xed\xa0\x80\xed\xbf\xbf\xed\xaf\x41", BAD BAD BAD BAD BAD BAD BAD BAD "A");
    LOSSY("\xf4\x91\x92\x93\xff\x41\x80\xbf\x42", BAD BAD BAD BAD BAD "A" BAD BAD "B");
    LOSSY("\xe1\x80\xe2\xf0\x91\x92\xf1\xbf\x41", BAD BAD BAD BAD "A");
    LOSSY("ok \xc3\xa9", "ok \xc3\xa9");
    LOSSY("\xe2\x82", BAD);
    LOSSY("", "");
}
