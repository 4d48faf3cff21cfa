/* The steps that cut text into words. */
#include "core/text/pretokenizer.h"

#include <stdlib.h>
#include <string.h>

#include "core/base/mem.h"
#include "core/base/utf8.h"
#include "core/text/bytelevel.h"
#include "core/text/chars.h"

const char pretokenizer_gpt2[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
const char pretokenizer_llama3[] =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}|"
    " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
const char pretokenizer_qwen2[] =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}|"
    " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

static struct pre_step *add_step(struct pretokenizer *p, enum pre_kind kind,
                                 struct err *err)
{
    if (p->n_steps == PRE_MAX_STEPS) {
        err_set(err, ERR_INVALID, "pre_tokenizer: more than %d steps", PRE_MAX_STEPS);
        return NULL;
    }
    struct pre_step *step = &p->steps[p->n_steps++];
    *step = (struct pre_step){.kind = kind};
    return step;
}

int pretokenizer_add_split(struct pretokenizer *p, const char *regex, bool is_literal,
                           enum pre_behaviour behaviour, bool is_inverted, struct err *err)
{
    struct pre_step *step = add_step(p, PRE_SPLIT, err);
    if (!step)
        return -1;
    step->pattern = pattern_new(regex, is_literal, err);
    step->behaviour = behaviour;
    step->is_inverted = is_inverted;
    return step->pattern ? 0 : -1;
}

int pretokenizer_add_digits(struct pretokenizer *p, bool is_individual, struct err *err)
{
    struct pre_step *step = add_step(p, PRE_DIGITS, err);
    if (!step)
        return -1;
    step->is_individual = is_individual;
    return 0;
}

int pretokenizer_add_byte_level(struct pretokenizer *p, bool adds_prefix_space,
                                bool uses_regex, struct err *err)
{
    if (adds_prefix_space) {
        struct pre_step *step = add_step(p, PRE_REWRITE, err);
        if (!step)
            return -1;
        step->prepend = PRE_PREPEND_ALWAYS;
        step->replacement[0] = ' ';
    }
    if (uses_regex &&
        pretokenizer_add_split(p, pretokenizer_gpt2, false, PRE_ISOLATED, false, err) < 0)
        return -1;
    return add_step(p, PRE_BYTES, err) ? 0 : -1;
}

int pretokenizer_add_metaspace(struct pretokenizer *p, const char *replacement,
                               enum pre_prepend prepend, bool splits, struct err *err)
{
    size_t len = strlen(replacement);
    if (len < 1 || len > PRE_MAX_REPLACEMENT ||
        utf8_char_len(replacement, len, NULL) != (int)len)
        return err_set(err, ERR_INVALID, "pre_tokenizer: Metaspace wants one character");
    struct pre_step *step = add_step(p, PRE_REWRITE, err);
    if (!step)
        return -1;
    step->replaces_space = true;
    step->prepend = prepend;
    memcpy(step->replacement, replacement, len);
    if (!splits)
        return 0;
    return pretokenizer_add_split(p, replacement, true, PRE_MERGED_WITH_NEXT, false, err);
}

/* Adds a word to the next step's list; an empty one is dropped. */
static void add_span(struct pre_scratch *s, size_t at, size_t end)
{
    if (at == end)
        return;
    if (s->other_n == s->other_cap) {
        s->other_cap = s->other_cap ? 2 * s->other_cap : 64;
        s->other_spans = xrealloc(s->other_spans, s->other_cap * sizeof *s->other_spans);
    }
    s->other_spans[s->other_n++] = (struct pre_span){at, end - at};
}

static void take_spans(struct pre_scratch *s)
{
    struct pre_span *spans = s->spans;
    size_t cap = s->cap;
    s->spans = s->other_spans;
    s->n = s->other_n;
    s->cap = s->other_cap;
    s->other_spans = spans;
    s->other_cap = cap;
    s->other_n = 0;
}

static void take_text(struct pre_scratch *s)
{
    struct buf text = s->text;
    s->text = s->other_text;
    s->other_text = text;
    buf_clear(&s->other_text);
    take_spans(s);
}

/* A match in [start, end) and the rest before it, from prev on, by the step's behaviour.
 * For MERGED_WITH_NEXT *open is where a match waits for what follows; -1 if none does. */
static void add_segment(struct pre_scratch *s, const struct pre_step *step, size_t at,
                        size_t end, bool is_match, size_t *open)
{
    if (at == end)
        return;
    is_match ^= step->is_inverted;
    if (step->behaviour == PRE_REMOVED && is_match)
        return;
    if (step->behaviour != PRE_MERGED_WITH_NEXT) {
        add_span(s, at, end);
        return;
    }
    if (!is_match) {
        add_span(s, *open != SIZE_MAX ? *open : at, end);
        *open = SIZE_MAX;
        return;
    }
    if (*open != SIZE_MAX)
        add_span(s, *open, at);
    *open = at;
}

