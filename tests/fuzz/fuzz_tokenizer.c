/* Any bytes as a tokenizer.json, with text behind a NUL to encode and decode. */
#include <stdint.h>
#include <string.h>

#include "core/base/check.h"
#include "core/base/utf8.h"
#include "core/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Streaming must add up to the whole decode and never cut a character. */
static void check_stream(const struct tokenizer *t, const struct token_list *ids)
{
    struct buf whole = {0}, joined = {0};
    tokenizer_decode(t, ids->ids, ids->n, TOKENIZER_SKIP_SPECIAL, &whole);
    CHECK(utf8_valid_len(whole.data, whole.len) == whole.len);
    struct detok *d = detok_new(t, NULL, 0);
    for (size_t i = 0; i < ids->n; i++) {
        detok_feed(d, ids->ids[i], &joined);
        CHECK(utf8_valid_len(joined.data, joined.len) == joined.len);
        if (i > 2000)
            break;
    }
    if (ids->n <= 2000) {
        detok_end(d, &joined);
        CHECK(joined.len == whole.len &&
              (!whole.len || !memcmp(joined.data, whole.data, whole.len)));
    }
    detok_free(d);
    buf_free(&whole);
    buf_free(&joined);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *json = (const char *)data;
    const char *end = size ? memchr(json, 0, size) : NULL;
    size_t len = end ? (size_t)(end - json) : size;
    const char *text = end ? end + 1 : json;
    size_t text_len = end ? size - len - 1 : size;
    struct err err = {0};
    struct tokenizer *t = tokenizer_open_json(json, len, &err);
    if (!t) {
        CHECK(err.code != ERR_NONE && err.msg[0]);
        return 0;
    }
    struct token_list ids = {0};
    if (tokenizer_encode(t, text, text_len, TOKENIZER_ADD_SPECIAL, &ids, &err) == 0) {
        for (size_t i = 0; i < ids.n; i++)
            CHECK(ids.ids[i] >= 0 && ids.ids[i] < tokenizer_n_tokens(t));
        check_stream(t, &ids);
    }
    token_list_free(&ids);
    tokenizer_free(t);
    return 0;
}
