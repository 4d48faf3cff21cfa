/* What a tokenizer is made of: for the files that build one and the one that runs it.
 *
 * Thread: built at boot by one thread, immutable afterwards. */
#ifndef PREFIXD_TEXT_TOKENIZER_PARTS_H
#define PREFIXD_TEXT_TOKENIZER_PARTS_H

#include "core/text/added.h"
#include "core/text/bpe.h"
#include "core/text/decoder.h"
#include "core/text/normalizer.h"
#include "core/text/pretokenizer.h"
#include "core/tokenizer.h"

struct tokenizer {
    struct bpe bpe;
    struct added added;
    struct normalizer normalizer;
    struct pretokenizer pretokenizer;
    struct decoder_spec decoder_spec;
    struct decoder decoder;
    struct token_list before, after; /* what the post-processor adds */
};

/* Adds a token whose content the model's vocabulary may have under the same id. Wants the
 * normalizer set already. */
int tokenizer_add_token(struct tokenizer *t, const struct added_token *token,
                        const char *content, size_t len, struct err *err);

/* What is left to do when every part is filled: tables, and checks across parts. */
int tokenizer_seal(struct tokenizer *t, struct err *err);

#endif
