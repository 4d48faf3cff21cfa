/* A growing run of bytes. */
#include "core/base/buf.h"

#include <stdint.h>
#include <stdlib.h>

#include "tests/test.h"

TEST(buf_grows_and_stays_terminated)
{
    struct buf b = {0};
    for (int i = 0; i < 1000; i++) {
        buf_add_char(&b, (char)('a' + i % 26));
        EXPECT(b.len == (size_t)i + 1 && b.cap > b.len && b.data[b.len] == '\0');
    }
    for (int i = 0; i < 1000; i++)
        EXPECT_EQ(b.data[i], 'a' + i % 26);
    buf_free(&b);
    EXPECT(b.data == NULL && b.len == 0 && b.cap == 0);
}

TEST(buf_adds_bytes_strings_and_formats)
{
    struct buf b = {0};
    buf_add(&b, "a\0b", 3);
    buf_add(&b, NULL, 0);
    buf_add_str(&b, "cd");
    buf_printf(&b, "%s-%d", "x", 42);
    EXPECT_EQ(b.len, 9);
    EXPECT(memcmp(b.data, "a\0bcdx-42", 10) == 0);
    buf_clear(&b);
    EXPECT(b.len == 0 && b.data[0] == '\0');
    buf_printf(&b, "%0300d", 7); /* longer than the memory it has */
    EXPECT(b.len == 300 && b.data[299] == '7' && b.data[300] == '\0');
    buf_free(&b);
}

TEST(buf_take_gives_the_memory_away)
{
    struct buf b = {0};
    size_t len = 9;
    char *empty = buf_take(&b, &len);
    EXPECT_STR(empty, "");
    EXPECT_EQ(len, 0);
    free(empty);
    buf_add_str(&b, "text");
    char *text = buf_take(&b, NULL);
    EXPECT_STR(text, "text");
    EXPECT(b.data == NULL && b.len == 0);
    free(text);
}

TEST(buf_reserve_keeps_what_is_there)
{
    struct buf b = {0};
    buf_add_str(&b, "abc");
    buf_reserve(&b, 5000);
    EXPECT(b.cap >= 5004);
    const char *at = b.data;
    for (int i = 0; i < 5000; i++)
        buf_add_char(&b, '.');
    EXPECT(b.data == at && memcmp(b.data, "abc..", 5) == 0);
    buf_free(&b);
}

TEST(buf_try_adds_like_add_and_gives_up_where_that_aborts)
{
    struct buf b = {0};
    EXPECT(buf_try_add(&b, "abc", 3) == 0);
    EXPECT_STR(b.data, "abc");
    for (int i = 0; i < 5000; i++)
        EXPECT(buf_try_add(&b, ".", 1) == 0);
    EXPECT(b.len == 5003 && b.cap < 4 * 5003 && b.data[b.len] == '\0');
    EXPECT(buf_try_reserve(&b, SIZE_MAX / 2 - b.len) == -1);
    EXPECT(buf_try_reserve(&b, SIZE_MAX) == -1);
    EXPECT(b.len == 5003 && memcmp(b.data, "abc..", 5) == 0);
    buf_free(&b);
    EXPECT(buf_try_reserve(&b, 1000) == 0);
    EXPECT_EQ(b.cap, 1001);
    buf_free(&b);
}
