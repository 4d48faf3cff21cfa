/* Hugging Face directories: what loads, and every refusal by name. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/mem.h"
#include "core/model/hf_config.h"
#include "core/model/model.h"
#include "tests/test.h"
#include "tests/unit/core/model/model_files.h"

static struct model *open_with(const char *config, const struct file_tensor *t, size_t n,
                               enum dtype_choice choice, struct err *err)
{
    char *dir = model_files_dir();
    model_files_write_text(dir, "config.json", config);
    if (t)
        model_files_write_tensors(dir, "model.safetensors", t, n);
    struct model *m = model_open(dir, choice, err);
    model_files_remove(dir);
    return m;
}

static float packed(const struct matrix *m, int o, int i)
{
    size_t at = (size_t)(o / PANEL) * matrix_panel_elems(m->dtype, (size_t)m->n_in);
    size_t in = (size_t)i, out = (size_t)(o % PANEL);
    if (m->dtype == DTYPE_F32)
        return ((const float *)m->data)[at + in * PANEL + out];
    return bf16_to_f32(((const uint16_t *)m->data)[at + (in / 2 * PANEL + out) * 2 + in % 2]);
}

/* Every element, and zero rows up to the panel's end. */
static void expect_matrix(const struct matrix *m, const char *name, int n_out, int n_in)
{
    int n_wrong = 0;
    EXPECT_EQ(m->n_out, n_out);
    EXPECT_EQ(m->n_in, n_in);
    EXPECT_EQ((uintptr_t)m->data % 64, 0);
    for (int o = 0; o < PANEL; o++)
        for (int i = 0; i < n_in; i++) {
            float want = o < n_out ? model_files_value(name, (size_t)(o * n_in + i)) : 0;
            n_wrong += packed(m, o, i) != want;
        }
    if (n_wrong)
        test_fail(__FILE__, __LINE__, "%s: %d wrong elements", name, n_wrong);
}

static void expect_vector(const float *v, const char *name, int n)
{
    for (int i = 0; v && i < n; i++)
        if (v[i] != model_files_value(name, (size_t)i))
            test_fail(__FILE__, __LINE__, "%s[%d] is %g", name, i, (double)v[i]);
    if (!v)
        test_fail(__FILE__, __LINE__, "%s is not bound", name);
}

#define L "model.layers.0."

static void expect_all(const struct model *m)
{
    const struct layer_weights *w = &m->layers[0];
    expect_matrix(&m->embed, "model.embed_tokens.weight", 5, 8);
    expect_matrix(&m->head, "lm_head.weight", 5, 8);
    expect_matrix(&w->q.w, L "self_attn.q_proj.weight", 8, 8);
    expect_matrix(&w->k.w, L "self_attn.k_proj.weight", 4, 8);
    expect_matrix(&w->v.w, L "self_attn.v_proj.weight", 4, 8);
    expect_matrix(&w->o.w, L "self_attn.o_proj.weight", 8, 8);
    expect_matrix(&w->gate.w, L "mlp.gate_proj.weight", 6, 8);
    expect_matrix(&w->up.w, L "mlp.up_proj.weight", 6, 8);
    expect_matrix(&w->down.w, L "mlp.down_proj.weight", 8, 6);
    expect_vector(m->final_norm, "model.norm.weight", 8);
    expect_vector(w->attn_norm, L "input_layernorm.weight", 8);
    expect_vector(w->ffn_norm, L "post_attention_layernorm.weight", 8);
}

