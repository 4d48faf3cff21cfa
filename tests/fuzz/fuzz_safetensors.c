/* Fuzzing of the safetensors reader: whatever is accepted lies inside the bytes,
 * gapless. */
#include <stdint.h>
#include <string.h>

#include "core/base/check.h"
#include "core/base/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    static const struct st_limits limits = {.max_header = 1 << 20, .max_tensors = 64};
    struct safetensors st;
    struct err err = {0};
    volatile unsigned char sink = 0;
    if (safetensors_parse(&st, data, len, &limits, &err) < 0) {
        CHECK(err.code != ERR_NONE && err.msg[0]);
        return 0;
    }
    const uint8_t *end = data + len;
    for (size_t i = st.n_tensors; i-- > 0;) {
        const struct st_tensor *t = &st.tensors[i];
        CHECK(t->data >= data + 8 && t->data + t->len == end);
        CHECK(safetensors_find(&st, t->name) == t);
        for (size_t b = 0; b < t->len; b += 61)
            sink = (unsigned char)(sink + t->data[b]);
        end = t->data;
    }
    safetensors_fini(&st);
    return 0;
}
