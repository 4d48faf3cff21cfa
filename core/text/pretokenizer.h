/* Cuts normalised text into the words that merges never cross.
 *
 * Thread: any; a pretokenizer is immutable once built, the scratch belongs to the caller.
 * Steps run in the order in which they were added; without steps the text is one word. A
 * zeroed pretokenizer and a zeroed scratch are valid.
 *
 *     struct pretokenizer p = {0};
 *     pretokenizer_add_byte_level(&p, false, true, err);
 *     pretokenizer_run(&p, &scratch, text, len, true, err);
 *     for (size_t i = 0; i < scratch.n; i++) use(scratch.text.data + scratch.spans[i].at);
 */
#ifndef PREFIXD_TEXT_PRETOKENIZER_H
#define PREFIXD_TEXT_PRETOKENIZER_H

#include "core/base/buf.h"
#include "core/base/err.h"
#include "core/text/pattern.h"

#include <stdbool.h>
#include <stddef.h>

enum { PRE_MAX_STEPS = 16, PRE_MAX_REPLACEMENT = 4 };

enum pre_kind {
    PRE_SPLIT,   /* by a pattern */
    PRE_DIGITS,  /* digits from the rest */
    PRE_REWRITE, /* spaces replaced, something put in front */
    PRE_BYTES,   /* bytes to the byte-level alphabet */
};

enum pre_behaviour { PRE_ISOLATED, PRE_REMOVED, PRE_MERGED_WITH_NEXT };
enum pre_prepend { PRE_PREPEND_NEVER, PRE_PREPEND_FIRST, PRE_PREPEND_ALWAYS };

struct pre_step {
    enum pre_kind kind;
    struct pattern *pattern;      /* PRE_SPLIT */
    enum pre_behaviour behaviour; /* PRE_SPLIT: what becomes of a match */
    bool is_inverted;             /* PRE_SPLIT: the rest counts as match */
    bool is_individual;           /* PRE_DIGITS: every digit alone */
    bool replaces_space;          /* PRE_REWRITE: " " becomes the replacement */
    enum pre_prepend prepend;     /* PRE_REWRITE: when the replacement goes in front */
    char replacement[PRE_MAX_REPLACEMENT + 1];
};

struct pretokenizer {
    struct pre_step steps[PRE_MAX_STEPS];
    int n_steps;
};

struct pre_span {
    size_t at, len; /* bytes in text */
};

struct pre_scratch {
    struct buf text;
    struct pre_span *spans; /* the words, in order, none empty */
    size_t n, cap;
    bool is_first; /* spans[0] starts where the whole input starts */
    struct buf other_text;
    struct pre_span *other_spans; /* the next step's, swapped in after it */
    size_t other_n, other_cap;
    struct pattern_run *run;
    size_t run_len;
};

extern const char pretokenizer_gpt2[];
extern const char pretokenizer_llama3[];
extern const char pretokenizer_qwen2[];

int pretokenizer_add_split(struct pretokenizer *p, const char *regex, bool is_literal,
                           enum pre_behaviour behaviour, bool is_inverted, struct err *err);
int pretokenizer_add_digits(struct pretokenizer *p, bool is_individual, struct err *err);
int pretokenizer_add_byte_level(struct pretokenizer *p, bool adds_prefix_space,
                                bool uses_regex, struct err *err);
int pretokenizer_add_metaspace(struct pretokenizer *p, const char *replacement,
                               enum pre_prepend prepend, bool splits, struct err *err);

/* is_first: the text starts where the whole input starts. -1: out of memory or over a
 * limit. */
int pretokenizer_run(const struct pretokenizer *p, struct pre_scratch *s, const char *text,
                     size_t len, bool is_first, struct err *err);

void pre_scratch_free(struct pre_scratch *s);
void pretokenizer_free(struct pretokenizer *p);

#endif
