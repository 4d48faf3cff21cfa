/* The tokenizer that a GGUF file carries in its metadata (kind "gpt2": byte-level BPE).
 *
 * Thread: boot. */
#ifndef PREFIXD_GGUF_TOKENIZER_H
#define PREFIXD_GGUF_TOKENIZER_H

#include "core/base/err.h"

struct tokenizer;

struct tokenizer *gguf_tokenizer_open(const char *path, struct err *err);

#endif
