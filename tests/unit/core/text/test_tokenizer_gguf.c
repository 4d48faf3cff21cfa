/* Tokenizers from GGUF metadata: names of pre-tokenizers, token types, refusals. */
#include "core/tokenizer.h"

#include "tests/test.h"

/* "ba" comes of no merge; the last two are the bytes of U+00E9. */
static const char *const tokens[] = {"<eot>",    "<tool>", "a",        "b",
                                     "ab",       "1",      "2",        "12",
                                     "\xc4\xa0", "ba",     "\xc3\x83", "\xc2\xa9"};
static const int32_t types[] = {3, 4, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
static const char *const merges[] = {"a b", "1 2"};

static struct tokenizer_gguf plain(const char *pre)
{
    return (struct tokenizer_gguf){.pre = pre,
                                   .tokens = tokens,
                                   .types = types,
                                   .n_tokens = 12,
                                   .merges = merges,
                                   .n_merges = 2,
                                   .bos = 0,
                                   .add_bos = true};
}

static void expect_ids(const struct tokenizer *t, const char *text, int flags,
                       const int32_t *want, size_t n, int line)
{
    struct token_list ids = {0};
    EXPECT_EQ(tokenizer_encode(t, text, strlen(text), flags, &ids, NULL), 0);
    if (ids.n != n || memcmp(ids.ids, want, n * sizeof *want) != 0)
        test_fail(__FILE__, line, "\"%s\" has other ids", text);
    token_list_free(&ids);
}

#define IDS(text, flags, ...)                                                              \
    expect_ids(t, text, flags, (const int32_t[]){__VA_ARGS__},                             \
               sizeof((const int32_t[]){__VA_ARGS__}) / sizeof(int32_t), __LINE__)

TEST(tokenizer_gguf_knows_its_pre_tokenizers)
{
    static const struct {
        const char *pre;
        bool splits_digits, takes_whole_words, composes;
    } rows[] = {{.pre = "smollm", .splits_digits = true},
                {.pre = "gpt-2"},
                {.pre = "gpt2"},
                {.pre = "llama-bpe", .takes_whole_words = true},
                {.pre = "llama3", .takes_whole_words = true},
                {.pre = "qwen2", .splits_digits = true, .composes = true}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct tokenizer_gguf g = plain(rows[i].pre);
        struct err err = {0};
        struct tokenizer *t = tokenizer_open_gguf(&g, &err);
        if (!t)
            test_fail(__FILE__, __LINE__, "%s: %s", rows[i].pre, err.msg);
        ASSERT(t);
        IDS("ab a", 0, 4, 8, 2);
        if (rows[i].splits_digits)
            IDS("12", 0, 5, 6);
        else
            IDS("12", 0, 7);
        if (rows[i].takes_whole_words)
            IDS("ba", 0, 9);
        else
            IDS("ba", 0, 3, 2);
        if (rows[i].composes)
            IDS("ae\xcc\x81", 0, 2, 10, 11);
        else
            IDS("ae\xcc\x81", 0, 2);
        tokenizer_free(t);
    }
}

TEST(tokenizer_gguf_reads_token_types)
{
    struct tokenizer_gguf g = plain("smollm");
    struct err err = {0};
    struct buf text = {0};
    struct tokenizer *t = tokenizer_open_gguf(&g, &err);
    ASSERT(t);
    IDS("a<eot>b<tool>", TOKENIZER_ADD_SPECIAL, 0, 2, 0, 3, 1);
    IDS("a<eot>b<tool>", 0, 2, 0, 3, 1);
    EXPECT(tokenizer_is_special(t, 0));
    EXPECT(!tokenizer_is_special(t, 1));
    tokenizer_decode(t, (const int32_t[]){0, 2, 1}, 3, TOKENIZER_SKIP_SPECIAL, &text);
    EXPECT_STR(text.data, "a<tool>");
    buf_free(&text);
    tokenizer_free(t);
    g.add_bos = false;
    g.types = NULL;
    t = tokenizer_open_gguf(&g, &err);
    ASSERT(t);
    IDS("a", TOKENIZER_ADD_SPECIAL, 2);
    tokenizer_free(t);
}

static void expect_refused(struct tokenizer_gguf g, const char *named, int line)
{
    struct err err = {0};
    struct tokenizer *t = tokenizer_open_gguf(&g, &err);
    if (t || !strstr(err.msg, named))
        test_fail(__FILE__, line, "\"%s\" does not name %s", err.msg, named);
    tokenizer_free(t);
}

TEST(tokenizer_gguf_refuses_by_name)
{
    static const char *const twice[] = {"a", "a"}, *const bad[] = {"a", "\xff"},
                             *const rule[] = {"a b c"}, *const unknown[] = {"a z"};
    struct tokenizer_gguf g = plain("smollm");
    expect_refused(plain("default"), "default", __LINE__);
    expect_refused(plain("deepseek-llm"), "deepseek-llm", __LINE__);
    expect_refused(plain(NULL), "tokenizer.ggml.pre", __LINE__);
    g.bos = 12;
    expect_refused(g, "12", __LINE__);
    g = plain("smollm");
    g.merges = rule;
    expect_refused(g, "a b c", __LINE__);
    g.merges = unknown;
    expect_refused(g, "not in the vocabulary", __LINE__);
    g = plain("smollm");
    g.types = NULL;
    g.n_merges = 0;
    g.n_tokens = 2;
    g.tokens = twice;
    expect_refused(g, "twice", __LINE__);
    g.tokens = bad;
    expect_refused(g, "UTF-8", __LINE__);
}
