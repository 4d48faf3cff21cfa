/* Holds the two files that PEFT saves against each other and against the base model's
 * shape.
 *
 * Thread: any. Sources: huggingface/peft 0.21, save_and_load.py
 * and the prompt-learning tuners; one tensor prompt_embeddings per adapter, two more for
 * MULTITASK. */
#ifndef PREFIXD_PEFT_FILES_H
#define PREFIXD_PEFT_FILES_H

#include "adapters/spec.h"

#define PEFT_FILES_PICKLE \
    "pickle files are refused: save with safe_serialization=True (safetensors)"

/* Older formats of the weights, of which only the names are looked at. */
#define PEFT_FILES_PICKLES {"adapter_model.bin", "adapter_model.pt"}

/* Fills s; -1 with ERR_ADAPTER naming what contradicts what. */
int peft_files_check(struct adapter_spec *s, const struct adapter_file *config,
                     const struct adapter_file *weights, const struct spec_limits *lim,
                     struct err *err);

#endif
