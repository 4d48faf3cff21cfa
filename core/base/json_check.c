/* A strict pass over JSON bytes, without recursion, before a lenient parser sees them. */
#include "core/base/json_check.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/buf.h"
#include "core/base/check.h"
#include "core/base/mem.h"
#include "core/base/utf8.h"

struct frame { /* an array or object that is still open */
    bool is_object;
    size_t first_key;   /* index into keys */
    size_t first_bytes; /* offset into key_bytes */
};

struct key { /* unescaped; ordered by hash first so that most comparisons are one integer */
    uint64_t hash;
    size_t at, len;
    const char *bytes; /* set when the object closes and key_bytes stands still */
};

struct checker {
    const char *s;
    size_t len, at;
    const struct json_limits *lim;
    struct err *err;
    size_t n_items;
    struct frame *frames;
    int depth, frame_cap;
    struct key *keys;
    size_t n_keys, key_cap;
    struct buf key_bytes;
};

static int fail(struct checker *c, const char *what)
{
    return err_set(c->err, ERR_INVALID, "not valid JSON at byte %zu: %s", c->at, what);
}

/* The byte at the cursor, or -1 at the end. */
static int peek(const struct checker *c)
{
    return c->at < c->len ? (unsigned char)c->s[c->at] : -1;
}

static int skip_space(struct checker *c)
{
    while (c->at < c->len && (c->s[c->at] == ' ' || c->s[c->at] == '\n' ||
                              c->s[c->at] == '\r' || c->s[c->at] == '\t'))
        c->at++;
    return peek(c);
}

static int read_hex4(struct checker *c, uint32_t *value)
{
    *value = 0;
    for (int i = 0; i < 4; i++, c->at++) {
        int ch = peek(c);
        uint32_t digit;
        if (ch >= '0' && ch <= '9')
            digit = (uint32_t)(ch - '0');
        else if ((ch | 32) >= 'a' && (ch | 32) <= 'f')
            digit = (uint32_t)((ch | 32) - 'a' + 10);
        else
            return fail(c, "\\u wants four hexadecimal digits");
        *value = *value << 4 | digit;
    }
    return 0;
}

/* Past "\u": one code point, of one or two units. */
static int read_unicode(struct checker *c, struct buf *out)
{
    uint32_t high, low;
    if (read_hex4(c, &high) < 0)
        return -1;
    if (high == 0)
        return fail(c, "U+0000 in a string");
    if (high >= 0xdc00 && high <= 0xdfff)
        return fail(c, "a low surrogate without its high one");
    if (high >= 0xd800 && high <= 0xdbff) {
        if (c->len - c->at < 2 || memcmp(c->s + c->at, "\\u", 2) != 0)
            return fail(c, "a high surrogate without its low one");
        c->at += 2;
        if (read_hex4(c, &low) < 0)
            return -1;
        if (low < 0xdc00 || low > 0xdfff)
            return fail(c, "a high surrogate without its low one");
        high = 0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00);
    }
    if (out)
        utf8_encode(out, high);
    return 0;
}

static int read_escape(struct checker *c, struct buf *out)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    c->at++;
    int ch = peek(c);
    if (ch == 'u') {
        c->at++;
        return read_unicode(c, out);
    }
    const char *p = ch > 0 ? strchr(from, ch) : NULL;
    if (!p)
        return fail(c, "unknown escape in a string");
    if (out)
        buf_add_char(out, to[p - from]);
    c->at++;
    return 0;
}

/* Most of most texts: ASCII that needs no second look. */
static size_t skip_plain(const char *s, size_t len, size_t at)
{
    while (at < len && (unsigned char)s[at] - 0x20u < 0x60 && s[at] != '"' && s[at] != '\\')
        at++;
    return at;
}

/* The string at the cursor; its unescaped bytes are appended to out unless that is NULL. */
static int read_string(struct checker *c, struct buf *out)
{
    c->at++;
    for (;;) {
        size_t start = c->at;
        c->at = skip_plain(c->s, c->len, start);
        while (c->at < c->len && (unsigned char)c->s[c->at] >= 0x20 && c->s[c->at] != '"' &&
               c->s[c->at] != '\\') {
            int n = utf8_char_len(c->s + c->at, c->len - c->at, NULL);
            if (!n)
                return fail(c, "bytes that are not UTF-8");
            c->at += (size_t)n;
        }
        if (out)
            buf_add(out, c->s + start, c->at - start);
        int ch = peek(c);
        if (ch == '"')
            break;
        if (ch != '\\')
            return fail(c, ch < 0 ? "a string does not end" : "a raw control character");
        if (read_escape(c, out) < 0)
            return -1;
    }
    c->at++;
    return 0;
}

static size_t skip_digits(struct checker *c)
{
    size_t start = c->at;
    while (c->at < c->len && c->s[c->at] >= '0' && c->s[c->at] <= '9')
        c->at++;
    return c->at - start;
}

/* Sixteen digits or fewer fit in 64 bits, and 2^53 has sixteen. */
static bool is_below_2_53(const char *digits, size_t n)
{
    uint64_t value = 0;
    if (n > 16)
        return false;
    for (size_t i = 0; i < n; i++)
        value = value * 10 + (uint64_t)(digits[i] - '0');
    return value < (uint64_t)1 << 53;
}

