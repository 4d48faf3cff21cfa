/* Writing of small Hugging Face and GGUF models. */
#include "tests/unit/core/model/model_files.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/check.h"
#include "core/base/mem.h"

#define LAYER "model.layers.0."

const struct file_tensor model_files_tensors[MODEL_FILES_TENSORS] = {
    {"model.embed_tokens.weight", 2, {5, 8, 0}, "F32"},
    {"lm_head.weight", 2, {5, 8, 0}, "F32"},
    {"model.norm.weight", 1, {8, 0, 0}, "F32"},
    {LAYER "input_layernorm.weight", 1, {8, 0, 0}, "F32"},
    {LAYER "post_attention_layernorm.weight", 1, {8, 0, 0}, "F32"},
    {LAYER "self_attn.q_proj.weight", 2, {8, 8, 0}, "F32"},
    {LAYER "self_attn.k_proj.weight", 2, {4, 8, 0}, "F32"},
    {LAYER "self_attn.v_proj.weight", 2, {4, 8, 0}, "F32"},
    {LAYER "self_attn.o_proj.weight", 2, {8, 8, 0}, "F32"},
    {LAYER "mlp.gate_proj.weight", 2, {6, 8, 0}, "F32"},
    {LAYER "mlp.up_proj.weight", 2, {6, 8, 0}, "F32"},
    {LAYER "mlp.down_proj.weight", 2, {8, 6, 0}, "F32"},
};

const struct file_tensor model_files_biases[MODEL_FILES_BIASES] = {
    {LAYER "self_attn.q_proj.bias", 1, {8, 0, 0}, "F32"},
    {LAYER "self_attn.k_proj.bias", 1, {4, 0, 0}, "F32"},
    {LAYER "self_attn.v_proj.bias", 1, {4, 0, 0}, "F32"},
    {LAYER "self_attn.o_proj.bias", 1, {8, 0, 0}, "F32"},
    {LAYER "mlp.gate_proj.bias", 1, {6, 0, 0}, "F32"},
    {LAYER "mlp.up_proj.bias", 1, {6, 0, 0}, "F32"},
    {LAYER "mlp.down_proj.bias", 1, {8, 0, 0}, "F32"},
};

const char model_files_config[] =
    "{\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\","
    "\"hidden_act\":\"silu\","
    "\"hidden_size\":8,\"intermediate_size\":6,\"num_hidden_layers\":1,"
    "\"num_attention_heads\":2,\"num_key_value_heads\":1,\"vocab_size\":5,"
    "\"max_position_embeddings\":64,\"rms_norm_eps\":1e-05,\"rope_theta\":10000.0,"
    "\"tie_word_embeddings\":false,\"bos_token_id\":1,\"eos_token_id\":2}";

float model_files_value(const char *name, size_t i)
{
    size_t h = i * 37;
    for (; *name; name++)
        h = h * 31 + (unsigned char)*name;
    return ((float)(h % 101) - 50) / 16;
}

char *model_files_dir(void)
{
    char *dir = xstrdup("/tmp/prefixd-test-XXXXXX");
    CHECK(mkdtemp(dir) != NULL);
    return dir;
}

void model_files_remove(char *dir)
{
    char path[512];
    DIR *d = opendir(dir);
    CHECK(d != NULL);
    for (struct dirent *e; (e = readdir(d));) {
        snprintf(path, sizeof path, "%s/%s", dir, e->d_name);
        if (e->d_name[0] != '.')
            unlink(path);
    }
    closedir(d);
    rmdir(dir);
    free(dir);
}

void model_files_write(const char *dir, const char *name, const void *bytes, size_t len)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "wb");
    CHECK(f != NULL && fwrite(bytes, 1, len, f) == len);
    fclose(f);
}

void model_files_write_text(const char *dir, const char *name, const char *text)
{
    model_files_write(dir, name, text, strlen(text));
}

/* f is a multiple of 1/16 below 4 in size: 6 bits of mantissa. */
static uint16_t exact_f16(float f)
{
    for (uint32_t h = 0; h < 0x10000; h++)
        if (f16_to_f32((uint16_t)h) == f)
            return (uint16_t)h;
    CHECK(!"not exact in f16");
    return 0;
}

static void add_value(struct buf *b, const char *dtype, float f)
{
    uint16_t h = dtype[0] == 'B'             ? f32_to_bf16(f)
                 : strcmp(dtype, "F16") == 0 ? exact_f16(f)
                                             : 0;
    if (strcmp(dtype, "F32") == 0)
        buf_add(b, &f, sizeof f);
    else if (h || f == 0)
        buf_add(b, &h, sizeof h);
}

