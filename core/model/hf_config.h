/* config.json and generation_config.json of a Hugging Face directory as a model
 * description.
 *
 * Thread: boot (it parses JSON). The bytes are checked before they are believed;
 * settings that would change the computation and are not implemented are refused by
 * name. */
#ifndef PREFIXD_HF_CONFIG_H
#define PREFIXD_HF_CONFIG_H

#include "core/base/err.h"
#include "core/model/model.h"

#include <stddef.h>

int hf_config_parse(const char *json, size_t len, struct model_desc *out, struct err *err);

/* Adds the end-of-sequence ids of a generation_config.json. */
int hf_config_add_generation(const char *json, size_t len, struct model_desc *desc,
                             struct err *err);

#endif