static int split_span(const struct pre_step *step, struct pre_scratch *s,
                      struct pre_span span, struct err *err)
{
    const char *text = s->text.data + span.at;
    size_t prev = 0, start, end, open = SIZE_MAX;
    int rc;
    while ((rc = pattern_next(step->pattern, s->run, text, span.len, prev, &start, &end,
                              err)) == 1) {
        add_segment(s, step, span.at + prev, span.at + start, false, &open);
        add_segment(s, step, span.at + start, span.at + end, true, &open);
        prev = end;
    }
    if (rc < 0)
        return -1;
    add_segment(s, step, span.at + prev, span.at + span.len, false, &open);
    if (open != SIZE_MAX)
        add_span(s, open, span.at + span.len);
    return 0;
}

static int run_split(const struct pre_step *step, struct pre_scratch *s, struct err *err)
{
    if (!s->run || s->run_len < s->text.len) {
        pattern_run_free(s->run);
        s->run_len = s->text.len;
        s->run = pattern_run_new(s->run_len);
        if (!s->run)
            return err_set(err, ERR_NO_MEMORY, "not enough memory to tokenise the text");
    }
    size_t first_at = s->n ? s->spans[0].at : 0;
    for (size_t i = 0; i < s->n; i++)
        if (split_span(step, s, s->spans[i], err) < 0)
            return -1;
    s->is_first = s->is_first && s->other_n && s->other_spans[0].at == first_at;
    take_spans(s);
    return 0;
}

static void digits_span(const struct pre_step *step, struct pre_scratch *s,
                        struct pre_span span)
{
    const char *text = s->text.data;
    size_t start = span.at, end = span.at + span.len;
    bool was_digit = false;
    for (size_t at = span.at; at < end;) {
        int n = utf8_char_len(text + at, end - at, NULL);
        bool is_digit = chars_is_numeric(utf8_decode(text + at, n));
        if (is_digit != was_digit || (is_digit && step->is_individual)) {
            add_span(s, start, at);
            start = at;
        }
        was_digit = is_digit;
        at += (size_t)n;
    }
    add_span(s, start, end);
}

static void add_replaced(struct buf *out, const char *text, size_t len,
                         const char *replacement)
{
    while (len) {
        const char *space = memchr(text, ' ', len);
        size_t n = space ? (size_t)(space - text) : len;
        buf_add(out, text, n);
        if (space)
            buf_add_str(out, replacement);
        n += space != NULL;
        text += n;
        len -= n;
    }
}

static bool starts_with(const char *text, size_t len, const char *prefix)
{
    size_t n = strlen(prefix);
    return len >= n && memcmp(text, prefix, n) == 0;
}

static void rewrite_span(const struct pre_step *step, struct pre_scratch *s,
                         struct pre_span span, bool is_first)
{
    const char *text = s->text.data + span.at;
    size_t at = s->other_text.len;
    bool is_there = starts_with(text, span.len, step->replacement) ||
                    (step->replaces_space && text[0] == ' ');
    bool is_wanted = step->prepend == PRE_PREPEND_ALWAYS ||
                     (step->prepend == PRE_PREPEND_FIRST && is_first);
    if (is_wanted && !is_there)
        buf_add_str(&s->other_text, step->replacement);
    if (step->replaces_space)
        add_replaced(&s->other_text, text, span.len, step->replacement);
    else
        buf_add(&s->other_text, text, span.len);
    add_span(s, at, s->other_text.len);
}

static int run_step(const struct pre_step *step, struct pre_scratch *s, struct err *err)
{
    size_t i, at;
    switch (step->kind) {
    case PRE_SPLIT:
        return run_split(step, s, err);
    case PRE_DIGITS:
        for (i = 0; i < s->n; i++)
            digits_span(step, s, s->spans[i]);
        take_spans(s);
        return 0;
    case PRE_REWRITE:
        for (i = 0; i < s->n; i++)
            rewrite_span(step, s, s->spans[i], i == 0 && s->is_first);
        take_text(s);
        return 0;
    case PRE_BYTES:
        for (i = 0; i < s->n; i++) {
            at = s->other_text.len;
            bytelevel_add(&s->other_text, s->text.data + s->spans[i].at, s->spans[i].len);
            add_span(s, at, s->other_text.len);
        }
        take_text(s);
        return 0;
    }
    return err_set(err, ERR_INTERNAL, "unknown pre-tokenizer step");
}

int pretokenizer_run(const struct pretokenizer *p, struct pre_scratch *s, const char *text,
                     size_t len, bool is_first, struct err *err)
{
    buf_clear(&s->text);
    buf_clear(&s->other_text);
    buf_add(&s->text, text, len);
    s->other_n = 0;
    add_span(s, 0, len);
    take_spans(s);
    s->is_first = is_first;
    for (int i = 0; i < p->n_steps; i++)
        if (run_step(&p->steps[i], s, err) < 0)
            return -1;
    return 0;
}

void pre_scratch_free(struct pre_scratch *s)
{
    buf_free(&s->text);
    buf_free(&s->other_text);
    free(s->spans);
    free(s->other_spans);
    pattern_run_free(s->run);
    *s = (struct pre_scratch){0};
}

void pretokenizer_free(struct pretokenizer *p)
{
    for (int i = 0; i < p->n_steps; i++)
        pattern_free(p->steps[i].pattern);
    *p = (struct pretokenizer){0};
}
