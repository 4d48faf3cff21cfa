/* Tokenizers, real and made-up, against vectors of the reference library. */
#include "core/tokenizer.h"

#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/buf.h"
#include "core/model/gguf_tokenizer.h"

#include "tests/test.h"
#include "tests/unit/core/text/token_cases.h"

static struct tokenizer *open_file(const char *path)
{
    struct buf b = {0};
    struct err err = {0};
    struct tokenizer *t = NULL;
    if (token_cases_load(path, &b))
        t = tokenizer_open_json(b.data, b.len, &err);
    if (!t)
        test_fail(__FILE__, __LINE__, "%s: %s", path, err.msg);
    buf_free(&b);
    return t;
}

/* Random ids, mostly of the low ones where the byte tokens are, at random places of a
 * split. */
static void check_random_streams(const struct tokenizer *t, const char *name)
{
    uint32_t seed = 12345;
    for (int round = 0; round < 3000; round++) {
        int32_t ids[16];
        for (int i = 0; i < 16; i++) {
            seed = seed * 1664525u + 1013904223u;
            uint32_t r = seed >> 8;
            int32_t n = tokenizer_n_tokens(t) + 2;
            ids[i] = (int32_t)(r % (r & 0x800000 ? 260 : (uint32_t)n));
        }
        seed = seed * 1664525u + 1013904223u;
        token_cases_stream(t, ids, 16, seed >> 28, name);
    }
}

static void check_shared(const char *shared, const char *name)
{
    char path[4400];
    snprintf(path, sizeof path, "%s/assets/tokenizers/%s/tokenizer.json", shared, name);
    struct tokenizer *t = open_file(path);
    ASSERT(t);
    snprintf(path, sizeof path, "%s/assets/tokenization_vectors/hf_oracle/%s.json", shared,
             name);
    cJSON *root = token_cases_read(path);
    EXPECT_EQ(token_cases_check(t, cJSON_GetObjectItem(root, "cases"), name), 58);
    check_random_streams(t, name);
    cJSON_Delete(root);
    tokenizer_free(t);
}