static void add_tensor(struct buf *header, struct buf *data, const struct file_tensor *t)
{
    size_t begin = data->len, n = 1;
    buf_printf(header, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[", header->len > 1 ? "," : "",
               t->name, t->dtype);
    for (int i = 0; i < t->n_dims; i++) {
        n *= (size_t)t->dims[i];
        buf_printf(header, "%s%d", i ? "," : "", t->dims[i]);
    }
    if (strcmp(t->dtype, "I32") == 0)
        for (size_t i = 0; i < n; i++)
            buf_add(data, "\0\0\0", 4);
    else
        for (size_t i = 0; i < n; i++)
            add_value(data, t->dtype, model_files_value(t->name, i));
    buf_printf(header, "],\"data_offsets\":[%zu,%zu]}", begin, data->len);
}

void model_files_write_tensors(const char *dir, const char *name,
                               const struct file_tensor *t, size_t n)
{
    struct buf header = {0}, data = {0}, file = {0};
    buf_add_char(&header, '{');
    for (size_t i = 0; i < n; i++)
        add_tensor(&header, &data, &t[i]);
    buf_add_char(&header, '}');
    uint64_t len = header.len;
    buf_add(&file, &len, sizeof len);
    buf_add(&file, header.data, header.len);
    buf_add(&file, data.data, data.len);
    model_files_write(dir, name, file.data, file.len);
    buf_free(&header);
    buf_free(&data);
    buf_free(&file);
}

char *model_files_replace(const char *text, const char *from, const char *to)
{
    struct buf out = {0};
    const char *at = strstr(text, from);
    CHECK(at != NULL);
    buf_add(&out, text, (size_t)(at - text));
    buf_add_str(&out, to);
    buf_add_str(&out, at + strlen(from));
    return buf_take(&out, NULL);
}

static void add_string(struct buf *b, const char *s)
{
    uint64_t len = strlen(s);
    buf_add(b, &len, sizeof len);
    buf_add_str(b, s);
}

static void add_value_head(struct gguf_file *g, const char *key, uint32_t type)
{
    add_string(&g->values, key);
    buf_add(&g->values, &type, sizeof type);
    g->n_values++;
}

void gguf_file_u32(struct gguf_file *g, const char *key, uint32_t v)
{
    add_value_head(g, key, 4);
    buf_add(&g->values, &v, sizeof v);
}

void gguf_file_f32(struct gguf_file *g, const char *key, float v)
{
    add_value_head(g, key, 6);
    buf_add(&g->values, &v, sizeof v);
}

void gguf_file_string(struct gguf_file *g, const char *key, const char *v)
{
    add_value_head(g, key, 8);
    add_string(&g->values, v);
}

void gguf_file_tensor(struct gguf_file *g, const char *name, uint32_t type, uint64_t cols,
                      uint64_t rows, const void *bytes, size_t len)
{
    uint32_t n_dims = rows ? 2 : 1;
    while (g->data.len % 32)
        buf_add_char(&g->data, '\0');
    uint64_t offset = g->data.len;
    add_string(&g->infos, name);
    buf_add(&g->infos, &n_dims, sizeof n_dims);
    buf_add(&g->infos, &cols, sizeof cols);
    if (rows)
        buf_add(&g->infos, &rows, sizeof rows);
    buf_add(&g->infos, &type, sizeof type);
    buf_add(&g->infos, &offset, sizeof offset);
    buf_add(&g->data, bytes, len);
    g->n_tensors++;
}

void gguf_file_bytes(struct gguf_file *g, struct buf *out)
{
    uint32_t version = g->version ? g->version : 3;
    buf_add_str(out, "GGUF");
    buf_add(out, &version, sizeof version);
    buf_add(out, &g->n_tensors, sizeof g->n_tensors);
    buf_add(out, &g->n_values, sizeof g->n_values);
    if (g->values.len)
        buf_add(out, g->values.data, g->values.len);
    if (g->infos.len)
        buf_add(out, g->infos.data, g->infos.len);
    while (out->len % 32)
        buf_add_char(out, '\0');
    if (g->data.len)
        buf_add(out, g->data.data, g->data.len);
}

void gguf_file_free(struct gguf_file *g)
{
    buf_free(&g->values);
    buf_free(&g->infos);
    buf_free(&g->data);
}
