/* The tiny models that tests run on, and prefixes made for them. */
#include "tests/support/tiny.h"

#include <stdio.h>
#include <stdlib.h>

#include "core/base/check.h"
#include "core/base/mem.h"
#include "tests/test.h"

struct base_model *tiny_open(const char *rel)
{
    return tiny_open_as(rel, DTYPE_CHOICE_AUTO);
}

struct base_model *tiny_open_as(const char *rel, enum dtype_choice dtype)
{
    struct err err = {0};
    char *path = test_path(rel);
    struct base_model *b = base_model_open(path, dtype, &err);
    if (!b)
        fprintf(stderr, "%s: %s\n", path, err.msg);
    CHECK(b != NULL);
    free(path);
    return b;
}

struct kv_prefix *tiny_prefix(const struct base_model *b, struct rng *r, int n_tokens)
{
    const struct model_shape *s = base_model_shape(b);
    struct err err = {0};
    size_t n = (size_t)n_tokens * (size_t)(s->n_layers * 2 * s->n_kv_heads * s->head_dim);
    float *kv = xcalloc(n, sizeof *kv);
    rng_fill(r, kv, n, 1);
    struct kv_prefix *p = kv_prefix_from_kv(b, kv, n_tokens, &err);
    free(kv);
    CHECK(p != NULL);
    return p;
}

int32_t *tiny_ids(const struct base_model *b, struct rng *r, int n)
{
    int32_t *ids = xcalloc((size_t)n, sizeof *ids);
    for (int i = 0; i < n; i++)
        ids[i] = rng_below(r, base_model_shape(b)->vocab);
    return ids;
}

int tiny_scaled(int n)
{
    const char *slow = getenv("PREFIXD_TEST_SLOW");
    double factor = slow ? atof(slow) : 1;
    if (factor > 1)
        n = (int)(n / factor);
    return n > 0 ? n : 1;
}