static int read_number(struct checker *c)
{
    size_t start = c->at;
    bool is_plain = peek(c) != '-';
    if (!is_plain)
        c->at++;
    size_t first = c->at, n = skip_digits(c);
    if (n == 0)
        return fail(c, "a value is missing");
    if (n > 1 && c->s[first] == '0')
        return fail(c, "a number with a leading zero");
    if (peek(c) == '.') {
        is_plain = false;
        c->at++;
        if (skip_digits(c) == 0)
            return fail(c, "a number without digits after the point");
    }
    if ((peek(c) | 32) == 'e') {
        is_plain = false;
        c->at++;
        if (peek(c) == '+' || peek(c) == '-')
            c->at++;
        if (skip_digits(c) == 0)
            return fail(c, "a number without digits in its exponent");
    }
    if (c->lim->integers_only && (!is_plain || !is_below_2_53(c->s + start, n))) {
        c->at = start;
        return fail(c, "only plain integers from 0 to 2^53-1 are accepted");
    }
    return 0;
}

static int read_literal(struct checker *c, const char *word)
{
    size_t n = strlen(word);
    if (c->len - c->at < n || memcmp(c->s + c->at, word, n) != 0)
        return fail(c, "a value is missing");
    c->at += n;
    return 0;
}

static int open_container(struct checker *c, bool is_object)
{
    if (c->depth >= c->lim->max_depth)
        return fail(c, "nested too deeply");
    if (c->depth == c->frame_cap) {
        c->frame_cap = c->frame_cap ? 2 * c->frame_cap : 16;
        c->frames = xrealloc(c->frames, (size_t)c->frame_cap * sizeof *c->frames);
    }
    c->frames[c->depth++] = (struct frame){is_object, c->n_keys, c->key_bytes.len};
    c->at++;
    return 0;
}

static uint64_t hash_of(const char *s, size_t len)
{
    uint64_t h = 0xcbf29ce484222325u;
    for (size_t i = 0; i < len; i++)
        h = (h ^ (unsigned char)s[i]) * 0x100000001b3u;
    return h;
}

static int read_key(struct checker *c)
{
    if (skip_space(c) != '"')
        return fail(c, "an object wants a string as key");
    size_t at = c->key_bytes.len;
    if (read_string(c, &c->key_bytes) < 0)
        return -1;
    if (skip_space(c) != ':')
        return fail(c, "a colon is missing after a key");
    c->at++;
    if (c->n_keys == c->key_cap) {
        c->key_cap = c->key_cap ? 2 * c->key_cap : 32;
        c->keys = xrealloc(c->keys, c->key_cap * sizeof *c->keys);
    }
    size_t len = c->key_bytes.len - at;
    uint64_t hash = hash_of(len ? c->key_bytes.data + at : "", len);
    c->keys[c->n_keys++] = (struct key){hash, at, len, NULL};
    return 0;
}

static int compare_keys(const void *va, const void *vb)
{
    const struct key *a = va, *b = vb;
    if (a->hash != b->hash)
        return a->hash < b->hash ? -1 : 1;
    if (a->len != b->len)
        return a->len < b->len ? -1 : 1;
    return a->len ? memcmp(a->bytes, b->bytes, a->len) : 0;
}

static int close_container(struct checker *c)
{
    struct frame *f = &c->frames[--c->depth];
    size_t n = c->n_keys - f->first_key;
    if (f->is_object && n > 1) {
        struct key *keys = c->keys + f->first_key;
        for (size_t i = 0; i < n; i++)
            keys[i].bytes = c->key_bytes.data + keys[i].at;
        qsort(keys, n, sizeof *keys, compare_keys);
        for (size_t i = 1; i < n; i++)
            if (compare_keys(&keys[i - 1], &keys[i]) == 0)
                return fail(c, "an object has a key twice");
    }
    c->n_keys = f->first_key;
    c->key_bytes.len = f->first_bytes;
    c->at++;
    return 0;
}

/* Reads a value up to where it ends or, for a container that is not empty, to its first
 * value. Gives 1 if another value has to follow, 0 if this one is whole. */
static int start_value(struct checker *c)
{
    int ch = skip_space(c);
    if (++c->n_items > c->lim->max_items)
        return fail(c, "too many values");
    switch (ch) {
    case '"':
        return read_string(c, NULL);
    case 't':
        return read_literal(c, "true");
    case 'f':
        return read_literal(c, "false");
    case 'n':
        return read_literal(c, "null");
    case '[':
        if (open_container(c, false) < 0)
            return -1;
        return skip_space(c) == ']' ? close_container(c) : 1;
    case '{':
        if (open_container(c, true) < 0)
            return -1;
        if (skip_space(c) == '}')
            return close_container(c);
        return read_key(c) < 0 ? -1 : 1;
    default:
        return read_number(c);
    }
}

/* After a whole value: 1 if another value has to follow, 0 if the outermost one is whole.
 */
static int after_value(struct checker *c)
{
    while (c->depth > 0) {
        bool is_object = c->frames[c->depth - 1].is_object;
        int ch = skip_space(c);
        if (ch == ',') {
            c->at++;
            return is_object && read_key(c) < 0 ? -1 : 1;
        }
        if (ch != (is_object ? '}' : ']'))
            return fail(c, "a comma or the end of an array or object is missing");
        if (close_container(c) < 0)
            return -1;
    }
    return 0;
}

static int check_all(struct checker *c)
{
    int more = 1;
    while (more > 0) {
        more = start_value(c);
        if (more == 0)
            more = after_value(c);
    }
    if (more < 0)
        return -1;
    return skip_space(c) < 0 ? 0 : fail(c, "something follows the value");
}

int json_check(const char *text, size_t len, const struct json_limits *lim, struct err *err)
{
    if (len > lim->max_len)
        return err_set(err, ERR_INVALID, "JSON of %zu bytes: at most %zu are accepted", len,
                       lim->max_len);
    struct checker c = {.s = text, .len = len, .lim = lim, .err = err};
    int rc = check_all(&c);
    free(c.frames);
    free(c.keys);
    buf_free(&c.key_bytes);
    return rc;
}