TEST(hf_packed_values_equal_the_files_in_every_dtype)
{
    static const struct {
        const char *dtype;
        enum dtype_choice choice;
        enum dtype packed;
    } cases[] = {
        {"F32", DTYPE_CHOICE_AUTO, DTYPE_F32},   {"BF16", DTYPE_CHOICE_AUTO, DTYPE_BF16},
        {"F16", DTYPE_CHOICE_AUTO, DTYPE_BF16},  {"F16", DTYPE_CHOICE_F32, DTYPE_F32},
        {"F32", DTYPE_CHOICE_BF16, DTYPE_BF16},  {"BF16", DTYPE_CHOICE_F32, DTYPE_F32},
    };
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
        struct file_tensor t[MODEL_FILES_TENSORS];
        struct err err = {0};
        memcpy(t, model_files_tensors, sizeof t);
        for (int i = 0; i < MODEL_FILES_TENSORS; i++)
            t[i].dtype = cases[c].dtype;
        struct model *m =
            open_with(model_files_config, t, MODEL_FILES_TENSORS, cases[c].choice, &err);
        if (!m)
            test_fail(__FILE__, __LINE__, "%s", err.msg);
        ASSERT(m != NULL);
        EXPECT_EQ(m->dtype, cases[c].packed);
        EXPECT_EQ(m->embed.dtype, cases[c].packed);
        expect_all(m);
        EXPECT(m->layers[0].q.bias == NULL && m->layers[0].down.bias == NULL);
        model_free(m);
    }
}

TEST(hf_description_follows_the_config)
{
    struct err err = {0};
    struct model *m = open_with(model_files_config, model_files_tensors,
                                MODEL_FILES_TENSORS, DTYPE_CHOICE_AUTO, &err);
    ASSERT(m != NULL);
    const struct model_desc *d = &m->desc;
    EXPECT(d->n_layers == 1 && d->dim == 8 && d->n_heads == 2 && d->n_kv_heads == 1);
    EXPECT(d->head_dim == 4 && d->ffn == 6 && d->vocab == 5 && d->max_pos == 64);
    EXPECT(d->norm_eps == 1e-5f && !d->is_tied && !d->has_attn_bias && !d->has_mlp_bias);
    EXPECT(d->bos == 1 && d->n_eos == 1 && d->eos[0] == 2);
    EXPECT(m->inv_freq[0] == 1.0f && fabsf(m->inv_freq[1] - 0.01f) < 1e-9f);
    EXPECT_EQ(strlen(m->digest), DIGEST_HEX);
    model_free(m);
}

TEST(hf_biases_are_bound)
{
    struct file_tensor t[MODEL_FILES_TENSORS + MODEL_FILES_BIASES];
    memcpy(t, model_files_tensors, sizeof model_files_tensors);
    memcpy(t + MODEL_FILES_TENSORS, model_files_biases, sizeof model_files_biases);
    char *config =
        model_files_replace(model_files_config, "\"bos_token_id\"",
                            "\"attention_bias\":true,\"mlp_bias\":true,\"bos_token_id\"");
    struct err err = {0};
    struct model *m = open_with(config, t, MODEL_FILES_TENSORS + MODEL_FILES_BIASES,
                                DTYPE_CHOICE_AUTO, &err);
    free(config);
    ASSERT(m != NULL);
    const struct layer_weights *w = &m->layers[0];
    expect_vector(w->q.bias, L "self_attn.q_proj.bias", 8);
    expect_vector(w->k.bias, L "self_attn.k_proj.bias", 4);
    expect_vector(w->v.bias, L "self_attn.v_proj.bias", 4);
    expect_vector(w->o.bias, L "self_attn.o_proj.bias", 8);
    expect_vector(w->gate.bias, L "mlp.gate_proj.bias", 6);
    expect_vector(w->up.bias, L "mlp.up_proj.bias", 6);
    expect_vector(w->down.bias, L "mlp.down_proj.bias", 8);
    model_free(m);
}

/* The head is number 1 of the tensors; its values differ from the embeddings'. */
TEST(hf_tied_heads)
{
    char *tied =
        model_files_replace(model_files_config, "embeddings\":false", "embeddings\":true");
    struct file_tensor t[MODEL_FILES_TENSORS];
    struct err err = {0};
    t[0] = model_files_tensors[0];
    memcpy(t + 1, model_files_tensors + 2, (MODEL_FILES_TENSORS - 2) * sizeof t[0]);
    struct model *m = open_with(tied, t, MODEL_FILES_TENSORS - 1, DTYPE_CHOICE_AUTO, &err);
    ASSERT(m != NULL);
    EXPECT(m->desc.is_tied && m->head.data == m->embed.data);
    model_free(m);
    m = open_with(tied, model_files_tensors, MODEL_FILES_TENSORS, DTYPE_CHOICE_AUTO, &err);
    free(tied);
    ASSERT(m != NULL); /* another head than the embeddings counts, as in transformers 5 */
    EXPECT(!m->desc.is_tied);
    expect_matrix(&m->head, "lm_head.weight", 5, 8);
    model_free(m);
}

