/* tokenizer.json: what is refused and by which name, the settings beside it, hostile text.
 */
#include "core/tokenizer.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "tests/test.h"

#define MODEL                                                                              \
    "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},\"merges\":[\"a "    \
    "b\"]}"
#define DECODER "\"decoder\":{\"type\":\"ByteLevel\"}"
#define GOOD MODEL "," DECODER

static struct tokenizer *open_text(const char *json, struct err *err)
{
    return tokenizer_open_json(json, strlen(json), err);
}

TEST(tokenizer_json_smallest_file_opens)
{
    struct err err = {0};
    struct token_list ids = {0};
    struct tokenizer *t = open_text("{" GOOD "}", &err);
    ASSERT(t);
    EXPECT_EQ(tokenizer_encode(t, "abba", 4, TOKENIZER_ADD_SPECIAL, &ids, &err), 0);
    EXPECT_EQ(ids.n, 3);
    EXPECT(ids.n == 3 && ids.ids[0] == 2 && ids.ids[1] == 1 && ids.ids[2] == 0);
    EXPECT_EQ(tokenizer_n_tokens(t), 3);
    EXPECT_EQ(tokenizer_find(t, "ab"), 2);
    EXPECT_EQ(tokenizer_find(t, "ba"), -1);
    EXPECT(!tokenizer_is_special(t, 2));
    EXPECT(!tokenizer_is_special(t, -1));
    EXPECT(!tokenizer_is_special(t, 3));
    token_list_free(&ids);
    tokenizer_free(t);
}

