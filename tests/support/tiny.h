/* The tiny models that tests run on, and prefixes made for them. */
#ifndef PREFIXD_TEST_TINY_H
#define PREFIXD_TEST_TINY_H

#include "core/engine.h"
#include "tests/support/rng.h"

#define TINY_GQA "tests/golden/models/gqa" /* 3 layers, head_dim 16, 256 positions, f32 */
#define TINY_WIDE                                                                          \
    "tests/golden/models/wide"      /* 2 layers, head_dim 32, biases, 3 KV heads, f32 */
#define TINY_DEMO "demo/tiny/model" /* 4 layers, head_dim 32, 2048 positions, bf16 */

/* Opens a model of the project; stops the program if it is not there. */
struct base_model *tiny_open(const char *rel);
struct base_model *tiny_open_as(const char *rel, enum dtype_choice dtype);

/* Random raw keys and values. */
struct kv_prefix *tiny_prefix(const struct base_model *b, struct rng *r, int n_tokens);

/* n random token ids; caller frees. */
int32_t *tiny_ids(const struct base_model *b, struct rng *r, int n);

/* n divided by PREFIXD_TEST_SLOW (for sanitizers), at least 1. */
int tiny_scaled(int n);

#endif
