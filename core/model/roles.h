/* What tensors a model of the Llama family consists of: their roles, names in files, and
 * shapes.
 *
 * Thread: any; pure functions. A slot numbers one tensor of one model: the global roles
 * first, then every layer's. Sources and images are tables over slots. */
#ifndef PREFIXD_ROLES_H
#define PREFIXD_ROLES_H

#include "core/base/err.h"
#include "core/model/model.h"

#include <stdbool.h>
#include <stddef.h>

/* role, name in Hugging Face files, name in GGUF files; %d is the layer. INV_FREQ is
 * computed. */
#define ROLES_GLOBAL(XX)                                                                   \
    XX(EMBED, "model.embed_tokens.weight", "token_embd.weight")                            \
    XX(HEAD, "lm_head.weight", "output.weight")                                            \
    XX(FINAL_NORM, "model.norm.weight", "output_norm.weight")                              \
    XX(INV_FREQ, "", "")
#define ROLES_LAYER(XX)                                                                    \
    XX(ATTN_NORM, "model.layers.%d.input_layernorm.weight", "blk.%d.attn_norm.weight")     \
    XX(FFN_NORM, "model.layers.%d.post_attention_layernorm.weight",                        \
       "blk.%d.ffn_norm.weight")                                                           \
    XX(Q, "model.layers.%d.self_attn.q_proj.weight", "blk.%d.attn_q.weight")               \
    XX(K, "model.layers.%d.self_attn.k_proj.weight", "blk.%d.attn_k.weight")               \
    XX(V, "model.layers.%d.self_attn.v_proj.weight", "blk.%d.attn_v.weight")               \
    XX(O, "model.layers.%d.self_attn.o_proj.weight", "blk.%d.attn_output.weight")          \
    XX(GATE, "model.layers.%d.mlp.gate_proj.weight", "blk.%d.ffn_gate.weight")             \
    XX(UP, "model.layers.%d.mlp.up_proj.weight", "blk.%d.ffn_up.weight")                   \
    XX(DOWN, "model.layers.%d.mlp.down_proj.weight", "blk.%d.ffn_down.weight")             \
    XX(Q_BIAS, "model.layers.%d.self_attn.q_proj.bias", "blk.%d.attn_q.bias")              \
    XX(K_BIAS, "model.layers.%d.self_attn.k_proj.bias", "blk.%d.attn_k.bias")              \
    XX(V_BIAS, "model.layers.%d.self_attn.v_proj.bias", "blk.%d.attn_v.bias")              \
    XX(O_BIAS, "model.layers.%d.self_attn.o_proj.bias", "blk.%d.attn_output.bias")         \
    XX(GATE_BIAS, "model.layers.%d.mlp.gate_proj.bias", "blk.%d.ffn_gate.bias")            \
    XX(UP_BIAS, "model.layers.%d.mlp.up_proj.bias", "blk.%d.ffn_up.bias")                  \
    XX(DOWN_BIAS, "model.layers.%d.mlp.down_proj.bias", "blk.%d.ffn_down.bias")

enum role {
#define XX(role, hf, gguf) ROLE_##role,
    ROLES_GLOBAL(XX) ROLES_LAYER(XX)
#undef XX
    N_ROLES,
    N_GLOBAL_ROLES = ROLE_ATTN_NORM,
    N_LAYER_ROLES = N_ROLES - N_GLOBAL_ROLES,
};

enum role_names { ROLE_NAMES_HF, ROLE_NAMES_GGUF };

struct role_shape {
    int n_out, n_in; /* a vector has n_in = 0 */
};

size_t roles_n_slots(const struct model_desc *d);
size_t roles_slot(enum role role, int layer);
enum role roles_of_slot(size_t slot, int *layer);

/* Whether a model of this description has the tensor; INV_FREQ always, HEAD unless tied. */
bool roles_is_expected(const struct model_desc *d, enum role role);
bool roles_is_matrix(enum role role);
struct role_shape roles_shape(const struct model_desc *d, enum role role);

/* The name of a slot's tensor in files. */
void roles_name(enum role_names names, size_t slot, char *out, size_t size);

/* The slot of a named tensor; false if no tensor of a model with n_layers has that name. */
bool roles_find(enum role_names names, const char *name, int n_layers, size_t *slot);

#endif
