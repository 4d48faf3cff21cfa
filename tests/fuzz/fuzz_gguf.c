/* Fuzzing of the GGUF reader: every accepted string and tensor is read to its end. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/check.h"
#include "core/base/mem.h"
#include "core/model/gguf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static void read_value(const struct gguf *g, const struct gguf_value *v)
{
    char *key = xstrndup(v->key.s, v->key.len);
    struct gguf_string s;
    uint64_t u;
    double d;
    bool b;
    CHECK(gguf_find(g, key) == v);
    gguf_u64(g, key, &u);
    gguf_f64(g, key, &d);
    gguf_bool(g, key, &b);
    gguf_string(g, key, &s);
    free(key);
    if (v->type != GGUF_STRING)
        return;
    size_t at = 0;
    for (uint64_t i = 0; i < v->n; i++) {
        s = gguf_next_string(v, &at);
        free(xstrndup(s.s, s.len));
    }
    CHECK(at == v->len);
}

static void read_tensor(const struct gguf_tensor *t)
{
    size_t row;
    CHECK(dequant_bytes(t->format, t->dims[0], &row) && row > 0 && t->len % row == 0);
    float *values = mem_try_calloc(t->dims[0], sizeof *values);
    if (!values)
        return;
    dequant(t->format, t->data + t->len - row, values, t->dims[0]);
    free(values);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct gguf g;
    struct err err = {0};
    if (gguf_parse(&g, data, len, &err) < 0) {
        CHECK(err.code != ERR_NONE && err.msg[0]);
        return 0;
    }
    for (size_t i = 0; i < g.n_values; i++)
        read_value(&g, &g.values[i]);
    for (size_t i = 0; i < g.n_tensors; i++)
        read_tensor(&g.tensors[i]);
    gguf_fini(&g);
    return 0;
}
