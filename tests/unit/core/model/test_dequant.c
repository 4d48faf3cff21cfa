/* Dequantised values against the reference implementation: hashes of whole tensors, and
 * single blocks. */
#include "core/model/dequant.h"

#include <cjson/cJSON.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/digest.h"
#include "core/base/mem.h"
#include "core/model/gguf.h"
#include "core/model/mapped_file.h"
#include "tests/test.h"

TEST(dequant_single_blocks)
{
    unsigned char q8[34] = {0x00, 0x38, 0x80, 0x7f}; /* d = 0.5 */
    unsigned char q40[18] = {0x00, 0x40, 0xf0};      /* d = 2, nibbles 0 and 15 */
    unsigned char q41[20] = {0x00, 0x40, 0x00, 0xbc, 0xf1}; /* d = 2, m = -1 */
    float out[32];
    dequant(FORMAT_Q8_0, q8, out, 32);
    EXPECT(out[0] == -64.0f && out[1] == 63.5f && out[2] == 0.0f);
    dequant(FORMAT_Q4_0, q40, out, 32);
    EXPECT(out[0] == -16.0f && out[16] == 14.0f && out[1] == -16.0f);
    dequant(FORMAT_Q4_1, q41, out, 32);
    EXPECT(out[0] == 1.0f && out[16] == 29.0f && out[1] == -1.0f);
}

TEST(dequant_sizes)
{
    size_t bytes;
    EXPECT(dequant_bytes(FORMAT_Q4_1, 64, &bytes) && bytes == 40);
    EXPECT(dequant_bytes(FORMAT_F16, 3, &bytes) && bytes == 6);
    EXPECT(!dequant_bytes(FORMAT_Q8_0, 33, &bytes));
    EXPECT(!dequant_bytes(FORMAT_F32, SIZE_MAX / 2, &bytes));
}

static void sha256_of(const struct gguf_tensor *t, char hex[DIGEST_HEX + 1])
{
    size_t n = 1, row;
    for (int i = 0; i < t->n_dims; i++)
        n *= (size_t)t->dims[i];
    float *values = xmalloc(n * sizeof *values);
    dequant_bytes(t->format, t->dims[0], &row);
    dequant(t->format, t->data, values, n);
    struct digest d;
    digest_init(&d);
    digest_add(&d, values, n * sizeof *values);
    digest_hex(&d, hex);
    free(values);
}

static const cJSON *find_golden(const cJSON *tensors, struct gguf_string name)
{
    const cJSON *t;
    cJSON_ArrayForEach(t, tensors)
        if (gguf_string_is(name, cJSON_GetObjectItem(t, "name")->valuestring))
            return t;
    return NULL;
}

static void expect_equal(const struct gguf *g, const cJSON *tensors)
{
    EXPECT_EQ(g->n_tensors, cJSON_GetArraySize(tensors));
    for (size_t i = 0; i < g->n_tensors; i++) {
        const struct gguf_tensor *t = &g->tensors[i];
        const cJSON *want = find_golden(tensors, t->name);
        char hex[DIGEST_HEX + 1];
        ASSERT(want != NULL);
        sha256_of(t, hex);
        EXPECT_STR(dequant_name(t->format), cJSON_GetObjectItem(want, "type")->valuestring);
        EXPECT_STR(hex, cJSON_GetObjectItem(want, "sha256")->valuestring);
    }
}

static void compare_file(const char *gguf_path, const char *golden_rel)
{
    struct mapped_file f = {0}, j = {0};
    struct gguf g;
    struct err err = {0};
    char *golden_path = test_path(golden_rel);
    ASSERT(mapped_file_open(&j, golden_path, &err) == 0);
    ASSERT(mapped_file_open(&f, gguf_path, &err) == 0);
    ASSERT(gguf_parse(&g, f.data, f.len, &err) == 0);
    cJSON *golden = cJSON_ParseWithLength((const char *)j.data, j.len);
    expect_equal(&g, cJSON_GetObjectItem(golden, "tensors"));
    cJSON_Delete(golden);
    gguf_fini(&g);
    mapped_file_close(&f);
    mapped_file_close(&j);
    free(golden_path);
}

TEST(dequant_equals_the_reference_on_every_type)
{
    char *path = test_path("tests/golden/models/mixed.gguf");
    compare_file(path, "tests/golden/mixed_dequant.json");
    free(path);
}

TEST(dequant_equals_the_reference_on_smollm2)
{
    char path[PATH_MAX];
    const char *cache = getenv("PREFIXD_CACHE"), *xdg = getenv("XDG_CACHE_HOME");
    const char *home = getenv("HOME"), *file = "SmolLM2-135M-Instruct.Q4_1.gguf";
    if (cache)
        snprintf(path, sizeof path, "%s/%s", cache, file);
    else if (xdg)
        snprintf(path, sizeof path, "%s/prefixd/%s", xdg, file);
    else
        snprintf(path, sizeof path, "%s/.cache/prefixd/%s", home ? home : "", file);
    if (access(path, R_OK) < 0)
        SKIP("the SmolLM2 file is not in the cache folder");
    compare_file(path, "tests/golden/smollm2_dequant.json");
}