TEST(hf_rotary_buffers_are_ignored)
{
    struct file_tensor t[MODEL_FILES_TENSORS + 1];
    struct err err = {0};
    memcpy(t, model_files_tensors, sizeof model_files_tensors);
    t[MODEL_FILES_TENSORS] =
        (struct file_tensor){L "self_attn.rotary_emb.inv_freq", 1, {2, 0, 0}, "F32"};
    struct model *m =
        open_with(model_files_config, t, MODEL_FILES_TENSORS + 1, DTYPE_CHOICE_AUTO, &err);
    EXPECT(m != NULL);
    model_free(m);
}

TEST(hf_eos_is_a_union)
{
    char *config = model_files_replace(model_files_config, "\"eos_token_id\":2",
                                       "\"eos_token_id\":[2,3]");
    char *dir = model_files_dir();
    struct err err = {0};
    model_files_write_text(dir, "config.json", config);
    model_files_write_text(dir, "generation_config.json",
                           "{\"eos_token_id\":[4,2],\"top_p\":0.9}");
    model_files_write_tensors(dir, "model.safetensors", model_files_tensors,
                              MODEL_FILES_TENSORS);
    struct model *m = model_open(dir, DTYPE_CHOICE_AUTO, &err);
    free(config);
    model_files_remove(dir);
    ASSERT(m != NULL);
    EXPECT_EQ(m->desc.n_eos, 3);
    EXPECT(m->desc.eos[0] == 2 && m->desc.eos[1] == 3 && m->desc.eos[2] == 4);
    model_free(m);
}

