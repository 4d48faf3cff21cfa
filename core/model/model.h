/* The base model as the forward pass reads it: a description, and weights packed once into an image.
 *
 * Thread: opened at boot; immutable afterwards, so any thread may read. Every pointer lives until
 * model_free. Sources: Hugging Face directories (config.json + safetensors) and GGUF files of
 * architecture llama; what is not supported is refused by name, never half-loaded.
 *
 * Packed matrices ("panels"): y = W x with W of shape [n_out, n_in]. Sixteen outputs form a panel, and
 * inside it the inputs follow each other, sixteen outputs side by side; of bf16 two by two, as the CPU's
 * instruction for them wants it:
 *     f32:  W[o][i] is element ((o / 16) * n_in + i) * 16 + o % 16
 *     bf16: W[o][i] is element (((o / 16) * ((n_in + 1) / 2) + i / 2) * 16 + o % 16) * 2 + i % 2
 *     int8, int4: whole numbers with scales among them, see core/kernels/quant.h
 * n_out is padded with zero rows to a multiple of 16. A kernel reads a panel front to back and keeps one
 * output per vector lane, so the order of additions of an output depends on nothing but n_in.
 */
#ifndef PREFIXD_MODEL_H
#define PREFIXD_MODEL_H

#include "core/base/digest.h"
#include "core/base/dtype.h"
#include "core/base/err.h"
#include "core/base_model.h"
#include "core/kernels/quant.h"
#include "core/tokenizer.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { PANEL = 16, MODEL_MAX_EOS = 32 };

enum rope_kind { ROPE_DEFAULT, ROPE_LINEAR, ROPE_LLAMA3 };

struct rope_desc { /* scaling as in transformers' modeling_rope_utils */
    enum rope_kind kind;
    double theta, factor, low_freq_factor, high_freq_factor;
    int original_max_pos;
};

struct model_desc {
    int n_layers, dim, n_heads, n_kv_heads, head_dim, ffn, vocab, max_pos;
    float norm_eps;
    bool is_tied;
    bool has_attn_bias; /* q, k, v and o */
    bool has_mlp_bias;  /* gate, up and down */
    struct rope_desc rope;
    int32_t bos;        /* -1: none */
    int32_t eos[MODEL_MAX_EOS]; /* union of generation_config.json, config.json, GGUF eos and eot */
    int n_eos;
};

struct matrix {
    enum dtype dtype; /* not F16 */
    int n_out, n_in;
    const void *data; /* panels, 64-byte aligned */
};

/* Of dtype_size(t) bytes each. */
static inline size_t matrix_panel_elems(enum dtype t, size_t n_in)
{
    if (t == DTYPE_INT8 || t == DTYPE_INT4)
        return quant_panel_bytes(t, n_in);
    return (t == DTYPE_BF16 ? (n_in + 1) / 2 * 2 : n_in) * PANEL;
}

struct linear {
    struct matrix w;
    const float *bias; /* [n_out] or NULL */
};

struct layer_weights {
    const float *attn_norm, *ffn_norm; /* [dim] */
    struct linear q, k, v, o;          /* [H*Dh, dim], [Hk*Dh, dim] x2, [dim, H*Dh] */
    struct linear gate, up, down;      /* [ffn, dim] x2, [dim, ffn] */
};

struct model {
    struct model_desc desc;
    enum dtype dtype;           /* of the layers' matrices */
    struct matrix embed;        /* [vocab, dim]; token rows are gathered from the panels */
    struct matrix head;         /* the same matrix when tied */
    const float *final_norm;    /* [dim] */
    const float *inv_freq;      /* [head_dim / 2], rope scaling applied */
    const struct layer_weights *layers; /* [n_layers] */
    size_t image_bytes;
    char digest[DIGEST_HEX + 1]; /* of description, dtype and packed weights */
    struct model_image *image;  /* owns the memory */
};


/* path: a Hugging Face directory or a .gguf file. AUTO: F32 stays f32, BF16 and F16 become bf16 (with a
 * log line for F16), quantised GGUF becomes bf16. */
struct model *model_open(const char *path, enum dtype_choice choice, struct err *err);
void model_free(struct model *m);

/* model_open is opening a source (core/model/source.h), then this, which takes long. */
struct source;
struct model *model_pack(const struct source *src, enum dtype_choice choice,
                         struct err *err);

/* A model over a packed image (core/model/image.h), which it owns from then on; on failure
 * the caller keeps the image. model_pack is packing, then this. */
struct model_image;
struct model *model_bind(struct model_image *image, struct err *err);

/* A second model over the memory of m's image: mapped anew, seals and image checked. m may
 * come from a process that this one was forked from. */
struct model *model_attach(const struct model *m, struct err *err);

/* The weights inside a base model: for the engine's own files only. Borrowed while b lives. */
const struct model *base_model_weights(const struct base_model *b);

/* The tokenizer that belongs to the model at path (tokenizer.json beside it, or GGUF metadata). */
struct tokenizer *model_open_tokenizer(const char *path, struct err *err);

#endif
