/* Adapter files made on the fly for tests: configs, safetensors, temporary folders. */
#ifndef PREFIXD_TEST_ADAPTER_FILES_H
#define PREFIXD_TEST_ADAPTER_FILES_H

#include "core/base/buf.h"

/* A safetensors file with tensors described as "name:F32:5,64 name2:BF16:3" (no dims: rank
 * 0). Data is a small number that differs from element to element, in the tensor's own
 * type. */
void adapter_files_tensors(struct buf *out, const char *tensors);

/* A safetensors file of exactly this header and n_data zero bytes. */
void adapter_files_raw(struct buf *out, const char *header, size_t header_len, size_t n_data);

/* A PEFT config of kind with P and whatever follows: ", \"token_dim\": 64". */
void adapter_files_config(struct buf *out, const char *peft_type, int n_tokens, const char *more);

char *adapter_files_tmp_dir(void); /* a new empty folder; caller frees */
void adapter_files_write(const char *dir, const char *name, const void *bytes, size_t len);
void adapter_files_make_dir(const char *dir, const char *name);
void adapter_files_remove_dir(const char *dir); /* with everything in it */

#endif
