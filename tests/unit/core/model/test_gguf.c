/* GGUF files: the container's rules, models from metadata, and every refusal by name. */
#include "core/model/gguf.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/mem.h"
#include "core/model/model.h"
#include "tests/test.h"
#include "tests/unit/core/model/model_files.h"

enum { TYPE_F32 = 0, TYPE_Q4_0 = 2, TYPE_Q8_0 = 8, TYPE_Q6_K = 14 };

/* Parses a copy of exactly len bytes, so that a sanitizer sees every read beyond. */
static int parse_exact(const void *bytes, size_t len, struct err *err)
{
    struct gguf g;
    char *copy = xmalloc(len);
    memcpy(copy, bytes, len);
    int rc = gguf_parse(&g, copy, len, err);
    if (rc == 0)
        gguf_fini(&g);
    free(copy);
    return rc;
}

TEST(gguf_reads_values_and_tensors)
{
    struct gguf_file f = {0};
    struct buf b = {0};
    struct gguf g;
    struct err err = {0};
    float data[12] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};
    gguf_file_u32(&f, "a", 7);
    gguf_file_f32(&f, "b", 0.5f);
    gguf_file_string(&f, "c", "text");
    gguf_file_tensor(&f, "m", TYPE_F32, 3, 2, data, 24);
    gguf_file_tensor(&f, "v", TYPE_F32, 6, 0, data + 6, 24);
    gguf_file_bytes(&f, &b);
    ASSERT(gguf_parse(&g, b.data, b.len, &err) == 0);
    uint64_t u;
    double d;
    struct gguf_string s;
    EXPECT(gguf_u64(&g, "a", &u) && u == 7);
    EXPECT(gguf_f64(&g, "b", &d) && d == 0.5);
    EXPECT(gguf_string(&g, "c", &s) && gguf_string_is(s, "text") &&
           !gguf_string_is(s, "tex"));
    EXPECT(!gguf_u64(&g, "b", &u) && !gguf_u64(&g, "x", &u) && !gguf_string(&g, "a", &s));
    ASSERT(g.n_tensors == 2);
    EXPECT(g.tensors[0].n_dims == 2 && g.tensors[0].dims[0] == 3 &&
           g.tensors[0].dims[1] == 2);
    EXPECT(memcmp(g.tensors[1].data, data + 6, 24) == 0);
    gguf_fini(&g);
    for (size_t cut = 0; cut < b.len; cut++)
        EXPECT_EQ(parse_exact(b.data, cut, NULL), -1);
    EXPECT_EQ(parse_exact(b.data, b.len, NULL), 0);
    buf_free(&b);
    gguf_file_free(&f);
}

static void put_u32(struct buf *b, uint32_t v)
{
    buf_add(b, &v, sizeof v);
}

static void put_u64(struct buf *b, uint64_t v)
{
    buf_add(b, &v, sizeof v);
}

static void put_head(struct buf *b, uint32_t version, uint64_t n_tensors, uint64_t n_values)
{
    buf_add_str(b, "GGUF");
    put_u32(b, version);
    put_u64(b, n_tensors);
    put_u64(b, n_values);
}

static void expect_rejected(struct buf *b, const char *says)
{
    struct err err = {0};
    int rc = parse_exact(b->data, b->len, &err);
    if (rc == 0 || !strstr(err.msg, says))
        test_fail(__FILE__, __LINE__, "got \"%s\", expected \"%s\"",
                  rc ? err.msg : "accepted", says);
    buf_free(b);
}

