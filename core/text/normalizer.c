/* Normalisation steps; the Unicode forms in linear time whatever the marks. */
#include "core/text/normalizer.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "core/base/mem.h"
#include "core/base/utf8.h"

enum { MAX_TEXT = 256 << 20 };

static struct norm_step *add_step(struct normalizer *n, enum norm_kind kind,
                                  struct err *err)
{
    if (n->n_steps == NORM_MAX_STEPS) {
        err_set(err, ERR_INVALID, "normalizer: more than %d steps", NORM_MAX_STEPS);
        return NULL;
    }
    struct norm_step *step = &n->steps[n->n_steps++];
    *step = (struct norm_step){.kind = kind};
    return step;
}

static int set_string(char to[NORM_MAX_STRING + 1], const char *from, struct err *err)
{
    size_t len = strlen(from);
    if (len > NORM_MAX_STRING)
        return err_set(err, ERR_INVALID, "normalizer: a string over %d bytes",
                       NORM_MAX_STRING);
    memcpy(to, from, len + 1);
    return 0;
}

int normalizer_add_form(struct normalizer *n, enum norm_kind form, struct err *err)
{
    return add_step(n, form, err) ? 0 : -1;
}

int normalizer_add_prepend(struct normalizer *n, const char *to, struct err *err)
{
    struct norm_step *step = add_step(n, NORM_PREPEND, err);
    return step ? set_string(step->to, to, err) : -1;
}

int normalizer_add_replace(struct normalizer *n, const char *from, const char *to,
                           struct err *err)
{
    struct norm_step *step = add_step(n, NORM_REPLACE, err);
    if (!step)
        return -1;
    if (!*from)
        return err_set(err, ERR_INVALID, "normalizer: Replace of the empty string");
    return set_string(step->from, from, err) < 0 ? -1 : set_string(step->to, to, err);
}

static int combining_class(utf8proc_int32_t c)
{
    return utf8proc_get_property(c)->combining_class;
}

/* Stable by class. Counting, not swapping: a text of nothing but marks must stay linear. */
static void sort_marks(utf8proc_int32_t *marks, utf8proc_int32_t *spare, size_t n)
{
    size_t starts[257] = {0};
    bool is_sorted = true;
    for (size_t i = 0; i < n; i++) {
        starts[combining_class(marks[i]) + 1]++;
        is_sorted =
            is_sorted && (!i || combining_class(marks[i - 1]) <= combining_class(marks[i]));
    }
    if (is_sorted)
        return;
    for (int c = 0; c < 256; c++)
        starts[c + 1] += starts[c];
    for (size_t i = 0; i < n; i++)
        spare[starts[combining_class(marks[i])]++] = marks[i];
    memcpy(marks, spare, n * sizeof *marks);
}

static void sort_all_marks(utf8proc_int32_t *codes, utf8proc_int32_t *spare, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        size_t end = i;
        while (end < n && combining_class(codes[end]) != 0)
            end++;
        if (end - i > 1)
            sort_marks(codes + i, spare, end - i);
        i = end;
    }
}

/* Every character of text decomposed, into codes (room for max). */
static utf8proc_ssize_t decompose(const char *text, size_t len, utf8proc_option_t options,
                                  utf8proc_int32_t *codes, size_t max)
{
    size_t n = 0;
    int last_class = 0;
    for (size_t at = 0; at < len;) {
        int c_len = utf8_char_len(text + at, len - at, NULL);
        utf8proc_int32_t c = (utf8proc_int32_t)utf8_decode(text + at, c_len);
        utf8proc_ssize_t got = utf8proc_decompose_char(
            c, codes ? codes + n : NULL, codes ? (utf8proc_ssize_t)(max - n) : 0, options,
            &last_class);
        if (got < 0 || (codes && (size_t)got > max - n))
            return -1;
        n += (size_t)got;
        at += (size_t)c_len;
    }
    return (utf8proc_ssize_t)n;
}

static bool is_ascii(const char *s, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if ((unsigned char)s[i] >= 0x80)
            return false;
    return true;
}

static int add_form(enum norm_kind form, const char *text, size_t len, struct buf *out,
                    struct err *err)
{
    if (is_ascii(text, len)) {
        buf_add(out, text, len);
        return 0;
    }
    bool composes = form == NORM_NFC || form == NORM_NFKC;
    int options = UTF8PROC_STABLE | (composes ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE);
    if (form == NORM_NFKC || form == NORM_NFKD)
        options |= UTF8PROC_COMPAT;
    int rc = -1;
    utf8proc_ssize_t n = decompose(text, len, (utf8proc_option_t)options, NULL, 0);
    utf8proc_int32_t *codes =
        n < 0 ? NULL : mem_try_calloc((size_t)n + 1, 2 * sizeof *codes);
    if (!codes) {
        err_set(err, ERR_NO_MEMORY, "not enough memory to normalise the text");
        goto end;
    }
    n = decompose(text, len, (utf8proc_option_t)options, codes, (size_t)n);
    if (n < 0) {
        err_set(err, ERR_INTERNAL, "normalising the text failed");
        goto end;
    }
    sort_all_marks(codes, codes + n + 1, (size_t)n);
    n = utf8proc_normalize_utf32(codes, n, (utf8proc_option_t)options);
    for (utf8proc_ssize_t i = 0; i < n; i++)
        utf8_encode(out, (uint32_t)codes[i]);
    rc = 0;
end:
    free(codes);
    return rc;
}

/* The first place of word in text, or NULL. Plain, because memmem is quadratic under some
 * checkers. */
static const char *find(const char *text, size_t len, const char *word, size_t word_len)
{
    const char *end = text + len;
    while ((size_t)(end - text) >= word_len) {
        text = memchr(text, word[0], (size_t)(end - text) - word_len + 1);
        if (!text)
            return NULL;
        if (memcmp(text, word, word_len) == 0)
            return text;
        text++;
    }
    return NULL;
}

static int add_replaced(const struct norm_step *step, const char *text, size_t len,
                        struct buf *out, struct err *err)
{
    size_t from_len = strlen(step->from);
    while (len) {
        const char *hit = find(text, len, step->from, from_len);
        size_t n = hit ? (size_t)(hit - text) : len;
        buf_add(out, text, n);
        if (hit) {
            buf_add_str(out, step->to);
            n += from_len;
        }
        if (out->len > MAX_TEXT)
            return err_set(err, ERR_TOO_LARGE, "the text is too long once normalised");
        text += n;
        len -= n;
    }
    return 0;
}

static int run_step(const struct norm_step *step, const char *text, size_t len,
                    struct buf *out, struct err *err)
{
    switch (step->kind) {
    case NORM_PREPEND:
        if (len)
            buf_add_str(out, step->to);
        buf_add(out, text, len);
        return 0;
    case NORM_REPLACE:
        return add_replaced(step, text, len, out, err);
    default:
        return add_form(step->kind, text, len, out, err);
    }
}

int normalizer_run(const struct normalizer *n, const char *text, size_t len,
                   struct buf *out, struct err *err)
{
    struct buf from = {0};
    int rc = 0;
    buf_clear(out);
    buf_add(out, text, len);
    for (int i = 0; i < n->n_steps && rc == 0; i++) {
        struct buf swap = from;
        from = *out;
        *out = swap;
        buf_clear(out);
        buf_reserve(out, from.len);
        rc = run_step(&n->steps[i], from.data, from.len, out, err);
    }
    buf_free(&from);
    return rc;
}
