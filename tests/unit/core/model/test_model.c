/* Whole models open: the golden ones, and a real one where it is at hand. */
#include "core/model/model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/tokenizer.h"
#include "tests/test.h"
#include "tests/unit/core/model/model_files.h"

static bool all_finite(const struct matrix *m)
{
    size_t n = ((size_t)m->n_out + PANEL - 1) / PANEL * PANEL * (size_t)m->n_in;
    for (size_t i = 0; i < n; i++) {
        float f = m->dtype == DTYPE_F32 ? ((const float *)m->data)[i]
                                        : bf16_to_f32(((const uint16_t *)m->data)[i]);
        if (!isfinite(f))
            return false;
    }
    return true;
}

static struct model *open_golden(const char *name)
{
    char rel[100];
    struct err err = {0};
    snprintf(rel, sizeof rel, "tests/golden/models/%s", name);
    char *path = test_path(rel);
    struct model *m = model_open(path, DTYPE_CHOICE_AUTO, &err);
    if (!m)
        test_fail(__FILE__, __LINE__, "%s: %s", name, err.msg);
    free(path);
    return m;
}

TEST(model_opens_the_golden_models)
{
    static const struct {
        const char *name;
        enum dtype dtype;
        enum rope_kind rope;
        bool is_tied, has_bias;
    } models[] = {
        {"gqa", DTYPE_F32, ROPE_DEFAULT, true, false},
        {"wide", DTYPE_F32, ROPE_DEFAULT, false, true},
        {"mha", DTYPE_F32, ROPE_DEFAULT, false, false},
        {"llama3", DTYPE_BF16, ROPE_LLAMA3, false, false},
        {"linear", DTYPE_BF16, ROPE_LINEAR, false, false},
        {"mixed.gguf", DTYPE_BF16, ROPE_DEFAULT, false, false},
    };
    for (size_t i = 0; i < sizeof models / sizeof models[0]; i++) {
        struct model *m = open_golden(models[i].name);
        if (!m)
            continue;
        EXPECT_EQ(m->dtype, models[i].dtype);
        EXPECT_EQ(m->desc.rope.kind, models[i].rope);
        EXPECT_EQ(m->desc.has_attn_bias, models[i].has_bias);
        EXPECT_EQ(m->layers[0].q.bias != NULL, models[i].has_bias);
        EXPECT_EQ(m->desc.is_tied, m->head.data == m->embed.data);
        for (int l = 0; l < m->desc.n_layers; l++)
            EXPECT(all_finite(&m->layers[l].q.w) && all_finite(&m->layers[l].down.w));
        model_free(m);
    }
}

TEST(model_opens_a_real_model)
{
    const char *shared = test_shared();
    char path[4200];
    struct err err = {0};
    if (!shared)
        SKIP("../shared is absent");
    snprintf(path, sizeof path, "%s/assets/models/stories260K-hf", shared);
    struct model *m = model_open(path, DTYPE_CHOICE_AUTO, &err);
    ASSERT(m != NULL);
    EXPECT(m->desc.n_layers == 5 && m->desc.vocab == 512 && m->desc.head_dim == 8);
    EXPECT(m->dtype == DTYPE_F32 && m->desc.is_tied && m->desc.n_eos == 2);
    EXPECT(all_finite(&m->embed));
    model_free(m);
}

TEST(model_takes_its_tokenizer_from_gguf_metadata)
{
    char *path = test_path("tests/golden/models/mixed.gguf");
    struct err err = {0};
    struct tokenizer *t = model_open_tokenizer(path, &err);
    free(path);
    ASSERT(t != NULL);
    EXPECT_EQ(tokenizer_n_tokens(t), 304);
    tokenizer_free(t);
}

static void expect_no_tokenizer(struct gguf_file *f, const char *says)
{
    struct buf b = {0};
    struct err err = {0};
    char path[300], *dir = model_files_dir();
    gguf_file_bytes(f, &b);
    model_files_write(dir, "t.gguf", b.data, b.len);
    snprintf(path, sizeof path, "%s/t.gguf", dir);
    struct tokenizer *t = model_open_tokenizer(path, &err);
    if (t || !strstr(err.msg, says))
        test_fail(__FILE__, __LINE__, "got \"%s\", expected \"%s\"",
                  t ? "a tokenizer" : err.msg, says);
    tokenizer_free(t);
    model_files_remove(dir);
    buf_free(&b);
    gguf_file_free(f);
    memset(f, 0, sizeof *f);
}

TEST(model_refuses_other_tokenizers_by_name)
{
    struct gguf_file f = {0};
    gguf_file_string(&f, "tokenizer.ggml.model", "llama");
    expect_no_tokenizer(&f, "\"llama\"; accepted: gpt2");
    gguf_file_u32(&f, "x", 1);
    expect_no_tokenizer(&f, "tokenizer.ggml.model");
    gguf_file_string(&f, "tokenizer.ggml.model", "gpt2");
    expect_no_tokenizer(&f, "tokenizer.ggml.tokens: must be a list of strings");
    gguf_file_string(&f, "tokenizer.ggml.model", "gpt2");
    gguf_file_string(&f, "tokenizer.ggml.tokens", "one");
    expect_no_tokenizer(&f, "tokenizer.ggml.tokens: must be a list of strings");
}