TEST(gguf_refuses_broken_heads_and_values)
{
    struct buf b = {0};
    buf_add_str(&b, "GGML____________________");
    expect_rejected(&b, "not a GGUF file");
    put_head(&b, 1, 0, 0);
    expect_rejected(&b, "GGUF version 1");
    put_head(&b, 0x03000000, 0, 0);
    expect_rejected(&b, "little-endian");
    put_head(&b, 3, 0, UINT64_MAX);
    expect_rejected(&b, "metadata keys");
    put_head(&b, 3, UINT64_MAX, 0);
    expect_rejected(&b, "tensors, at most");
    put_head(&b, 3, 0, 1);
    put_u64(&b, UINT64_MAX); /* length of a key */
    expect_rejected(&b, "ends too early");
    put_head(&b, 3, 0, 1);
    put_u64(&b, 0);
    put_u32(&b, 4);
    put_u32(&b, 1);
    expect_rejected(&b, "key is empty");
    put_head(&b, 3, 0, 1);
    put_u64(&b, 1);
    buf_add_str(&b, "k");
    put_u32(&b, 13);
    expect_rejected(&b, "\"k\" has type 13");
    for (uint32_t type = 0; type < GGUF_N_TYPES; type++) { /* arrays longer than any file */
        put_head(&b, 3, 0, 1);
        put_u64(&b, 1);
        buf_add_str(&b, "k");
        put_u32(&b, GGUF_ARRAY);
        put_u32(&b, type);
        put_u64(&b, UINT64_MAX / 4);
        expect_rejected(&b, type == GGUF_ARRAY ? "type 9" : "ends too early");
    }
    put_head(&b, 3, 0, 2);
    for (int i = 0; i < 2; i++) {
        put_u64(&b, 1);
        buf_add_str(&b, "k");
        put_u32(&b, 0);
        buf_add_char(&b, 1);
    }
    expect_rejected(&b, "\"k\" is there twice");
}

static void expect_alignment_rejected(uint32_t alignment)
{
    struct gguf_file f = {0};
    struct buf b = {0};
    gguf_file_u32(&f, "general.alignment", alignment);
    gguf_file_bytes(&f, &b);
    expect_rejected(&b, "general.alignment");
    gguf_file_free(&f);
}

TEST(gguf_refuses_impossible_alignments)
{
    expect_alignment_rejected(0);
    expect_alignment_rejected(1);
    expect_alignment_rejected(48);
    expect_alignment_rejected(1u << 31);
}

/* One tensor named t, with everything about it chosen. */
static void put_tensor(struct buf *b, uint32_t n_dims, const uint64_t *dims, uint32_t type,
                       uint64_t offset, size_t n_data)
{
    put_head(b, 3, 1, 0);
    put_u64(b, 1);
    buf_add_str(b, "t");
    put_u32(b, n_dims);
    for (uint32_t i = 0; i < n_dims && i < 8; i++)
        put_u64(b, dims[i]);
    put_u32(b, type);
    put_u64(b, offset);
    while (b->len % 32)
        buf_add_char(b, 0);
    for (size_t i = 0; i < n_data; i++)
        buf_add_char(b, 0);
}

TEST(gguf_refuses_broken_tensors)
{
    static const uint64_t small[8] = {32, 1, 1, 1, 1, 1, 1, 1}, zero[] = {0}, odd[] = {33};
    static const uint64_t wrap[] = {1ull << 32, 1ull << 32}, wrap4[] = {1ull << 61, 2};
    static const uint64_t wrap_rows[] = {1, 1ull << 32, 1ull << 32};
    struct buf b = {0};
    put_tensor(&b, 0, small, TYPE_F32, 0, 128);
    expect_rejected(&b, "1 to 4 dimensions");
    put_tensor(&b, 5, small, TYPE_F32, 0, 128);
    expect_rejected(&b, "1 to 4 dimensions");
    put_tensor(&b, 1, zero, TYPE_F32, 0, 0);
    expect_rejected(&b, "impossible shape");
    put_tensor(&b, 2, wrap, TYPE_F32, 0, 0);
    expect_rejected(&b, "whole blocks");
    put_tensor(&b, 2, wrap4, TYPE_F32, 0, 0);
    expect_rejected(&b, "whole blocks");
    put_tensor(&b, 3, wrap_rows, TYPE_F32, 0, 0);
    expect_rejected(&b, "impossible shape");
    put_tensor(&b, 1, odd, TYPE_Q8_0, 0, 64);
    expect_rejected(&b, "whole blocks");
    put_tensor(&b, 1, small, TYPE_F32, 0, 127);
    expect_rejected(&b, "beyond the end");
    put_tensor(&b, 1, small, TYPE_F32, 32, 160);
    expect_rejected(&b, "leaves a gap");
    put_tensor(&b, 1, small, TYPE_F32, UINT64_MAX - 31, 128);
    expect_rejected(&b, "leaves a gap");
    put_tensor(&b, 1, small, TYPE_Q6_K, 0, 210);
    expect_rejected(&b, "type 14 (Q6_K); accepted: F32, F16, BF16, Q8_0, Q4_0, Q4_1");
    put_tensor(&b, 1, small, 31, 0, 210);
    expect_rejected(&b, "type 31 (not known)");
    put_tensor(&b, 1, small, UINT32_MAX, 0, 210);
    expect_rejected(&b, "not known");
}

