/* A GGUF file of architecture llama as a source.
 *
 * Thread: boot. Metadata that would change the computation and is not implemented is
 * refused by name. */
#ifndef PREFIXD_GGUF_MODEL_H
#define PREFIXD_GGUF_MODEL_H

#include "core/base/err.h"

struct source;

struct source *gguf_model_open(const char *path, struct err *err);

#endif