/* Every row is refused with a message that names what is wrong. */
static const struct {
    const char *json, *named;
} refused[] = {
    {"", "byte 0"},
    {"[]", "outermost"},
    {"{" GOOD "} x", "byte"},
    {"{" GOOD ",\"decoder\":null}", "twice"},
    {"{" DECODER "}", "model"},
    {"{" DECODER ",\"model\":[]}", "model"},
    {"{" DECODER ",\"model\":{\"type\":\"Unigram\",\"vocab\":[]}}", "Unigram"},
    {"{" DECODER ",\"model\":{\"type\":\"WordPiece\",\"vocab\":{}}}", "WordPiece"},
    {"{" DECODER ",\"model\":{\"type\":\"BPE\",\"merges\":[]}}", "vocab"},
    {"{" DECODER ",\"model\":{\"type\":\"BPE\",\"vocab\":{}}}", "merges"},
    {"{" DECODER ",\"model\":{\"vocab\":{\"a\":0},\"merges\":[],\"dropout\":0.1}}",
     "dropout"},
    {"{" DECODER
     ",\"model\":{\"vocab\":{\"a\":0},\"merges\":[],\"end_of_word_suffix\":\"x\"}}",
     "end_of_word_suffix"},
    {"{" DECODER ",\"model\":{\"vocab\":{\"a\":0},\"merges\":[],\"unk_token\":\"u\"}}",
     "unk"},
    {"{" DECODER ",\"model\":{\"vocab\":{\"a\":-1},\"merges\":[]}}", "\"a\""},
    {"{" DECODER ",\"model\":{\"vocab\":{\"a\":0.5},\"merges\":[]}}", "\"a\""},
    {"{" DECODER ",\"model\":{\"vocab\":{\"a\":1e18},\"merges\":[]}}", "\"a\""},
    {"{" DECODER ",\"model\":{\"vocab\":{\"a\":\"0\"},\"merges\":[]}}", "\"a\""},
    {"{" DECODER ",\"model\":{\"vocab\":{\"a\":0,\"b\":0},\"merges\":[]}}", "twice"},
    {"{" DECODER ",\"model\":{\"vocab\":{\"a\":0,\"b\":1},\"merges\":[\"a b\"]}}",
     "merge 0"},
    {"{" DECODER ",\"model\":{\"vocab\":{\"a\":0},\"merges\":[\"a\"]}}", "merges"},
    {"{" DECODER ",\"model\":{\"vocab\":{\"a\":0},\"merges\":[\"a a a\"]}}", "merges"},
    {"{" DECODER ",\"model\":{\"vocab\":{\"a\":0},\"merges\":[[\"a\"]]}}", "merges"},
    {"{" DECODER ",\"model\":{\"vocab\":{\"a\":0},\"merges\":[7]}}", "merges"},
    {"{" MODEL "}", "decoder"},
    {"{" MODEL ",\"decoder\":{\"type\":\"WordPiece\"}}", "WordPiece"},
    {"{" MODEL
     ",\"decoder\":{\"type\":\"Strip\",\"content\":\" \",\"start\":1,\"stop\":0}}",
     "Strip"},
    {"{" MODEL ",\"decoder\":{\"type\":\"Sequence\",\"decoders\":[]}}", "decoders"},
    {"{" MODEL ",\"decoder\":{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Fuse\"},"
     "{\"type\":\"ByteFallback\"}]}}",
     "ByteFallback"},
    {"{" MODEL ",\"decoder\":{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"a\"},"
     "\"content\":\"\"}}",
     "Replace"},
    {"{" GOOD ",\"normalizer\":{\"type\":\"Lowercase\"}}", "Lowercase"},
    {"{" GOOD ",\"normalizer\":{}}", "normalizer"},
    {"{" GOOD ",\"normalizer\":{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"a+\"},"
     "\"content\":\"\"}}",
     "a+"},
    {"{" GOOD ",\"pre_tokenizer\":{\"type\":\"BertPreTokenizer\"}}", "BertPreTokenizer"},
    {"{" GOOD ",\"pre_tokenizer\":{\"type\":\"Sequence\"}}", "pretokenizers"},
    {"{" GOOD ",\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"\\\\w+\"},"
     "\"behavior\":\"Isolated\"}}",
     "\\w"},
    {"{" GOOD ",\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"a\"},"
     "\"behavior\":\"Contiguous\"}}",
     "Contiguous"},
    {"{" GOOD ",\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"ab\"}}",
     "Metaspace"},
    {"{" GOOD ",\"post_processor\":{\"type\":\"BertProcessing\"}}", "BertProcessing"},
    {"{" GOOD ",\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[]}}",
     "single"},
    {"{" GOOD ",\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":["
     "{\"SpecialToken\":{\"id\":\"x\"}},{\"Sequence\":{\"id\":\"A\"}}]}}",
     "special_tokens"},
    {"{" GOOD ",\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":["
     "{\"SpecialToken\":{\"id\":\"x\"}},{\"Sequence\":{\"id\":\"A\"}}],"
     "\"special_tokens\":{\"x\":{\"ids\":[3]}}}}",
     "3"},
    {"{" GOOD ",\"added_tokens\":{}}", "added_tokens"},
    {"{" GOOD ",\"added_tokens\":[{\"content\":\"x\"}]}", "added_tokens"},
    {"{" GOOD ",\"added_tokens\":[{\"id\":9,\"content\":\"\"}]}", "added token 9"},
    {"{" GOOD ",\"added_tokens\":[{\"id\":9,\"content\":\"a\"}]}", "added token 9"},
    {"{" GOOD ",\"added_tokens\":[{\"id\":1,\"content\":\"x\"}]}", "added token 1"},
    {"{" GOOD
     ",\"added_tokens\":[{\"id\":9,\"content\":\"x\"},{\"id\":9,\"content\":\"y\"}]}",
     "9"},
};

TEST(tokenizer_json_refuses_by_name)
{
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        struct err err = {0};
        struct tokenizer *t = open_text(refused[i].json, &err);
        if (t || !strstr(err.msg, refused[i].named))
            test_fail(__FILE__, __LINE__, "%s: \"%s\" does not name %s", refused[i].json,
                      err.msg, refused[i].named);
        tokenizer_free(t);
    }
}

static void write_file(const char *dir, const char *name, const char *text)
{
    char path[300];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "w");
    ASSERT(f);
    fputs(text, f);
    fclose(f);
}