/* --- whole models: dim 8, heads 2/1 of 4, ffn 6, vocab 5, F32 --- */

static const struct {
    const char *name;
    uint64_t cols, rows;
} model_tensors[] = {
    {"token_embd.weight", 8, 5},     {"output_norm.weight", 8, 0},
    {"blk.0.attn_norm.weight", 8, 0}, {"blk.0.ffn_norm.weight", 8, 0},
    {"blk.0.attn_q.weight", 8, 8},   {"blk.0.attn_k.weight", 8, 4},
    {"blk.0.attn_v.weight", 8, 4},   {"blk.0.attn_output.weight", 8, 8},
    {"blk.0.ffn_gate.weight", 8, 6}, {"blk.0.ffn_up.weight", 8, 6},
    {"blk.0.ffn_down.weight", 6, 8},
};
enum { N_MODEL_TENSORS = sizeof model_tensors / sizeof model_tensors[0] };

/* skip: a key or tensor to leave out, or NULL. */
static void add_u32(struct gguf_file *f, const char *key, uint32_t v, const char *skip)
{
    if (!skip || strcmp(skip, key) != 0)
        gguf_file_u32(f, key, v);
}

static void add_tensor(struct gguf_file *f, const char *name, uint64_t cols, uint64_t rows)
{
    float data[64];
    size_t n = (size_t)(rows ? cols * rows : cols);
    for (size_t i = 0; i < n; i++)
        data[i] = model_files_value(name, i);
    gguf_file_tensor(f, name, TYPE_F32, cols, rows, data, n * sizeof data[0]);
}

