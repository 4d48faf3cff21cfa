/* Added tokens, special ones among them: found in text before anything else is done.
 *
 * Thread: filled at boot by one thread, read by any afterwards. A zeroed struct holds no
 * tokens. Tokens are matched leftmost, then longest. "Raw" ones are looked for in the text
 * as it came, "normalized" ones in the normalised pieces between those.
 *
 *     struct added a = {0};
 *     added_put(&a, &(struct added_token){.id = 2, .is_special = true}, "</s>", 4, "</s>",
 * 4, err); struct added_pieces pieces = {0}; added_split(&a, ADDED_RAW, text, len,
 * &pieces);
 */
#ifndef PREFIXD_TEXT_ADDED_H
#define PREFIXD_TEXT_ADDED_H

#include "core/base/err.h"
#include "core/text/vocab.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { ADDED_MAX_LEN = 1024 };

struct added_token {
    int32_t id;
    bool is_special;
    bool is_normalized;  /* looked for in normalised text */
    bool single_word;    /* only where no word character touches it */
    bool lstrip, rstrip; /* swallows the white space on that side */
};

struct added_node;

struct added_trie {
    struct added_node *nodes; /* [n], the root first */
    size_t n, cap;
    int32_t first[256]; /* the root's children by byte, 0 for none */
};

enum added_kind { ADDED_RAW, ADDED_NORMALIZED };

struct added {
    struct vocab names; /* content by id */
    struct added_token *tokens;
    size_t n, cap;
    struct added_trie tries[2]; /* by enum added_kind */
};

struct added_piece {
    size_t at, len;
    int32_t id; /* -1: plain text */
};

struct added_pieces { /* zeroed = empty */
    struct added_piece *list;
    size_t n, cap;
};

/* Adds a token; pattern is what is looked for (the normalised content where is_normalized).
 */
int added_put(struct added *a, const struct added_token *token, const char *content,
              size_t len, const char *pattern, size_t pattern_len, struct err *err);
const struct added_token *added_find(const struct added *a,
                                     int32_t id); /* NULL: not added */

/* Replaces the list by the tokens and the text between them, in order, nothing empty. */
void added_split(const struct added *a, enum added_kind kind, const char *text, size_t len,
                 struct added_pieces *out);
void added_pieces_free(struct added_pieces *p);
void added_free(struct added *a);

#endif
