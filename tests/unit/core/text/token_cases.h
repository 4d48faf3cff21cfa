/* Token vectors as the golden files hold them, and what is checked for each.
 *
 *     cJSON *root = token_cases_read(path);
 *     int n_checked = token_cases_check(tokenizer, cJSON_GetObjectItem(root, "cases"),
 * "gpt2");
 */
#ifndef PREFIXD_TEST_TOKEN_CASES_H
#define PREFIXD_TEST_TOKEN_CASES_H

#include "core/base/buf.h"
#include "core/tokenizer.h"

#include <stdbool.h>

struct cJSON;

bool token_cases_load(const char *path, struct buf *out); /* a file's bytes, or false */
struct cJSON *token_cases_read(const char *path);         /* NULL: no such file */

/* Both directions, special tokens on and off, and streaming over every case. Gives their
 * number. */
int token_cases_check(const struct tokenizer *t, const struct cJSON *cases,
                      const char *name);

/* Streams ids[n_prompt..n) after the prompt ids[0..n_prompt), and compares with whole
 * decodes. */
void token_cases_stream(const struct tokenizer *t, const int32_t *ids, size_t n,
                        size_t n_prompt, const char *name);

#endif