static void add_model(struct gguf_file *f, const char *skip)
{
    if (!skip || strcmp(skip, "general.architecture") != 0)
        gguf_file_string(f, "general.architecture", "llama");
    add_u32(f, "llama.block_count", 1, skip);
    add_u32(f, "llama.context_length", 64, skip);
    add_u32(f, "llama.embedding_length", 8, skip);
    add_u32(f, "llama.feed_forward_length", 6, skip);
    add_u32(f, "llama.attention.head_count", 2, skip);
    add_u32(f, "llama.attention.head_count_kv", 1, skip);
    if (!skip || strcmp(skip, "llama.attention.layer_norm_rms_epsilon") != 0)
        gguf_file_f32(f, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
    add_u32(f, "tokenizer.ggml.eos_token_id", 2, skip);
    for (int i = 0; i < N_MODEL_TENSORS; i++)
        if (!skip || strcmp(skip, model_tensors[i].name) != 0)
            add_tensor(f, model_tensors[i].name, model_tensors[i].cols,
                       model_tensors[i].rows);
}

/* Writes the file, opens it, and frees f. */
static struct model *open_file(struct gguf_file *f, struct err *err)
{
    struct buf b = {0};
    char path[300], *dir = model_files_dir();
    gguf_file_bytes(f, &b);
    model_files_write(dir, "m.gguf", b.data, b.len);
    snprintf(path, sizeof path, "%s/m.gguf", dir);
    struct model *m = model_open(path, DTYPE_CHOICE_AUTO, err);
    model_files_remove(dir);
    buf_free(&b);
    gguf_file_free(f);
    return m;
}

static float q_row(const struct model *m, int o, int i)
{
    return ((const float *)m->layers[0].q.w.data)[i * PANEL + o];
}

TEST(gguf_model_rows_of_q_come_back_to_half_rotation)
{
    struct gguf_file f = {0};
    struct err err = {0};
    add_model(&f, NULL);
    gguf_file_u32(&f, "tokenizer.ggml.eot_token_id", 4);
    struct model *m = open_file(&f, &err);
    ASSERT(m != NULL);
    EXPECT(m->dtype == DTYPE_F32 && m->desc.is_tied && m->desc.vocab == 5);
    EXPECT(m->desc.n_eos == 2 && m->desc.eos[0] == 2 && m->desc.eos[1] == 4 &&
           m->desc.bos == -1);
    /* Heads of 4: the file keeps pairs (0,2) and (1,3) side by side. */
    static const int stored[8] = {0, 2, 1, 3, 4, 6, 5, 7};
    for (int o = 0; o < 8; o++)
        for (int i = 0; i < 8; i++)
            EXPECT(q_row(m, o, i) ==
                   model_files_value("blk.0.attn_q.weight", (size_t)(stored[o] * 8 + i)));
    const float *v = m->layers[0].v.w.data;
    for (int o = 0; o < 4; o++)
        EXPECT(v[o] == model_files_value("blk.0.attn_v.weight", (size_t)o * 8));
    model_free(m);
}

TEST(gguf_model_biases_of_k_are_reordered_too)
{
    struct gguf_file f = {0};
    struct err err = {0};
    add_model(&f, NULL);
    add_tensor(&f, "blk.0.attn_q.bias", 8, 0);
    add_tensor(&f, "blk.0.attn_k.bias", 4, 0);
    add_tensor(&f, "blk.0.attn_v.bias", 4, 0);
    add_tensor(&f, "blk.0.attn_output.bias", 8, 0);
    struct model *m = open_file(&f, &err);
    ASSERT(m != NULL);
    const float *k = m->layers[0].k.bias, *v = m->layers[0].v.bias;
    EXPECT(k[1] == model_files_value("blk.0.attn_k.bias", 2));
    EXPECT(k[2] == model_files_value("blk.0.attn_k.bias", 1));
    EXPECT(v[1] == model_files_value("blk.0.attn_v.bias", 1));
    model_free(m);
}

TEST(gguf_model_rope_factors_divide)
{
    struct gguf_file f = {0};
    struct err err = {0};
    float factors[2] = {1, 8};
    add_model(&f, NULL);
    gguf_file_tensor(&f, "rope_freqs.weight", TYPE_F32, 2, 0, factors, sizeof factors);
    struct model *scaled = open_file(&f, &err);
    memset(&f, 0, sizeof f);
    add_model(&f, NULL);
    struct model *plain = open_file(&f, &err);
    ASSERT(scaled != NULL && plain != NULL);
    EXPECT(scaled->inv_freq[0] == plain->inv_freq[0]);
    EXPECT(scaled->inv_freq[1] == plain->inv_freq[1] / 8);
    EXPECT(strcmp(scaled->digest, plain->digest) != 0);
    model_free(scaled);
    model_free(plain);
}

static void expect_open_refused(struct gguf_file *f, const char *says)
{
    struct err err = {0};
    struct model *m = open_file(f, &err);
    if (m || !strstr(err.msg, says))
        test_fail(__FILE__, __LINE__, "got \"%s\", expected \"%s\"",
                  m ? "accepted" : err.msg, says);
    model_free(m);
    memset(f, 0, sizeof *f);
}

TEST(gguf_model_refuses_each_missing_part_by_name)
{
    static const char *const keys[] = {
        "general.architecture", "llama.block_count", "llama.context_length",
        "llama.embedding_length", "llama.feed_forward_length", "llama.attention.head_count",
        "llama.attention.layer_norm_rms_epsilon",
    };
    struct gguf_file f = {0};
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        add_model(&f, keys[i]);
        expect_open_refused(&f, keys[i]);
    }
    for (int i = 0; i < N_MODEL_TENSORS; i++) {
        char says[200];
        add_model(&f, model_tensors[i].name);
        snprintf(says, sizeof says, "\"%s\" is missing", model_tensors[i].name);
        expect_open_refused(&f, says);
    }
}

