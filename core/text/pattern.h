/* A regular expression as tokenizer files write them (Oniguruma's dialect), run by PCRE2.
 *
 * Thread: a pattern is immutable and may be used by any; a pattern_run belongs to one caller.
 * The two dialects read some constructs differently; those are translated where the tokenizers
 * in use need them and refused by name otherwise, so that a pattern never silently splits
 * differently. General categories are those of the Unicode version that PCRE2 was built with
 * (14 for 10.42): letters added to Unicode since count as unassigned.
 *
 *     struct pattern *p = pattern_new("\\s+", false, err);
 *     struct pattern_run *run = pattern_run_new(len);
 *     while ((rc = pattern_next(p, run, text, len, at, &start, &end, err)) == 1) at = end;
 */
#ifndef PREFIXD_TEXT_PATTERN_H
#define PREFIXD_TEXT_PATTERN_H

#include "core/base/err.h"

#include <stdbool.h>
#include <stddef.h>

struct pattern;
struct pattern_run;

/* A literal is matched as it stands. A pattern that matches nothing at all (empty) is
 * refused. */
struct pattern *pattern_new(const char *regex, bool is_literal, struct err *err);
void pattern_free(struct pattern *p);

/* State for matching in texts of up to len bytes. NULL when memory is out. */
struct pattern_run *pattern_run_new(size_t len);
void pattern_run_free(struct pattern_run *run);

/* The first match at or after `at` in valid UTF-8. 1: found, 0: none, -1: a resource limit
 * was hit. */
int pattern_next(const struct pattern *p, struct pattern_run *run, const char *text,
                 size_t len, size_t at, size_t *start, size_t *end, struct err *err);

#endif