static const struct config_reject {
    const char *from, *to, *says;
} config_rejects[] = {
    {"LlamaForCausalLM", "MistralForCausalLM", "\"MistralForCausalLM\"; accepted: LlamaForCausalLM"},
    {"[\"LlamaForCausalLM\"]", "null", "architectures"},
    {"[\"LlamaForCausalLM\"]", "[\"LlamaForCausalLM\",\"X\"]", "architectures"},
    {"[\"LlamaForCausalLM\"]", "[7]", "architectures"},
    {"\"llama\"", "\"gemma\"", "model_type is \"gemma\""},
    {"\"silu\"", "\"gelu\"", "hidden_act is \"gelu\"; accepted: silu"},
    {"\"hidden_size\":8", "\"hidden_size\":9", "hidden_size 9 is no multiple"},
    {"\"hidden_size\":8", "\"hidden_size\":8.5", "hidden_size must be a whole number"},
    {"\"hidden_size\":8", "\"hidden_size\":\"8\"", "hidden_size must be a whole number"},
    {"\"hidden_size\":8", "\"hidden_size\":2147483647,\"head_dim\":4", "hidden size is 2147483647"},
    {"\"hidden_size\":8", "\"hidden_size\":1e30", "hidden_size must be a whole number"},
    {"\"hidden_size\":8", "\"hidden_size\":8,\"hidden_size\":8", "config.json"},
    {"\"hidden_size\":8,", "", "hidden_size is missing"},
    {"\"hidden_size\":8", "\"hidden_size\":8,\"head_dim\":3", "head dimension is 3"},
    {"\"hidden_size\":8", "\"hidden_size\":8,\"head_dim\":8192", "head dimension is 8192"},
    {"\"num_hidden_layers\":1", "\"num_hidden_layers\":0", "number of layers is 0"},
    {"\"num_hidden_layers\":1", "\"num_hidden_layers\":-1", "num_hidden_layers"},
    {"\"num_hidden_layers\":1", "\"num_hidden_layers\":5000", "number of layers is 5000"},
    {"\"num_attention_heads\":2", "\"num_attention_heads\":0", "num_attention_heads 0"},
    {"\"num_key_value_heads\":1", "\"num_key_value_heads\":0", "key/value heads is 0"},
    {"heads\":2,\"num_key_value_heads\":1", "heads\":4,\"num_key_value_heads\":3", "no multiple of 3"},
    {"\"vocab_size\":5", "\"vocab_size\":16777217", "vocabulary size is 16777217"},
    {"\"intermediate_size\":6", "\"intermediate_size\":4194305", "feed-forward size is 4194305"},
    {"\"rms_norm_eps\":1e-05", "\"rms_norm_eps\":0", "norm epsilon"},
    {"\"rms_norm_eps\":1e-05", "\"rms_norm_eps\":\"x\"", "rms_norm_eps must be a number"},
    {"\"rope_theta\":10000.0", "\"rope_theta\":-1", "rope base"},
    {"\"tie_word_embeddings\":false", "\"tie_word_embeddings\":0", "tie_word_embeddings must be"},
    {"\"bos_token_id\":1", "\"quantization_config\":{\"bits\":4}", "quantization_config"},
    {"\"bos_token_id\":1", "\"partial_rotary_factor\":0.5", "partial_rotary_factor is 0.5"},
    {"\"bos_token_id\":1", "\"rope_scaling\":{\"type\":\"dynamic\",\"factor\":2}", "\"dynamic\""},
    {"\"bos_token_id\":1", "\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":2}", "\"yarn\""},
    {"\"bos_token_id\":1", "\"rope_parameters\":{\"rope_type\":\"longrope\"}", "\"longrope\""},
    {"\"bos_token_id\":1", "\"rope_parameters\":{\"partial_rotary_factor\":0.25}", "is 0.25"},
    {"\"bos_token_id\":1", "\"rope_parameters\":{\"full_attention\":{}}", "per layer type"},
    {"\"bos_token_id\":1", "\"rope_scaling\":7", "rope_scaling must be an object"},
    {"\"bos_token_id\":1", "\"rope_scaling\":{\"type\":\"linear\"}", "factor is missing"},
    {"\"bos_token_id\":1", "\"rope_scaling\":{\"type\":\"linear\",\"factor\":0}", "rope factor"},
    {"\"bos_token_id\":1", "\"rope_scaling\":{\"type\":\"llama3\",\"factor\":8}", "low_freq_factor"},
    {"\"bos_token_id\":1",
     "\"rope_scaling\":{\"type\":\"llama3\",\"factor\":8,\"low_freq_factor\":4,"
     "\"high_freq_factor\":4}", "0 < low < high"},
    {"\"eos_token_id\":2", "\"eos_token_id\":\"</s>\"", "eos_token_id"},
    {"\"eos_token_id\":2", "\"eos_token_id\":[-1]", "eos_token_id"},
    {"}", "", "config.json"},
    {"{", "[{", "config.json"},
};

TEST(hf_refuses_each_unsupported_config_by_name)
{
    for (size_t i = 0; i < sizeof config_rejects / sizeof config_rejects[0]; i++) {
        const struct config_reject *r = &config_rejects[i];
        char *config = model_files_replace(model_files_config, r->from, r->to);
        struct model_desc d;
        struct err err = {0};
        int rc = hf_config_parse(config, strlen(config), &d, &err);
        if (rc == 0 || !strstr(err.msg, r->says))
            test_fail(__FILE__, __LINE__, "%s: got \"%s\", expected \"%s\"", r->to,
                      rc == 0 ? "accepted" : err.msg, r->says);
        free(config);
    }
}