static void expect_added(const char *dir, const char *config, int32_t before, int32_t after)
{
    struct err err = {0};
    struct token_list ids = {0};
    write_file(dir, "tokenizer_config.json", config);
    struct tokenizer *t = tokenizer_open_dir(dir, &err);
    if (!t)
        test_fail(__FILE__, __LINE__, "%s: %s", config, err.msg);
    ASSERT(t);
    tokenizer_encode(t, "a", 1, TOKENIZER_ADD_SPECIAL, &ids, NULL);
    EXPECT_EQ(ids.n, 1 + (before >= 0) + (after >= 0));
    if (before >= 0)
        EXPECT_EQ(ids.ids[0], before);
    if (after >= 0)
        EXPECT_EQ(ids.ids[ids.n - 1], after);
    token_list_free(&ids);
    tokenizer_free(t);
}

TEST(tokenizer_config_decides_what_is_added)
{
    char dir[] = "/tmp/prefixd-test-XXXXXX", path[300];
    struct err err = {0};
    ASSERT(mkdtemp(dir));
    EXPECT(!tokenizer_open_dir(dir, &err));
    EXPECT(strstr(err.msg, "tokenizer.json") && !strstr(err.msg, dir));
    write_file(dir, "tokenizer.json",
               "{" GOOD ",\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":["
               "{\"SpecialToken\":{\"id\":\"x\"}},{\"Sequence\":{\"id\":\"A\"}}],"
               "\"special_tokens\":{\"x\":{\"ids\":[1]}}}}");
    expect_added(dir, "{}", 1, -1);
    expect_added(dir, "{\"add_bos_token\":false,\"bos_token\":\"b\"}", -1, -1);
    expect_added(dir, "{\"add_bos_token\":true,\"bos_token\":\"ab\"}", 2, -1);
    expect_added(dir, "{\"add_bos_token\":true,\"bos_token\":null}", -1, -1);
    expect_added(dir, "{\"add_eos_token\":true,\"eos_token\":{\"content\":\"ab\"}}", -1, 2);
    write_file(dir, "tokenizer_config.json",
               "{\"add_bos_token\":true,\"bos_token\":\"zz\"}");
    EXPECT(!tokenizer_open_dir(dir, &err));
    EXPECT(strstr(err.msg, "zz") != NULL);
    snprintf(path, sizeof path, "%s/tokenizer_config.json", dir);
    unlink(path);
    snprintf(path, sizeof path, "%s/tokenizer.json", dir);
    unlink(path);
    rmdir(dir);
}

/* Byte level over the 256 bytes alone, so that ids show bytes. */
static struct tokenizer *open_bytes(const char *pre)
{
    struct buf b = {0};
    struct err err = {0};
    int n_other = 0;
    buf_add_str(&b, "{\"model\":{\"type\":\"BPE\",\"vocab\":{");
    for (int i = 0; i < 256; i++) {
        bool is_plain = (i > 0x20 && i < 0x7f) || (i > 0xa0 && i != 0xad);
        buf_printf(&b, "%s\"\\u%04x\":%d", i ? "," : "",
                   (unsigned)(is_plain ? i : 0x100 + n_other++), i);
    }
    buf_printf(&b, "},\"merges\":[]}," DECODER ",\"pre_tokenizer\":%s}", pre);
    struct tokenizer *t = tokenizer_open_json(b.data, b.len, &err);
    if (!t)
        test_fail(__FILE__, __LINE__, "%s", err.msg);
    buf_free(&b);
    return t;
}

TEST(tokenizer_repairs_ill_formed_text)
{
    static const char in[] = "a\xff"
                             "b\xe2\x82"
                             "c\xed\xa0\x80";
    static const char want[] = "a\xef\xbf\xbd"
                               "b\xef\xbf\xbd"
                               "c\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd";
    struct token_list ids = {0};
    struct buf text = {0};
    struct tokenizer *t = open_bytes("{\"type\":\"ByteLevel\",\"add_prefix_space\":false}");
    ASSERT(t);
    EXPECT_EQ(tokenizer_encode(t, in, sizeof in - 1, 0, &ids, NULL), 0);
    EXPECT_EQ(ids.n, sizeof want - 1);
    for (size_t i = 0; i < ids.n && i < sizeof want - 1; i++)
        EXPECT_EQ(ids.ids[i], (unsigned char)want[i]);
    tokenizer_decode(t, (const int32_t[]){'a', 0xe2, 0x82, 'b', 0xff, 0xe2}, 6, 0, &text);
    EXPECT_STR(text.data, "a\xef\xbf\xbd"
                          "b\xef\xbf\xbd\xef\xbf\xbd");
    buf_free(&text);
    token_list_free(&ids);
    tokenizer_free(t);
}

TEST(tokenizer_takes_a_mebibyte_of_anything_in_linear_time)
{
    static const char *const parts[] = {"a",
                                        " ",
                                        "\n",
                                        "7",
                                        "a ",
                                        "\n ",
                                        "'",
                                        "\xcc\x81",
                                        "\xff",
                                        " \xc2\xa0",
                                        "\xf0\x9f\x98\x80",
                                        "\r\n\t x"};
    static const char *const kinds[] = {
        "{\"type\":\"ByteLevel\",\"add_prefix_space\":false}",
        "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"behavior\":"
        "\"Isolated\","
        "\"pattern\":{\"Regex\":\"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}"
        "]?"
        "\\\\p{L}+|\\\\p{N}{1,3}| "
        "?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|"
        "\\\\s+(?!\\\\S)|\\\\s+\"}},{\"type\":\"ByteLevel\",\"add_prefix_space\":false,"
        "\"use_regex\":false}]}"};
    for (size_t k = 0; k < 2; k++) {
        struct tokenizer *t = open_bytes(kinds[k]);
        ASSERT(t);
        clock_t start = clock();
        for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
            struct buf text = {0};
            struct token_list ids = {0};
            struct err err = {0};
            while (text.len < 1 << 20)
                buf_add_str(&text, parts[i]);
            if (tokenizer_encode(t, text.data, text.len, 0, &ids, &err) < 0)
                test_fail(__FILE__, __LINE__, "part %zu: %s", i, err.msg);
            EXPECT(ids.n >= text.len);
            buf_free(&text);
            token_list_free(&ids);
        }
        EXPECT((double)(clock() - start) / CLOCKS_PER_SEC < 60);
        tokenizer_free(t);
    }
}