#define SHARED_CASE(name)                                                                  \
    TEST(tokenizer_equals_reference_##name)                                                \
    {                                                                                      \
        if (!test_shared())                                                                \
            SKIP("no ../shared");                                                          \
        check_shared(test_shared(), #name);                                                \
    }
SHARED_CASE(gpt2)
SHARED_CASE(llama2)
SHARED_CASE(llama3)
SHARED_CASE(qwen2)
SHARED_CASE(smollm)

static bool next_id(char **at, int32_t *id)
{
    char *end;
    while (**at == ' ')
        ++*at;
    *id = (int32_t)strtol(*at, &end, 10);
    bool found = end != *at;
    *at = end;
    return found;
}

/* One text of all.inp against its line of ids. */
static void check_line(const struct tokenizer *t, const char *text, size_t len, char *line,
                       const char *name)
{
    struct token_list got = {0};
    size_t n = 0;
    int32_t id;
    EXPECT_EQ(tokenizer_encode(t, text, len, 0, &got, NULL), 0);
    for (; next_id(&line, &id); n++)
        if (n >= got.n || got.ids[n] != id)
            break;
    if (n != got.n || *line)
        test_fail(__FILE__, __LINE__, "%s: \"%.*s\" differs at token %zu", name, (int)len,
                  text, n);
    token_list_free(&got);
}

static void check_llama_cpp(const char *shared, const char *vocab, const char *vectors)
{
    static const char mark[] = "\n__ggml_vocab_test__\n";
    char path[4400];
    struct buf texts = {0}, ids = {0};
    int n = 0;
    snprintf(path, sizeof path, "%s/assets/tokenizers/%s/tokenizer.json", shared, vocab);
    struct tokenizer *t = open_file(path);
    ASSERT(t);
    snprintf(path, sizeof path, "%s/assets/tokenization_vectors/llama.cpp/all.inp", shared);
    EXPECT(token_cases_load(path, &texts));
    snprintf(path, sizeof path, "%s/assets/tokenization_vectors/llama.cpp/%s.out", shared,
             vectors);
    EXPECT(token_cases_load(path, &ids));
    char *text = texts.data, *line = ids.data;
    while (line && text && n < 46) {
        char *end = strstr(text, mark), *line_end = strchr(line, '\n');
        if (line_end)
            *line_end++ = '\0';
        check_line(t, text, end ? (size_t)(end - text) : strlen(text), line, vectors);
        text = end ? end + strlen(mark) : NULL;
        line = line_end;
        n++;
    }
    EXPECT_EQ(n, 46);
    buf_free(&texts);
    buf_free(&ids);
    tokenizer_free(t);
}

TEST(tokenizer_equals_llama_cpp_vectors)
{
    if (!test_shared())
        SKIP("no ../shared");
    check_llama_cpp(test_shared(), "gpt2", "gpt-2");
    check_llama_cpp(test_shared(), "llama2", "llama-spm");
    check_llama_cpp(test_shared(), "llama3", "llama-bpe");
    check_llama_cpp(test_shared(), "qwen2", "qwen2");
}

TEST(tokenizer_equals_reference_stories)
{
    if (!test_shared())
        SKIP("no ../shared");
    char path[4400];
    struct err err = {0};
    snprintf(path, sizeof path, "%s/assets/models/stories260K-hf", test_shared());
    struct tokenizer *t = tokenizer_open_dir(path, &err);
    ASSERT(t);
    snprintf(path, sizeof path, "%s/assets/models/stories260K-hf/tokenization_golden.json",
             test_shared());
    cJSON *root = token_cases_read(path);
    EXPECT(token_cases_check(t, cJSON_GetObjectItem(root, "cases"), "stories") > 20);
    check_random_streams(t, "stories");
    cJSON_Delete(root);
    tokenizer_free(t);
}

TEST(tokenizer_equals_reference_for_every_kind)
{
    char *path = test_path("tests/golden/tokenizer/variants.json");
    cJSON *root = token_cases_read(path);
    const cJSON *v;
    int n = 0;
    ASSERT(root);
    cJSON_ArrayForEach (v, cJSON_GetObjectItem(root, "variants")) {
        const char *name = cJSON_GetObjectItem(v, "name")->valuestring;
        char *json = cJSON_PrintUnformatted(cJSON_GetObjectItem(v, "tokenizer"));
        struct err err = {0};
        struct tokenizer *t = tokenizer_open_json(json, strlen(json), &err);
        if (!t)
            test_fail(__FILE__, __LINE__, "%s: %s", name, err.msg);
        if (t && token_cases_check(t, cJSON_GetObjectItem(v, "cases"), name) > 20 &&
            token_cases_check(t, cJSON_GetObjectItem(v, "decode_only"), name) == 30)
            n++;
        if (t)
            check_random_streams(t, name);
        tokenizer_free(t);
        cJSON_free(json);
    }
    EXPECT_EQ(n, 16);
    cJSON_Delete(root);
    free(path);
}

/* The cache folder of the demo model, by the rule of scripts/get_demo_model. */
static void demo_model_path(char *path, size_t size)
{
    const char *own = getenv("PREFIXD_CACHE"), *xdg = getenv("XDG_CACHE_HOME"),
               *home = getenv("HOME");
    const char *file = "SmolLM2-135M-Instruct.Q4_1.gguf";
    if (own && *own)
        snprintf(path, size, "%s/%s", own, file);
    else if (xdg && *xdg)
        snprintf(path, size, "%s/prefixd/%s", xdg, file);
    else
        snprintf(path, size, "%s/.cache/prefixd/%s", home ? home : "", file);
}

TEST(tokenizer_of_smollm2_equals_reference)
{
    char gguf[4400];
    struct err err = {0};
    demo_model_path(gguf, sizeof gguf);
    if (access(gguf, R_OK) != 0)
        SKIP("the demo model is not in the cache");
    char *path = test_path("tests/golden/tokenizer/smollm2.json");
    cJSON *root = token_cases_read(path);
    ASSERT(root);
    struct tokenizer *t = gguf_tokenizer_open(gguf, &err);
    if (!t)
        test_fail(__FILE__, __LINE__, "%s", err.msg);
    if (t) {
        EXPECT(token_cases_check(t, cJSON_GetObjectItem(root, "cases"), "smollm2") >= 60);
        check_random_streams(t, "smollm2");
        EXPECT_EQ(tokenizer_n_tokens(t), 49152);
        EXPECT(tokenizer_is_special(t, tokenizer_find(t, "<|im_start|>")));
        EXPECT(!tokenizer_is_special(t, tokenizer_find(t, "the")));
    }
    tokenizer_free(t);
    cJSON_Delete(root);
    free(path);
}
