/* PUBLIC. The frozen base model as other folders see it: its shape, its tokenizer, its identity.
 *
 * Thread: opened at boot; immutable afterwards, any thread may read. Lives until base_model_free, which
 * comes after engine_close.
 *
 *     struct base_model *b = base_model_open("models/SmolLM2", DTYPE_CHOICE_AUTO, &err);
 */
#ifndef PREFIXD_BASE_MODEL_H
#define PREFIXD_BASE_MODEL_H

#include "core/base/digest.h"
#include "core/base/dtype.h"
#include "core/base/err.h"
#include "core/tokenizer.h"

enum dtype_choice {
    DTYPE_CHOICE_AUTO,
    DTYPE_CHOICE_F32,
    DTYPE_CHOICE_BF16,
    DTYPE_CHOICE_INT8,
    DTYPE_CHOICE_INT4,
};

struct model_shape {
    int n_layers, dim, n_heads, n_kv_heads, head_dim, vocab, max_pos;
    enum dtype weight_dtype;
    enum dtype kv_dtype; /* of the KV pool and of every prefix: f32 for f32 weights, else bf16 */
    size_t weight_bytes;
    char digest[DIGEST_HEX + 1]; /* the model's identity: adapters are compiled for it */
};

struct base_model;

/* "f32", "bf16", "int8" or "int4"; anything else is AUTO. */
enum dtype_choice base_model_dtype_choice(const char *name);

/* path: a Hugging Face directory or a .gguf file (see core/model/model.h for what is accepted). */
struct base_model *base_model_open(const char *path, enum dtype_choice choice, struct err *err);
void base_model_free(struct base_model *b);

/* For a process that was forked with b: maps the weights anew from the sealed memory they
 * lie in, after checking that it is sealed and whole. No reader of b may be about. */
int base_model_attach(struct base_model *b, struct err *err);

const struct model_shape *base_model_shape(const struct base_model *b);
const struct tokenizer *base_model_tokenizer(const struct base_model *b);
bool base_model_is_eos(const struct base_model *b, int32_t id);

#endif
