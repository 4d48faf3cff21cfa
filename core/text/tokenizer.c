/* Runs the parts of a tokenizer in their order, in both directions. */
#include "core/tokenizer.h"

#include <stdlib.h>
#include <string.h>

#include "core/base/mem.h"
#include "core/base/utf8.h"
#include "core/text/tokenizer_parts.h"

enum { MAX_TEXT = 64 << 20 };

struct encoder { /* the state of one call */
    const struct tokenizer *t;
    struct added_pieces raw, normalized;
    struct buf text; /* a piece between raw added tokens, normalised */
    struct pre_scratch words;
    struct bpe_scratch bpe;
    struct token_list *out;
    struct err *err;
};

void token_list_add(struct token_list *l, int32_t id)
{
    if (l->n == l->cap) {
        l->cap = l->cap ? 2 * l->cap : 64;
        l->ids = xrealloc(l->ids, l->cap * sizeof *l->ids);
    }
    l->ids[l->n++] = id;
}

void token_list_free(struct token_list *l)
{
    free(l->ids);
    *l = (struct token_list){0};
}

static void add_all(struct token_list *l, const struct token_list *from)
{
    for (size_t i = 0; i < from->n; i++)
        token_list_add(l, from->ids[i]);
}

int tokenizer_add_token(struct tokenizer *t, const struct added_token *token,
                        const char *content, size_t len, struct err *err)
{
    size_t piece_len;
    const char *piece = vocab_piece(&t->bpe.vocab, token->id, &piece_len);
    int32_t id = vocab_find(&t->bpe.vocab, content, len);
    if (id >= 0 ? id != token->id : piece != NULL)
        return err_set(err, ERR_INVALID,
                       "added token %d \"%.*s\" is not what the vocabulary has there",
                       token->id, (int)(len < 64 ? len : 64), content);
    if (!token->is_normalized)
        return added_put(&t->added, token, content, len, content, len, err);
    struct buf pattern = {0};
    int rc = normalizer_run(&t->normalizer, content, len, &pattern, err);
    if (rc == 0)
        rc = added_put(&t->added, token, content, len, pattern.data, pattern.len, err);
    buf_free(&pattern);
    return rc;
}

static int check_ids(const struct tokenizer *t, const struct token_list *l, struct err *err)
{
    for (size_t i = 0; i < l->n; i++)
        if (l->ids[i] < 0 || l->ids[i] >= t->decoder.n_tokens)
            return err_set(err, ERR_INVALID, "post_processor: no token has the id %d",
                           l->ids[i]);
    return 0;
}

int tokenizer_seal(struct tokenizer *t, struct err *err)
{
    bpe_prepare(&t->bpe);
    if (decoder_build(&t->decoder, &t->decoder_spec, &t->bpe.vocab, &t->added, err) < 0)
        return -1;
    return check_ids(t, &t->before, err) < 0 ? -1 : check_ids(t, &t->after, err);
}

void tokenizer_free(struct tokenizer *t)
{
    if (!t)
        return;
    bpe_free(&t->bpe);
    added_free(&t->added);
    pretokenizer_free(&t->pretokenizer);
    decoder_free(&t->decoder);
    token_list_free(&t->before);
    token_list_free(&t->after);
    free(t);
}

int32_t tokenizer_n_tokens(const struct tokenizer *t)
{
    return t->decoder.n_tokens;
}

int32_t tokenizer_find(const struct tokenizer *t, const char *piece)
{
    int32_t id = vocab_find(&t->added.names, piece, strlen(piece));
    return id >= 0 ? id : vocab_find(&t->bpe.vocab, piece, strlen(piece));
}

bool tokenizer_is_special(const struct tokenizer *t, int32_t id)
{
    return decoder_is_special(&t->decoder, id);
}

/* Text without added tokens: words, then merges. */
static int encode_plain(struct encoder *e, const char *text, size_t len, bool is_first)
{
    if (pretokenizer_run(&e->t->pretokenizer, &e->words, text, len, is_first, e->err) < 0)
        return -1;
    for (size_t i = 0; i < e->words.n; i++) {
        struct pre_span word = e->words.spans[i];
        if (bpe_encode(&e->t->bpe, &e->bpe, e->words.text.data + word.at, word.len, e->out,
                       e->err) < 0)
            return -1;
    }
    return 0;
}

/* Text without raw added tokens: normalised, then split by those that are looked for after
 * that. */
static int encode_piece(struct encoder *e, const char *text, size_t len, bool is_first)
{
    if (normalizer_run(&e->t->normalizer, text, len, &e->text, e->err) < 0)
        return -1;
    added_split(&e->t->added, ADDED_NORMALIZED, e->text.data, e->text.len, &e->normalized);
    for (size_t i = 0; i < e->normalized.n; i++) {
        struct added_piece p = e->normalized.list[i];
        if (p.id >= 0)
            token_list_add(e->out, p.id);
        else if (encode_plain(e, e->text.data + p.at, p.len, is_first && p.at == 0) < 0)
            return -1;
    }
    return 0;
}

static int encode_text(struct encoder *e, const char *text, size_t len)
{
    added_split(&e->t->added, ADDED_RAW, text, len, &e->raw);
    for (size_t i = 0; i < e->raw.n; i++) {
        struct added_piece p = e->raw.list[i];
        if (p.id >= 0)
            token_list_add(e->out, p.id);
        else if (encode_piece(e, text + p.at, p.len, p.at == 0) < 0)
            return -1;
    }
    return 0;
}

static void encoder_fini(struct encoder *e)
{
    added_pieces_free(&e->raw);
    added_pieces_free(&e->normalized);
    buf_free(&e->text);
    pre_scratch_free(&e->words);
    bpe_scratch_free(&e->bpe);
}

int tokenizer_encode(const struct tokenizer *t, const char *text, size_t len, int flags,
                     struct token_list *out, struct err *err)
{
    if (len > MAX_TEXT)
        return err_set(err, ERR_TOO_LARGE, "a text of %zu bytes: at most %d are tokenised",
                       len, MAX_TEXT);
    struct encoder e = {.t = t, .out = out, .err = err};
    struct buf repaired = {0};
    size_t n_before = out->n;
    if (utf8_valid_len(text, len) != len) {
        utf8_add_lossy(&repaired, text, len);
        text = repaired.data;
        len = repaired.len;
    }
    if (flags & TOKENIZER_ADD_SPECIAL)
        add_all(out, &t->before);
    int rc = encode_text(&e, text, len);
    if (rc == 0 && flags & TOKENIZER_ADD_SPECIAL)
        add_all(out, &t->after);
    if (rc < 0)
        out->n = n_before;
    encoder_fini(&e);
    buf_free(&repaired);
    return rc;
}

void tokenizer_decode(const struct tokenizer *t, const int32_t *ids, size_t n, int flags,
                      struct buf *out)
{
    struct decode_state s;
    decode_init(&s, &t->decoder, (flags & TOKENIZER_SKIP_SPECIAL) != 0);
    for (size_t i = 0; i < n; i++)
        decode_feed(&s, ids[i], out);
    decode_end(&s, out);
    decode_fini(&s);
}
