/* JSON strings and floats as they come out of the writer. */
#include "core/base/json_out.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>

#include "tests/test.h"

static const char *string_of(struct buf *b, const char *s, size_t len)
{
    buf_clear(b);
    json_out_string(b, s, len);
    return b->data;
}

static const char *float_of(struct buf *b, float f)
{
    buf_clear(b);
    json_out_float(b, f);
    return b->data;
}

TEST(json_out_string_escapes)
{
    struct buf b = {0};
    EXPECT_STR(string_of(&b, NULL, 0), "\"\"");
    EXPECT_STR(string_of(&b, "plain text", 10), "\"plain text\"");
    EXPECT_STR(string_of(&b, "a\"b\\c/d", 7), "\"a\\\"b\\\\c/d\"");
    EXPECT_STR(string_of(&b, "\b\f\n\r\t", 5), "\"\\b\\f\\n\\r\\t\"");
    EXPECT_STR(string_of(&b, "\0\x01\x1f\x7f", 4), "\"\\u0000\\u0001\\u001f\x7f\"");
    EXPECT_STR(string_of(&b, "\xc3\xa9\xf0\x9f\x98\x80", 6),
               "\"\xc3\xa9\xf0\x9f\x98\x80\"");
    buf_free(&b);
}

/* A message that was cut in the middle of a character must not spoil the answer that holds
 * it. */
TEST(json_out_string_repairs_utf8)
{
    struct buf b = {0};
    EXPECT_STR(string_of(&b, "a\xc3", 2), "\"a\xef\xbf\xbd\"");
    EXPECT_STR(string_of(&b, "\xff\xc3\"x", 4), "\"\xef\xbf\xbd\xef\xbf\xbd\\\"x\"");
    EXPECT_STR(string_of(&b, "\xed\xa0\x80", 3),
               "\"\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\"");
    buf_free(&b);
}

TEST(json_out_string_reads_back)
{
    struct buf b = {0};
    char all[256];
    for (int i = 1; i < 128; i++)
        all[i - 1] = (char)i;
    all[127] = '\0';
    json_out_string(&b, all, 127);
    cJSON *v = cJSON_Parse(b.data);
    ASSERT(v != NULL);
    EXPECT_STR(v->valuestring, all);
    cJSON_Delete(v);
    buf_free(&b);
}

TEST(json_out_str_gives_null)
{
    struct buf b = {0};
    json_out_str(&b, NULL);
    json_out_str(&b, "x");
    EXPECT_STR(b.data, "null\"x\"");
    buf_free(&b);
}

TEST(json_out_float_is_short_and_real)
{
    struct buf b = {0};
    EXPECT_STR(float_of(&b, 0.0f), "0.0");
    EXPECT_STR(float_of(&b, -0.0f), "-0.0");
    EXPECT_STR(float_of(&b, -1.0f), "-1.0");
    EXPECT_STR(float_of(&b, -9999.0f), "-9999.0");
    EXPECT_STR(float_of(&b, 0.1f), "0.1");
    EXPECT_STR(float_of(&b, -0.5f), "-0.5");
    EXPECT_STR(float_of(&b, 16777216.0f), "16777216.0");
    EXPECT_STR(float_of(&b, 1e20f), "1e+20");
    EXPECT_STR(float_of(&b, NAN), "null");
    EXPECT_STR(float_of(&b, INFINITY), "null");
    EXPECT_STR(float_of(&b, -INFINITY), "null");
    buf_free(&b);
}

/* Over bit patterns of all sizes, subnormals included; a float and a double reader agree.
 */
TEST(json_out_float_reads_back)
{
    struct buf b = {0};
    uint32_t bits = 1, n_bad = 0;
    for (int i = 0; i < 200000; i++) {
        float f;
        bits = bits * 1664525u + 1013904223u;
        memcpy(&f, &bits, sizeof f);
        if (!isfinite(f))
            continue;
        const char *text = float_of(&b, f);
        n_bad += strtof(text, NULL) != f || (float)strtod(text, NULL) != f;
    }
    EXPECT_EQ(n_bad, 0);
    buf_free(&b);
}