TEST(gguf_model_refuses_each_unsupported_number_by_name)
{
    static const struct {
        const char *key;
        uint32_t v;
        const char *says;
    } cases[] = {
        {"llama.expert_count", 8, "llama.expert_count: not supported"},
        {"llama.attention.sliding_window", 4096, "sliding_window: not supported"},
        {"llama.rope.dimension_count", 2, "partial rotation"},
        {"llama.attention.value_length", 8, "must equal the key length"},
        {"llama.attention.key_length", 3, "value_length"},
        {"llama.vocab_size", 6, "differs from the rows of token_embd.weight"},
        {"llama.rope.freq_base", 10000, "must be a floating-point number"},
        {"tokenizer.ggml.bos_token_id", 0xffffffffu, "whole number"},
        {"tokenizer.ggml.eot_token_id", 0xffffffffu, "whole number"},
        {"llama.rope.scaling.type", 1, "must be a string"},
    };
    struct gguf_file f = {0};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        add_model(&f,
                  strcmp(cases[i].key, "llama.attention.key_length") ? cases[i].key : NULL);
        gguf_file_u32(&f, cases[i].key, cases[i].v);
        if (strcmp(cases[i].key, "llama.attention.key_length") == 0)
            gguf_file_u32(&f, "llama.attention.value_length", 4);
        expect_open_refused(&f, cases[i].says);
    }
    add_model(&f, "llama.attention.head_count_kv");
    gguf_file_u32(&f, "llama.attention.head_count_kv", 3);
    expect_open_refused(&f, "no multiple of 3");
    add_model(&f, "llama.block_count");
    gguf_file_u32(&f, "llama.block_count", 1u << 20);
    expect_open_refused(&f, "number of layers is 1048576");
}

TEST(gguf_model_refuses_other_architectures_and_ropes_by_name)
{
    struct gguf_file f = {0};
    add_model(&f, "general.architecture");
    gguf_file_string(&f, "general.architecture", "qwen2");
    expect_open_refused(&f, "\"qwen2\"; accepted: llama");
    add_model(&f, NULL);
    gguf_file_string(&f, "llama.rope.scaling.type", "yarn");
    expect_open_refused(&f, "\"yarn\"; accepted: none, linear");
    add_model(&f, NULL);
    gguf_file_f32(&f, "llama.attention.scale", 0.5f);
    expect_open_refused(&f, "llama.attention.scale: not supported");
    add_model(&f, NULL);
    gguf_file_string(&f, "llama.rope.scaling.type", "linear");
    gguf_file_f32(&f, "llama.rope.scaling.factor", 0);
    expect_open_refused(&f, "rope factor is 0");
}

TEST(gguf_model_refuses_extra_and_misshapen_tensors_by_name)
{
    struct gguf_file f = {0};
    float nothing[3] = {0};
    add_model(&f, NULL);
    add_tensor(&f, "blk.0.attn_q_norm.weight", 4, 0);
    expect_open_refused(&f, "\"blk.0.attn_q_norm.weight\" is not one of a Llama model");
    add_model(&f, NULL);
    add_tensor(&f, "blk.1.attn_norm.weight", 8, 0);
    expect_open_refused(&f, "\"blk.1.attn_norm.weight\" is not one");
    add_model(&f, NULL);
    add_tensor(&f, "blk.0.attn_norm.weight", 8, 0);
    expect_open_refused(&f, "\"blk.0.attn_norm.weight\" is there twice");
    add_model(&f, NULL);
    add_tensor(&f, "blk.0.attn_k.bias", 4, 0);
    expect_open_refused(&f, "\"blk.0.attn_k.bias\" does not fit");
    add_model(&f, "blk.0.ffn_down.weight");
    add_tensor(&f, "blk.0.ffn_down.weight", 8, 6);
    expect_open_refused(&f, "\"blk.0.ffn_down.weight\" has shape [6, 8], expected [8, 6]");
    add_model(&f, NULL);
    gguf_file_tensor(&f, "rope_freqs.weight", TYPE_F32, 3, 0, nothing, sizeof nothing);
    expect_open_refused(&f, "rope_freqs.weight\" must be F32 [2]");
    add_model(&f, NULL);
    gguf_file_tensor(&f, "rope_freqs.weight", TYPE_F32, 2, 0, nothing, 8);
    expect_open_refused(&f, "must hold numbers above 0");
}
