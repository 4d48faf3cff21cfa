/* A Hugging Face directory as a source: configuration, then model.safetensors or the
 * shards of its index.
 *
 * Thread: boot (it parses JSON). */
#ifndef PREFIXD_HF_TENSORS_H
#define PREFIXD_HF_TENSORS_H

#include "core/base/err.h"

struct source;

struct source *hf_tensors_open(const char *dir, struct err *err);

#endif
