/* Byte pair encoding of one word: characters, then the best-ranked neighbours merged.
 *
 * Thread: any; a struct bpe is immutable once filled, the scratch belongs to the caller.
 * Time is O(n log n) in the length of the word whatever it holds. A zeroed scratch is
 * valid.
 *
 *     struct bpe_scratch scratch = {0};
 *     bpe_encode(&bpe, &scratch, word, len, &ids, err);
 *     bpe_scratch_free(&scratch);
 */
#ifndef PREFIXD_TEXT_BPE_H
#define PREFIXD_TEXT_BPE_H

#include "core/base/err.h"
#include "core/text/merges.h"
#include "core/text/vocab.h"
#include "core/tokenizer.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { BPE_FAST_CHARS = 0x250 }; /* covers every character that stands for a byte */

struct bpe {
    struct vocab vocab;
    struct merges merges;
    bool byte_fallback;               /* unknown characters become <0xNN> tokens */
    bool fuse_unk;                    /* neighbouring unknown characters become one token */
    bool ignore_merges;               /* a word that is a piece is that piece */
    int32_t unk_id;                   /* -1: unknown characters are left out */
    int32_t byte_ids[256];            /* of <0xNN>, -1 where there is none */
    int32_t char_ids[BPE_FAST_CHARS]; /* of the pieces that are one low character */
};

struct bpe_symbol;

struct bpe_scratch {
    struct bpe_symbol *symbols;
    uint64_t *heap;
    size_t symbol_cap, heap_cap, n_heap;
};

/* Fills byte_ids and char_ids once the vocabulary is complete. */
void bpe_prepare(struct bpe *b);

/* Adds the rule "left right", whose pieces and result must be in the vocabulary. */
int bpe_add_merge(struct bpe *b, uint32_t rank, const char *left, size_t left_len,
                  const char *right, size_t right_len, struct err *err);

/* Appends the tokens of a word of valid UTF-8. -1 only with ERR_NO_MEMORY. */
int bpe_encode(const struct bpe *b, struct bpe_scratch *s, const char *word, size_t len,
               struct token_list *out, struct err *err);

void bpe_scratch_free(struct bpe_scratch *s);
void bpe_free(struct bpe *b);

#endif
