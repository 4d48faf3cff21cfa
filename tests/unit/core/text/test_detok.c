/* Streaming at the seam between prompt and answer, case by case. */
#include "core/tokenizer.h"

#include <stdlib.h>
#include <time.h>

#include "tests/test.h"

/* Byte fallback as in Llama 2: "<0xNN>" tokens have the ids 3 + NN. */
static struct tokenizer *open_fallback(void)
{
    struct buf b = {0};
    buf_add_str(
        &b, "{\"model\":{\"type\":\"BPE\",\"byte_fallback\":true,\"unk_token\":\"<unk>\","
            "\"vocab\":{\"<unk>\":0,\"<s>\":1,\"</s>\":2");
    for (int i = 0; i < 256; i++)
        buf_printf(&b, ",\"<0x%02X>\":%d", (unsigned)i, 3 + i);
    buf_add_str(
        &b, ",\"\xe2\x96\x81\":259,\"a\":260,\"\xe2\x96\x81"
            "a\":261,"
            "\"\xef\xbf\xbd\":262},"
            "\"merges\":[\"\xe2\x96\x81 a\"]},\"decoder\":{\"type\":\"Sequence\","
            "\"decoders\":[{\"type\":\"Replace\",\"pattern\":{\"String\":\"\xe2\x96\x81\"},"
            "\"content\":\" \"},{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"},"
            "{\"type\":\"Strip\",\"content\":\" \",\"start\":1,\"stop\":0}]},"
            "\"added_tokens\":[{\"id\":1,\"content\":\"<s>\",\"special\":true}]}");
    struct err err = {0};
    struct tokenizer *t = tokenizer_open_json(b.data, b.len, &err);
    if (!t)
        test_fail(__FILE__, __LINE__, "%s", err.msg);
    buf_free(&b);
    return t;
}

enum { END = -1, SEAM = -2, A = 260, SPACE_A = 261, BAD_CHAR = 262 };
#define BYTE(b) (3 + (b))
#define BAD "\xef\xbf\xbd"

/* ids: the prompt, SEAM, the answer, END. The pieces of the answer are joined by "|". */
static void expect_stream(const struct tokenizer *t, const int32_t *ids, const char *want,
                          int line)
{
    struct buf got = {0};
    size_t n = 0;
    buf_add_str(&got, "");
    while (ids[n] != SEAM)
        n++;
    struct detok *d = detok_new(t, ids, n);
    for (n++; ids[n] != END; n++) {
        detok_feed(d, ids[n], &got);
        buf_add_char(&got, '|');
    }
    detok_end(d, &got);
    if (strcmp(got.data, want) != 0)
        test_fail(__FILE__, line, "streamed \"%s\", expected \"%s\"", got.data, want);
    detok_free(d);
    buf_free(&got);
}

#define STREAM(want, ...)                                                                  \
    expect_stream(t, (const int32_t[]){__VA_ARGS__, END}, want, __LINE__)

TEST(detok_strips_the_leading_space_only_at_the_start_of_everything)
{
    struct tokenizer *t = open_fallback();
    ASSERT(t);
    STREAM("a| a|", SEAM, SPACE_A, SPACE_A);
    STREAM(" a|", SPACE_A, SEAM, SPACE_A);
    STREAM("a|", 1, SEAM, SPACE_A);
    STREAM("|a|", SEAM, BYTE(0x20), A); /* a space from a byte token counts too */
    STREAM("||a|", SEAM, 1, 99999, A);
    tokenizer_free(t);
}

TEST(detok_holds_a_run_of_byte_tokens_until_it_is_certain)
{
    struct tokenizer *t = open_fallback();
    ASSERT(t);
    STREAM("|||\xe2\x82\xac"
           "a|",
           SEAM, BYTE(0xe2), BYTE(0x82), BYTE(0xac), A);
    STREAM("|||\xe2\x82\xac", SEAM, BYTE(0xe2), BYTE(0x82), BYTE(0xac));
    STREAM("|" BAD BAD "|", SEAM, BYTE(0xe2), BYTE(0xff));
    STREAM("|" BAD BAD "|" BAD "|a|", SEAM, BYTE('A'), BYTE(0xff), BYTE('B'), A);
    STREAM("|" BAD "a||" BAD, SEAM, BYTE(0xe2), A, BYTE(0xe2));
    tokenizer_free(t);
}

TEST(detok_gives_only_what_the_prompt_does_not_show)
{
    struct tokenizer *t = open_fallback();
    ASSERT(t);
    /* The prompt ends within a character: shown as U+FFFD, completed by the answer or not.
     */
    STREAM("||\xe2\x82\xac"
           "a|",
           BYTE(0xe2), SEAM, BYTE(0x82), BYTE(0xac), A);
    STREAM("a|", A, BYTE(0xe2), SEAM, A);
    STREAM("", A, BYTE(0xe2), SEAM);
    STREAM(BAD "|", BYTE(0xe2), SEAM, BYTE(0xff));
    /* The prompt ends with a whole run: shown as text, unless the answer spoils it. */
    STREAM("a|", BYTE(0xc3), BYTE(0xa9), SEAM, A);
    STREAM("|b", BYTE(0xc3), BYTE(0xa9), SEAM, BYTE('b'));
    STREAM(BAD BAD BAD "|", BYTE(0xc3), BYTE(0xa9), SEAM, BYTE(0xff));
    /* Agreement may go on across pieces. */
    STREAM("|a|", BYTE(0xef), BYTE(0xbf), SEAM, BYTE(0xbd), A);
    STREAM("||a|", BYTE(0xef), BYTE(0xbf), SEAM, BYTE(0xbd), BAD_CHAR, A);
    tokenizer_free(t);
}

TEST(detok_cost_does_not_grow_with_the_run)
{
    struct tokenizer *t = open_fallback();
    struct buf out = {0};
    ASSERT(t);
    struct detok *d = detok_new(t, NULL, 0);
    clock_t start = clock();
    for (int i = 0; i < 2000000; i++)
        detok_feed(d, i % 2 ? BYTE(0xa9) : BYTE(0xc3), &out);
    EXPECT_EQ(out.len, 0);
    detok_end(d, &out);
    EXPECT_EQ(out.len, 2000000);
    EXPECT((double)(clock() - start) / CLOCKS_PER_SEC < 20);
    detok_free(d);
    buf_free(&out);
    tokenizer_free(t);
}
