/* Rewrites text before it is cut into words: Unicode forms, prefix, replacements.
 *
 * Thread: any; a normalizer is immutable once built. Steps run in the order in which they
 * were added; a zeroed normalizer changes nothing.
 *
 *     struct normalizer n = {0};
 *     normalizer_add_form(&n, NORM_NFC, err);
 *     normalizer_run(&n, text, len, &out, err);
 */
#ifndef PREFIXD_TEXT_NORMALIZER_H
#define PREFIXD_TEXT_NORMALIZER_H

#include "core/base/buf.h"
#include "core/base/err.h"

#include <stddef.h>

enum { NORM_MAX_STEPS = 8, NORM_MAX_STRING = 32 };

enum norm_kind { NORM_NFC, NORM_NFD, NORM_NFKC, NORM_NFKD, NORM_PREPEND, NORM_REPLACE };

struct norm_step {
    enum norm_kind kind;
    char from[NORM_MAX_STRING + 1]; /* NORM_REPLACE */
    char to[NORM_MAX_STRING + 1];   /* NORM_REPLACE, NORM_PREPEND */
};

struct normalizer {
    struct norm_step steps[NORM_MAX_STEPS];
    int n_steps;
};

int normalizer_add_form(struct normalizer *n, enum norm_kind form, struct err *err);
int normalizer_add_prepend(struct normalizer *n, const char *to, struct err *err);
int normalizer_add_replace(struct normalizer *n, const char *from, const char *to,
                           struct err *err);

/* Replaces what is in out by the normalised text (valid UTF-8). -1: it grows beyond all
 * reason, or memory is out. */
int normalizer_run(const struct normalizer *n, const char *text, size_t len,
                   struct buf *out, struct err *err);

#endif