TEST(tokenizer_refuses_text_over_its_limit)
{
    struct err err = {0};
    struct token_list ids = {0};
    struct tokenizer *t = open_text("{" GOOD "}", &err);
    ASSERT(t);
    EXPECT_EQ(tokenizer_encode(t, "a", ((size_t)64 << 20) + 1, 0, &ids, &err), -1);
    EXPECT_EQ(err.code, ERR_TOO_LARGE);
    EXPECT_EQ(ids.n, 0);
    tokenizer_free(t);
}

/* A pattern that explodes on a text must not give wrong tokens. */
TEST(tokenizer_gives_no_tokens_when_a_limit_is_hit)
{
    struct err err = {0};
    struct token_list ids = {0};
    struct buf text = {0};
    struct tokenizer *t = open_bytes(
        "{\"type\":\"Split\",\"behavior\":\"Isolated\",\"pattern\":{\"Regex\":\"(a+a+)+b\"}"
        "},"
        "\"added_tokens\":[{\"id\":256,\"content\":\"<s>\",\"normalized\":false}]");
    ASSERT(t);
    token_list_add(&ids, 5);
    buf_add_str(&text, "<s>"); /* a token is found before the limit is hit */
    for (int i = 0; i < 3000; i++)
        buf_add_char(&text, 'a');
    buf_add_str(&text, "cb");
    EXPECT_EQ(tokenizer_encode(t, text.data, text.len, 0, &ids, &err), -1);
    EXPECT(err.msg[0]);
    EXPECT_EQ(ids.n, 1);
    buf_free(&text);
    token_list_free(&ids);
    tokenizer_free(t);
}
