/* Text to tokens and back, exactly as the Hugging Face tokenizers library does it for byte-level BPE
 * (GPT-2, Llama 3, Qwen, SmolLM) and SentencePiece-style BPE (Llama 2).
 *
 * Thread: opening at boot (it parses JSON); everything else any thread: a tokenizer is immutable and
 * encode/decode keep their state on the stack or in the caller's struct. A tokenizer lives from
 * open to tokenizer_free and must outlive its detok states.
 *
 *     struct tokenizer *t = tokenizer_open_dir(path, &err);
 *     struct token_list ids = {0};
 *     tokenizer_encode(t, "Hello", 5, TOKENIZER_ADD_SPECIAL, &ids, &err);
 *     struct buf text = {0};
 *     tokenizer_decode(t, ids.ids, ids.n, TOKENIZER_SKIP_SPECIAL, &text);
 */
#ifndef PREFIXD_TOKENIZER_H
#define PREFIXD_TOKENIZER_H

#include "core/base/buf.h"
#include "core/base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct tokenizer;

struct token_list { /* zeroed = empty; token_list_free makes it so again */
    int32_t *ids;
    size_t n, cap;
};

void token_list_add(struct token_list *l, int32_t id);
void token_list_free(struct token_list *l);

enum tokenizer_flags {
    TOKENIZER_ADD_SPECIAL = 1,  /* encode: add what the post-processor adds (BOS...) */
    TOKENIZER_SKIP_SPECIAL = 2, /* decode: leave special tokens out of the text */
};

/* tokenizer.json (required) of a Hugging Face directory; tokenizer_config.json is read where it
 * changes what is added (add_bos_token). NULL + err naming what is not supported. */
struct tokenizer *tokenizer_open_dir(const char *dir, struct err *err);

/* From the bytes of a tokenizer.json. */
struct tokenizer *tokenizer_open_json(const char *json, size_t len, struct err *err);

/* From GGUF metadata of kind "gpt2": borrowed only during the call. */
struct tokenizer_gguf {
    const char *pre;             /* tokenizer.ggml.pre: "smollm", "gpt-2", "llama-bpe", "qwen2"... */
    const char *const *tokens;   /* [n_tokens] NUL-terminated byte-level pieces */
    const int32_t *types;        /* [n_tokens] 1 normal, 2 unknown, 3 control, 4 user defined; or NULL */
    size_t n_tokens;
    const char *const *merges;   /* [n_merges] "left right" */
    size_t n_merges;
    int32_t bos;                 /* -1: none */
    bool add_bos;
};
struct tokenizer *tokenizer_open_gguf(const struct tokenizer_gguf *g, struct err *err);

void tokenizer_free(struct tokenizer *t);

int32_t tokenizer_n_tokens(const struct tokenizer *t); /* one more than the largest id */
int32_t tokenizer_find(const struct tokenizer *t, const char *piece); /* id of an added or vocabulary token, -1 */
bool tokenizer_is_special(const struct tokenizer *t, int32_t id);

/* Appends the tokens of text (any bytes: ill-formed UTF-8 counts as U+FFFD). Special tokens are
 * recognised in it. -1, with nothing appended: ERR_TOO_LARGE (over 64 MiB), ERR_INVALID (a pattern's
 * resource limit is hit), ERR_NO_MEMORY. Time is O(n log n) whatever the text. */
int tokenizer_encode(const struct tokenizer *t, const char *text, size_t len, int flags,
                     struct token_list *out, struct err *err);

/* Appends the text of ids; unknown ids give nothing. The result is valid UTF-8 (U+FFFD as in HF: one
 * per maximal ill-formed part; with byte fallback, one per byte of a run that is not UTF-8). */
void tokenizer_decode(const struct tokenizer *t, const int32_t *ids, size_t n, int flags,
                      struct buf *out);

/* Streaming: text of an answer = decode(prompt + new) minus decode(prompt), special tokens skipped.
 * "Minus" drops the longest common beginning in whole characters: where the prompt ends within a
 * character (decode(prompt) ends in U+FFFD) and the answer completes it, the answer starts with that
 * character. detok_feed appends what became certain with this token: never half a character; with byte
 * fallback a run of byte tokens waits for its end. detok_end appends what was held back (incomplete
 * bytes as U+FFFD). All pieces joined equal the whole. Cost per token does not grow with the length of
 * prompt or answer (amortised). */
struct detok;
struct detok *detok_new(const struct tokenizer *t, const int32_t *prompt, size_t n);
void detok_feed(struct detok *d, int32_t id, struct buf *out);
void detok_end(struct detok *d, struct buf *out);
void detok_free(struct detok *d);

#endif
