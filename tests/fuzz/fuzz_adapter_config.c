/* Fuzzes the reading of adapters: two bytes of length, the config, then the weights; or a
 * text adapter. */
#include "adapters/spec.h"

#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void parse(const struct adapter_file *files, int n)
{
    static const struct model_shape shape = {
        .n_layers = 2, .dim = 8, .n_heads = 2, .n_kv_heads = 1, .head_dim = 4, .vocab = 32,
        .max_pos = 64, .weight_dtype = DTYPE_F32, .kv_dtype = DTYPE_BF16};
    const struct spec_limits limits = {
        .shape = &shape, .max_virtual_tokens = 63, .max_bytes = 1 << 20, .max_compiled = 1 << 20};
    struct adapter_spec s;
    struct err err = {0};
    char version[DIGEST_HEX + 1];
    if (spec_parse(&s, files, n, &limits, &err) == 0)
        spec_digest(files, n, version);
    spec_fini(&s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct adapter_file text = {"adapter.json", data, size};
    parse(&text, 1);
    if (size < 2)
        return 0;
    size_t n = (size_t)data[0] | (size_t)data[1] << 8;
    n = n < size - 2 ? n : size - 2;
    const struct adapter_file files[] = {{"adapter_config.json", data + 2, n},
                                         {"adapter_model.safetensors", data + 2 + n, size - 2 - n}};
    parse(files, 2);
    return 0;
}
