/* Reads token vectors and checks a tokenizer against them. */
#include "tests/unit/core/text/token_cases.h"

#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/utf8.h"

#include "tests/test.h"

bool token_cases_load(const char *path, struct buf *out)
{
    char chunk[1 << 16];
    size_t got;
    FILE *f = fopen(path, "rb");
    if (!f)
        return false;
    while ((got = fread(chunk, 1, sizeof chunk, f)) > 0)
        buf_add(out, chunk, got);
    fclose(f);
    return true;
}

/* The parser cuts strings at U+0000, so that stands as U+E000 until a string is taken out.
 */
struct cJSON *token_cases_read(const char *path)
{
    struct buf b = {0};
    if (!token_cases_load(path, &b))
        return NULL;
    for (char *p = b.data; (p = strstr(p, "\\u0000")) != NULL;)
        memcpy(p, "\\ue000", 6);
    cJSON *root = cJSON_ParseWithLength(b.data, b.len);
    buf_free(&b);
    return root;
}

static void get_text(const cJSON *c, const char *key, struct buf *out)
{
    const char *s = cJSON_GetStringValue(cJSON_GetObjectItem(c, key));
    buf_clear(out);
    buf_reserve(out, 1);
    for (; s && *s; s++) {
        if (strncmp(s, "\xee\x80\x80", 3) != 0) {
            buf_add_char(out, *s);
            continue;
        }
        buf_add_char(out, '\0');
        s += 2;
    }
}

static void get_ids(const cJSON *c, const char *key, struct token_list *out)
{
    const cJSON *v;
    out->n = 0;
    cJSON_ArrayForEach (v, cJSON_GetObjectItem(c, key))
        token_list_add(out, v->valueint);
}

static void check_encode(const struct tokenizer *t, const cJSON *c, const char *key,
                         int flags, const char *name)
{
    struct buf text = {0};
    struct token_list want = {0}, got = {0};
    struct err err = {0};
    if (!cJSON_HasObjectItem(c, key) || !cJSON_HasObjectItem(c, "text"))
        return;
    get_text(c, "text", &text);
    get_ids(c, key, &want);
    if (tokenizer_encode(t, text.data, text.len, flags, &got, &err) < 0)
        test_fail(__FILE__, __LINE__, "%s: %s", name, err.msg);
    if (got.n != want.n ||
        (got.n && memcmp(got.ids, want.ids, got.n * sizeof *got.ids) != 0))
        test_fail(__FILE__, __LINE__, "%s: \"%s\" has other %s (%zu, expected %zu)", name,
                  text.data, key, got.n, want.n);
    token_list_free(&want);
    token_list_free(&got);
    buf_free(&text);
}

static void check_decode(const struct tokenizer *t, const cJSON *c, const char *ids_key,
                         const char *key, int flags, const char *name)
{
    struct buf want = {0}, got = {0};
    struct token_list ids = {0};
    if (!cJSON_HasObjectItem(c, key))
        return;
    get_text(c, key, &want);
    get_ids(c, cJSON_HasObjectItem(c, ids_key) ? ids_key : "ids", &ids);
    tokenizer_decode(t, ids.ids, ids.n, flags, &got);
    if (got.len != want.len || (got.len && memcmp(got.data, want.data, got.len) != 0))
        test_fail(__FILE__, __LINE__, "%s: %s is \"%s\", expected \"%s\"", name, key,
                  got.data ? got.data : "", want.data);
    token_list_free(&ids);
    buf_free(&want);
    buf_free(&got);
}

/* Bytes of whole characters that both texts start with. */
static size_t common_len(const struct buf *a, const struct buf *b)
{
    size_t n = 0;
    while (n < a->len && n < b->len) {
        size_t c = (size_t)utf8_char_len(a->data + n, a->len - n, NULL);
        if (!c || c > b->len - n || memcmp(a->data + n, b->data + n, c) != 0)
            break;
        n += c;
    }
    return n;
}

void token_cases_stream(const struct tokenizer *t, const int32_t *ids, size_t n,
                        size_t n_prompt, const char *name)
{
    struct buf before = {0}, whole = {0}, joined = {0};
    tokenizer_decode(t, ids, n_prompt, TOKENIZER_SKIP_SPECIAL, &before);
    tokenizer_decode(t, ids, n, TOKENIZER_SKIP_SPECIAL, &whole);
    struct detok *d = detok_new(t, ids, n_prompt);
    for (size_t i = n_prompt; i < n; i++) {
        size_t at = joined.len;
        detok_feed(d, ids[i], &joined);
        if (joined.len > at &&
            utf8_valid_len(joined.data + at, joined.len - at) != joined.len - at)
            test_fail(__FILE__, __LINE__, "%s: token %d streamed half a character", name,
                      ids[i]);
    }
    detok_end(d, &joined);
    size_t skip = common_len(&whole, &before);
    if (joined.len != whole.len - skip ||
        (joined.len && memcmp(joined.data, whole.data + skip, joined.len) != 0))
        test_fail(__FILE__, __LINE__,
                  "%s: after %zu of %zu tokens \"%s\" was streamed of \"%s\"", name,
                  n_prompt, n, joined.data ? joined.data : "",
                  whole.data ? whole.data : "");
    detok_free(d);
    buf_free(&before);
    buf_free(&whole);
    buf_free(&joined);
}

int token_cases_check(const struct tokenizer *t, const struct cJSON *cases,
                      const char *name)
{
    const cJSON *c;
    int n_checked = 0;
    cJSON_ArrayForEach (c, cases) {
        check_encode(t, c, "ids", 0, name);
        check_encode(t, c, "ids_with_special", TOKENIZER_ADD_SPECIAL, name);
        check_decode(t, c, "ids", "decoded", 0, name);
        check_decode(t, c, "ids_with_special", "decoded_skip_special",
                     TOKENIZER_SKIP_SPECIAL, name);
        struct token_list ids = {0};
        get_ids(c, "ids", &ids);
        for (size_t n_prompt = 0; n_prompt <= ids.n; n_prompt++)
            token_cases_stream(t, ids.ids, ids.n, n_prompt, name);
        token_list_free(&ids);
        n_checked++;
    }
    return n_checked;
}
