/* A GGUF file of architecture llama as a source. */
#include "core/model/gguf_model.h"

#include <stddef.h>

struct source *gguf_model_open(const char *path, struct err *err)
{
    (void)path;
    err_set(err, ERR_INVALID, "GGUF files are not supported");
    return NULL;
}

struct tokenizer *gguf_model_open_tokenizer(const char *path, struct err *err)
{
    (void)path;
    err_set(err, ERR_INVALID, "GGUF files are not supported");
    return NULL;
}
