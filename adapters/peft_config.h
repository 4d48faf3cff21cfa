/* Reads an adapter_config.json that nobody vouches for into a checked struct.
 *
 * Thread: any. Every field but peft_type may be absent; fields
 * that only matter for training are ignored, as PEFT ignores them at inference. Numbers are
 * plain integers in a range in which no product of them overflows 64 bits. Source:
 * huggingface/peft 0.21, config.py and the configs of src/peft/tuners. */
#ifndef PREFIXD_PEFT_CONFIG_H
#define PREFIXD_PEFT_CONFIG_H

#include <stddef.h>
#include <stdint.h>

#include "adapters/kind.h"
#include "core/base/err.h"

enum { PEFT_ABSENT = -1, PEFT_CONFIG_MAX_BYTES = 1 << 20 };

struct peft_config {
    enum kind kind;
    int64_t num_virtual_tokens, token_dim, num_layers, num_attention_heads; /* or PEFT_ABSENT */
    int64_t num_tasks, num_ranks;  /* MULTITASK_PROMPT_TUNING */
    int64_t num_frozen_tokens;     /* CARTRIDGE */
    int64_t n_cpt_token_ids;       /* CPT: length of the list */
    char *base_hint;               /* base_model_name_or_path or NULL; owned */
};

/* -1 with ERR_ADAPTER naming the field. */
int peft_config_parse(struct peft_config *c, const void *bytes, size_t len, struct err *err);
void peft_config_fini(struct peft_config *c);

#endif
