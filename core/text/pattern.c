/* Translates a tokenizer's regular expression to PCRE2, and runs it under limits. */
#include "core/text/pattern.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <ctype.h>
#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/buf.h"
#include "core/base/mem.h"

enum { MAX_PATTERN = 4096, MAX_JIT_STACK = 8 << 20, MAX_HEAP_KIB = 64 << 10 };

struct pattern {
    pcre2_code *code;
};

struct pattern_run {
    pcre2_match_data *data;
    pcre2_match_context *context;
    pcre2_jit_stack *stack;
};

struct translation {
    const char *s; /* what is left to read, NUL-terminated */
    bool in_class;
    struct buf out;
    struct err *err;
};

static int refuse(struct translation *t, const char *what)
{
    return err_set(t->err, ERR_INVALID, "pattern: \"%.16s\" is not supported (%s)", t->s,
                   what);
}

/* \p{L}, \P{Nd}: general categories mean the same in both dialects; scripts do not. */
static int translate_property(struct translation *t)
{
    const char *name = t->s + 3;
    size_t len = t->s[2] == '{' ? strcspn(name, "}") : 0;
    if (len < 1 || len > 2 || name[len] != '}' || !isalpha((unsigned char)name[0]) ||
        (len == 2 && !isalpha((unsigned char)name[1])))
        return refuse(t, "only general categories like \\p{L} are");
    buf_add(&t->out, t->s, len + 4);
    t->s += len + 4;
    return 0;
}

/* White space is the Unicode property: PCRE2's own \s has U+180E besides. */
static int translate_escape(struct translation *t)
{
    char c = t->s[1];
    if (c == 'p' || c == 'P')
        return translate_property(t);
    if (c == 's')
        buf_add_str(&t->out, "\\p{White_Space}");
    else if (c == 'S')
        buf_add_str(&t->out, "\\P{White_Space}");
    else if (c == 'd')
        buf_add_str(&t->out, "\\p{Nd}");
    else if (c == 'D')
        buf_add_str(&t->out, "\\P{Nd}");
    else if (c && (strchr("rntf", c) || ispunct((unsigned char)c)))
        buf_add(&t->out, t->s, 2);
    else
        return refuse(t, "unknown escape");
    t->s += 2;
    return 0;
}

static int translate_class_char(struct translation *t)
{
    if (*t->s == '[')
        return refuse(t, "a class within a class");
    if (t->s[0] == '&' && t->s[1] == '&')
        return refuse(t, "an intersection of classes");
    if (*t->s == ']')
        t->in_class = false;
    buf_add_char(&t->out, *t->s++);
    return 0;
}

static int translate_group(struct translation *t)
{
    static const char *const known[] = {
        "(?:", "(?=", "(?!", "(?<=", "(?<!", "(?i:", "(?i)"};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        size_t n = strlen(known[i]);
        if (strncmp(t->s, known[i], n) == 0) {
            buf_add(&t->out, t->s, n);
            t->s += n;
            return 0;
        }
    }
    if (t->s[1] == '?' || t->s[1] == '*')
        return refuse(t, "unknown kind of group");
    buf_add_char(&t->out, *t->s++);
    return 0;
}

static int translate_char(struct translation *t)
{
    if (*t->s == '\\')
        return translate_escape(t);
    if (t->in_class)
        return translate_class_char(t);
    switch (*t->s) {
    case '^':
    case '$':
        return refuse(t, "anchors");
    case '(':
        return translate_group(t);
    case '[': /* a bracket right behind the opening one stands for itself in one dialect
                 only */
        if (t->s[1] == ']' || (t->s[1] == '^' && t->s[2] == ']'))
            return refuse(t, "a class that starts with ]");
        t->in_class = true;
        buf_add_char(&t->out, *t->s++);
        if (*t->s == '^')
            buf_add_char(&t->out, *t->s++);
        return 0;
    case '{':
        if (!isdigit((unsigned char)t->s[1]))
            return refuse(t, "an interval without a lower bound");
        break;
    case '}':
        if (t->s[1] == '+')
            return refuse(t, "a possessive interval");
        break;
    default:
        break;
    }
    buf_add_char(&t->out, *t->s++);
    return 0;
}