TEST(hf_reads_both_spellings_of_rope)
{
    static const struct {
        const char *keys;
        struct rope_desc want;
    } cases[] = {
        {"\"x\":1", {ROPE_DEFAULT, 10000, 0, 0, 0, 0}},
        {"\"rope_scaling\":null", {ROPE_DEFAULT, 10000, 0, 0, 0, 0}},
        {"\"rope_scaling\":{\"type\":\"linear\",\"factor\":4}",
         {ROPE_LINEAR, 10000, 4, 0, 0, 0}},
        {"\"rope_parameters\":{\"rope_type\":\"linear\",\"factor\":2,\"rope_theta\":500}",
         {ROPE_LINEAR, 500, 2, 0, 0, 0}},
        {"\"rope_parameters\":{\"rope_type\":\"llama3\",\"factor\":8,\"low_freq_factor\":1,"
         "\"high_freq_factor\":4,\"original_max_position_embeddings\":32,\"rope_theta\":"
         "5e5}",
         {ROPE_LLAMA3, 500000, 8, 1, 4, 32}},
        {"\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8,\"low_freq_factor\":1,"
         "\"high_freq_factor\":4}",
         {ROPE_LLAMA3, 10000, 8, 1, 4, 64}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char *config =
            model_files_replace(model_files_config, "\"bos_token_id\":1", cases[i].keys);
        struct model_desc d;
        struct err err = {0};
        EXPECT_EQ(hf_config_parse(config, strlen(config), &d, &err), 0);
        const struct rope_desc *w = &cases[i].want;
        EXPECT(d.rope.kind == w->kind && d.rope.theta == w->theta &&
               d.rope.factor == w->factor);
        EXPECT(d.rope.low_freq_factor == w->low_freq_factor);
        EXPECT(d.rope.high_freq_factor == w->high_freq_factor);
        EXPECT_EQ(d.rope.original_max_pos, w->original_max_pos);
        free(config);
    }
}

static void expect_refused(const char *config, const struct file_tensor *t, size_t n,
                           const char *says)
{
    struct err err = {0};
    struct model *m = open_with(config, t, n, DTYPE_CHOICE_AUTO, &err);
    if (m || !strstr(err.msg, says))
        test_fail(__FILE__, __LINE__, "got \"%s\", expected \"%s\"",
                  m ? "accepted" : err.msg, says);
    model_free(m);
}

TEST(hf_refuses_each_missing_tensor_by_name)
{
    for (int gone = 0; gone < MODEL_FILES_TENSORS; gone++) {
        struct file_tensor t[MODEL_FILES_TENSORS];
        char says[200];
        int n = 0;
        for (int i = 0; i < MODEL_FILES_TENSORS; i++)
            if (i != gone)
                t[n++] = model_files_tensors[i];
        snprintf(says, sizeof says, "tensor \"%s\" is missing",
                 model_files_tensors[gone].name);
        expect_refused(model_files_config, t, (size_t)n, says);
    }
}

TEST(hf_refuses_each_misshapen_tensor_by_name)
{
    for (int bad = 0; bad < MODEL_FILES_TENSORS; bad++) {
        struct file_tensor t[MODEL_FILES_TENSORS];
        char says[200];
        snprintf(says, sizeof says, "tensor \"%s\" has shape",
                 model_files_tensors[bad].name);
        memcpy(t, model_files_tensors, sizeof t);
        t[bad].dims[0]++;
        expect_refused(model_files_config, t, MODEL_FILES_TENSORS, says);
        t[bad].dims[0]--;
        /* A vector for a matrix, and the other way round. */
        t[bad].n_dims = 3 - t[bad].n_dims;
        t[bad].dims[1] = t[bad].n_dims == 2 ? 1 : 0;
        expect_refused(model_files_config, t, MODEL_FILES_TENSORS, says);
    }
}

TEST(hf_refuses_extra_tensors_by_name)
{
    static const struct {
        struct file_tensor t;
        const char *says;
    } extras[] = {
        {{"model.layers.1.input_layernorm.weight", 1, {8, 0, 0}, "F32"}, "is not one of a Llama"},
        {{"model.layers.00.input_layernorm.weight", 1, {8, 0, 0}, "F32"}, "is not one of a Llama"},
        {{"model.layers..input_layernorm.weight", 1, {8, 0, 0}, "F32"}, "is not one of a Llama"},
        {{L "self_attn.q_norm.weight", 1, {4, 0, 0}, "F32"}, "q_norm.weight\" is not one"},
        {{"score.weight", 2, {2, 8, 0}, "F32"}, "\"score.weight\" is not one"},
        {{L "self_attn.q_proj.bias", 1, {8, 0, 0}, "F32"}, "q_proj.bias\" does not fit"},
        {{L "mlp.down_proj.bias", 1, {8, 0, 0}, "F32"}, "down_proj.bias\" does not fit"},
        {{"a.weight", 3, {2, 2, 2}, "F32"}, "has 3 dimensions"},
        {{"a.weight", 1, {2, 0, 0}, "I32"}, "has dtype I32; accepted: F32, F16, BF16"},
    };
    for (size_t i = 0; i < sizeof extras / sizeof extras[0]; i++) {
        struct file_tensor t[MODEL_FILES_TENSORS + 1];
        memcpy(t, model_files_tensors, sizeof model_files_tensors);
        t[MODEL_FILES_TENSORS] = extras[i].t;
        expect_refused(model_files_config, t, MODEL_FILES_TENSORS + 1, extras[i].says);
    }
}

TEST(hf_refuses_a_bias_that_is_missing)
{
    char *config = model_files_replace(model_files_config, "\"bos_token_id\"",
                                       "\"attention_bias\":true,\"bos_token_id\"");
    expect_refused(config, model_files_tensors, MODEL_FILES_TENSORS,
                   "q_proj.bias\" is missing");
    free(config);
}

static const char index_text[] =
    "{\"metadata\":{\"total_size\":1},"
    "\"weight_map\":{%s\"model.embed_tokens.weight\":\"%s\"}}";

/* Two shards: the embeddings, and the rest. */
static void expect_shards(const char *embed_file, bool has_head, const char *says)
{
    struct buf map = {0}, index = {0};
    struct err err = {0};
    char *dir = model_files_dir();
    for (int i = has_head ? 1 : 2; i < MODEL_FILES_TENSORS; i++)
        buf_printf(&map, "\"%s\":\"b.safetensors\",", model_files_tensors[i].name);
    buf_printf(&index, index_text, map.data, embed_file);
    model_files_write_text(dir, "config.json", model_files_config);
    model_files_write_text(dir, "model.safetensors.index.json", index.data);
    model_files_write_tensors(dir, "a.safetensors", model_files_tensors, 1);
    model_files_write_tensors(dir, "b.safetensors", model_files_tensors + 1,
                              MODEL_FILES_TENSORS - 1);
    struct model *m = model_open(dir, DTYPE_CHOICE_AUTO, &err);
    if (says ? m || !strstr(err.msg, says) : !m)
        test_fail(__FILE__, __LINE__, "got \"%s\", expected \"%s\"",
                  m ? "accepted" : err.msg, says ? says : "to load");
    if (m)
        expect_all(m);
    model_free(m);
    model_files_remove(dir);
    buf_free(&map);
    buf_free(&index);
}

TEST(hf_shards_and_their_index)
{
    expect_shards("a.safetensors", true, NULL);
    expect_shards("b.safetensors", true,
                  "\"model.embed_tokens.weight\" is missing from b.");
    expect_shards("a.safetensors", false, "but the index lists 10");
    expect_shards("c.safetensors", true, "c.safetensors: No such file");
    expect_shards("../a.safetensors", true, "plain file name");
    expect_shards("/etc/passwd", true, "plain file name");
    expect_shards("", true, "plain file name");
}

TEST(hf_refuses_directories_without_weights)
{
    struct err err = {0};
    EXPECT(open_with(model_files_config, NULL, 0, DTYPE_CHOICE_AUTO, &err) == NULL);
    EXPECT(strstr(err.msg, "has no model.safetensors") != NULL);
    char *dir = model_files_dir();
    EXPECT(model_open(dir, DTYPE_CHOICE_AUTO, &err) == NULL);
    EXPECT(strstr(err.msg, "has no config.json") && strstr(err.msg, ".gguf file is accepted"));
    model_files_write_text(dir, "config.json", model_files_config);
    model_files_write_text(dir, "model.safetensors", "");
    EXPECT(model_open(dir, DTYPE_CHOICE_AUTO, &err) == NULL);
    EXPECT(strstr(err.msg, "model.safetensors is empty") != NULL);
    model_files_remove(dir);
    EXPECT(model_open("/nonexistent", DTYPE_CHOICE_AUTO, &err) == NULL);
    EXPECT_EQ(err.code, ERR_NOT_FOUND);
    EXPECT(strstr(err.msg, ".gguf file is accepted") != NULL);
}
