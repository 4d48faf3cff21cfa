/* Small model files written on the fly: right ones, and ones with one thing wrong. */
#ifndef PREFIXD_MODEL_FILES_H
#define PREFIXD_MODEL_FILES_H

#include "core/base/buf.h"
#include "core/base/dtype.h"

#include <stddef.h>
#include <stdint.h>

/* --- Hugging Face: dim 8, 2 heads / 1 kv head of 4, ffn 6, vocab 5, layers 1 or 2 --- */

struct file_tensor {
    const char *name;
    int n_dims, dims[3];
    const char *dtype;
};

enum { MODEL_FILES_TENSORS = 12, MODEL_FILES_BIASES = 7 };

/* Untied, one layer, without biases; then the biases. All F32. */
extern const struct file_tensor model_files_tensors[MODEL_FILES_TENSORS];
extern const struct file_tensor model_files_biases[MODEL_FILES_BIASES];
extern const char model_files_config[];

/* Element i of a tensor: exact in every format. */
float model_files_value(const char *name, size_t i);

/* A new folder under /tmp; model_files_remove deletes it and what is in it. */
char *model_files_dir(void);
void model_files_remove(char *dir);

void model_files_write(const char *dir, const char *name, const void *bytes, size_t len);
void model_files_write_text(const char *dir, const char *name, const char *text);
void model_files_write_tensors(const char *dir, const char *name,
                               const struct file_tensor *t, size_t n);

/* text with the one place where `from` stands replaced; caller frees. */
char *model_files_replace(const char *text, const char *from, const char *to);

/* --- GGUF: the pieces of a file, put together by gguf_file_bytes --- */

struct gguf_file {
    struct buf values, infos, data;
    uint64_t n_values, n_tensors;
    uint32_t version;
};

void gguf_file_u32(struct gguf_file *g, const char *key, uint32_t v);
void gguf_file_f32(struct gguf_file *g, const char *key, float v);
void gguf_file_string(struct gguf_file *g, const char *key, const char *v);
/* type: the number in the file. rows: dims[1] (0 for a vector). bytes: the stored data. */
void gguf_file_tensor(struct gguf_file *g, const char *name, uint32_t type, uint64_t cols,
                      uint64_t rows, const void *bytes, size_t len);
void gguf_file_bytes(struct gguf_file *g, struct buf *out);
void gguf_file_free(struct gguf_file *g);

#endif