static pcre2_code *compile(const char *regex, size_t len, uint32_t options, struct err *err)
{
    int code;
    PCRE2_SIZE at;
    pcre2_compile_context *context = pcre2_compile_context_create(NULL);
    if (!context) {
        err_set(err, ERR_NO_MEMORY, "not enough memory to compile a pattern");
        return NULL;
    }
    pcre2_set_newline(context, PCRE2_NEWLINE_LF);
    pcre2_code *re = pcre2_compile((PCRE2_SPTR)regex, len, options, &code, &at, context);
    pcre2_compile_context_free(context);
    if (!re) {
        PCRE2_UCHAR text[120];
        pcre2_get_error_message(code, text, sizeof text);
        err_set(err, ERR_INVALID, "pattern: %s", (const char *)text);
    }
    return re;
}

static struct pattern *pattern_of(pcre2_code *re, struct err *err)
{
    uint32_t can_be_empty = 1;
    if (!re)
        return NULL;
    pcre2_pattern_info(re, PCRE2_INFO_MATCHEMPTY, &can_be_empty);
    if (can_be_empty) {
        pcre2_code_free(re);
        err_set(err, ERR_INVALID,
                "pattern: one that matches the empty text is not supported");
        return NULL;
    }
    pcre2_jit_compile(re, PCRE2_JIT_COMPLETE); /* without it matching is only slower */
    struct pattern *p = xmalloc(sizeof *p);
    p->code = re;
    return p;
}

struct pattern *pattern_new(const char *regex, bool is_literal, struct err *err)
{
    size_t len = strlen(regex);
    if (!len || len > MAX_PATTERN) {
        err_set(err, ERR_INVALID, "pattern of %zu bytes: 1 to %d are accepted", len,
                MAX_PATTERN);
        return NULL;
    }
    if (is_literal)
        return pattern_of(compile(regex, len, PCRE2_UTF | PCRE2_LITERAL, err), err);
    struct translation t = {.s = regex, .err = err};
    int rc = 0;
    while (rc == 0 && *t.s)
        rc = translate_char(&t);
    struct pattern *p = NULL;
    if (rc == 0)
        p = pattern_of(compile(t.out.data, t.out.len, PCRE2_UTF | PCRE2_UCP, err), err);
    buf_free(&t.out);
    return p;
}

void pattern_free(struct pattern *p)
{
    if (!p)
        return;
    pcre2_code_free(p->code);
    free(p);
}

/* Steps grow with the text, since a run of spaces is walked back once; a pattern that needs
 * more than a few per byte for a single match is stopped. */
struct pattern_run *pattern_run_new(size_t len)
{
    struct pattern_run *run = xcalloc(1, sizeof *run);
    run->data = pcre2_match_data_create(1, NULL);
    run->context = pcre2_match_context_create(NULL);
    run->stack = pcre2_jit_stack_create(32 << 10, MAX_JIT_STACK, NULL);
    if (!run->data || !run->context) {
        pattern_run_free(run);
        return NULL;
    }
    size_t steps = 1000000 + 8 * (len < (size_t)1 << 28 ? len : (size_t)1 << 28);
    pcre2_set_match_limit(run->context, (uint32_t)steps);
    pcre2_set_heap_limit(run->context, MAX_HEAP_KIB);
    if (run->stack)
        pcre2_jit_stack_assign(run->context, NULL, run->stack);
    return run;
}

void pattern_run_free(struct pattern_run *run)
{
    if (!run)
        return;
    pcre2_match_data_free(run->data);
    pcre2_match_context_free(run->context);
    pcre2_jit_stack_free(run->stack);
    free(run);
}

int pattern_next(const struct pattern *p, struct pattern_run *run, const char *text,
                 size_t len, size_t at, size_t *start, size_t *end, struct err *err)
{
    int rc = pcre2_match(p->code, (PCRE2_SPTR)text, len, at, PCRE2_NO_UTF_CHECK, run->data,
                         run->context);
    if (rc == PCRE2_ERROR_NOMATCH)
        return 0;
    if (rc < 0)
        return err_set(err, ERR_INVALID,
                       "the text needs too many steps in the tokenizer's pattern (code %d)",
                       rc);
    const PCRE2_SIZE *range = pcre2_get_ovector_pointer(run->data);
    *start = range[0];
    *end = range[1];
    return 1;
}
