/* A pass over the members of an object, and over long lists of integers. */
#include "core/base/json_scan.h"

#include <stdlib.h>
#include <string.h>

#include "core/base/mem.h"

/* The byte at the cursor behind white space, or -1 at the end. */
static int skip_space(struct json_scan *s)
{
    while (s->at < s->len && (s->text[s->at] == ' ' || s->text[s->at] == '\n' ||
                              s->text[s->at] == '\r' || s->text[s->at] == '\t'))
        s->at++;
    return s->at < s->len ? (unsigned char)s->text[s->at] : -1;
}

/* From a quote to behind the next one that is not escaped. */
static void skip_string(struct json_scan *s)
{
    size_t start = ++s->at;
    const char *quote;
    while (s->at < s->len && (quote = memchr(s->text + s->at, '"', s->len - s->at))) {
        const char *from = quote;
        while (from > s->text + start && from[-1] == '\\')
            from--;
        s->at = (size_t)(quote - s->text) + 1;
        if ((quote - from) % 2 == 0)
            return;
    }
    s->at = s->len;
}

/* To the comma or bracket that ends the value, whatever stands in it. */
static void skip_value(struct json_scan *s)
{
    static const bool stops[256] = {['"'] = true, [','] = true, ['['] = true,
                                    ['{'] = true, [']'] = true, ['}'] = true};
    size_t depth = 0;
    for (;;) {
        size_t at = s->at;
        while (at < s->len && !stops[(unsigned char)s->text[at]])
            at++;
        s->at = at;
        char c = at < s->len ? s->text[at] : '\0';
        if (at == s->len || (depth == 0 && (c == ',' || c == '}' || c == ']')))
            return;
        if (c == '"') {
            skip_string(s);
            continue;
        }
        depth += c == '[' || c == '{';
        depth -= c == ']' || c == '}';
        s->at++;
    }
}

static bool pass(struct json_scan *s, char c)
{
    if (skip_space(s) != c)
        return false;
    s->at++;
    return true;
}

const char *json_scan_next(struct json_scan *s, size_t *key_len)
{
    if (s->is_at_value)
        skip_value(s);
    s->is_at_value = false;
    if (!pass(s, s->is_inside ? ',' : '{') || skip_space(s) != '"')
        return NULL;
    s->is_inside = true;
    size_t start = s->at + 1;
    skip_string(s);
    if (s->at < start + 1)
        return NULL;
    size_t end = s->at - 1;
    if (!pass(s, ':'))
        return NULL;
    skip_space(s);
    s->is_at_value = true;
    *key_len = end - start;
    return s->text + start;
}

bool json_scan_is(const char *key, size_t key_len, const char *name)
{
    return key_len == strlen(name) && memcmp(key, name, key_len) == 0;
}

/* ---- integers ------------------------------------------------------------------------ */

static void add_id(struct json_ids *l, int32_t id)
{
    if (l->n == l->cap) {
        l->cap = l->cap ? 2 * l->cap : 256;
        l->ids = xrealloc(l->ids, l->cap * sizeof *l->ids);
    }
    l->ids[l->n++] = id;
}

static void end_list(struct json_ids *l)
{
    if (l->n_lists == l->cap_lists) {
        l->cap_lists = l->cap_lists ? 2 * l->cap_lists : 16;
        l->ends = xrealloc(l->ends, l->cap_lists * sizeof *l->ends);
    }
    l->ends[l->n_lists++] = l->n;
}

static bool read_id(struct json_scan *s, struct json_ids *out)
{
    size_t start = s->at;
    int64_t value = 0;
    while (s->at < s->len && s->text[s->at] >= '0' && s->text[s->at] <= '9' &&
           value <= INT32_MAX)
        value = value * 10 + (s->text[s->at++] - '0');
    size_t n = s->at - start;
    if (n == 0 || value > INT32_MAX || (n > 1 && s->text[start] == '0'))
        return false;
    add_id(out, (int32_t)value);
    return true;
}

/* Behind the opening bracket of a list that is not empty. */
static bool read_list(struct json_scan *s, struct json_ids *out)
{
    for (;;) {
        skip_space(s);
        if (!read_id(s, out))
            return false;
        int c = skip_space(s);
        s->at++;
        if (c != ',')
            return c == ']';
    }
}

static bool read_lists(struct json_scan *s, struct json_ids *out)
{
    out->is_nested = true;
    for (;;) {
        if (!pass(s, '['))
            return false;
        if (!pass(s, ']') && !read_list(s, out))
            return false;
        end_list(out);
        int c = skip_space(s);
        s->at++;
        if (c != ',')
            return c == ']';
    }
}

bool json_scan_ids(struct json_scan *s, struct json_ids *out)
{
    size_t start = s->at;
    if (pass(s, '[') &&
        (skip_space(s) == '[' ? read_lists(s, out) : read_list(s, out)))
        return true;
    s->at = start;
    json_ids_free(out);
    return false;
}

void json_ids_free(struct json_ids *l)
{
    free(l->ids);
    free(l->ends);
    *l = (struct json_ids){0};
}
