/* The text of every token, and the state that joins it. */
#include "core/text/decoder.h"

#include <stdlib.h>
#include <string.h>

#include "core/base/mem.h"
#include "core/base/utf8.h"
#include "core/text/bytelevel.h"

static const char replacement_char[] = "\xef\xbf\xbd";

struct decoder_token {
    size_t at;
    uint32_t len;
    int16_t byte; /* of a <0xNN> token, else -1 */
    bool is_set, is_special;
};

/* A piece with a character outside the alphabet stands for its own bytes. */
static void add_byte_level(struct buf *out, const char *piece, size_t len)
{
    size_t start = out->len;
    for (size_t at = 0; at < len;) {
        int n = utf8_char_len(piece + at, len - at, NULL);
        int byte = n ? bytelevel_byte(utf8_decode(piece + at, n)) : -1;
        if (byte < 0) {
            out->len = start;
            buf_add(out, piece, len);
            return;
        }
        buf_add_char(out, (char)byte);
        at += (size_t)n;
    }
}

static void add_replaced(struct buf *out, const char *piece, size_t len, const char *from,
                         const char *to)
{
    size_t from_len = strlen(from);
    for (size_t at = 0; at < len;) {
        if (from_len && len - at >= from_len && memcmp(piece + at, from, from_len) == 0) {
            buf_add_str(out, to);
            at += from_len;
        } else {
            buf_add_char(out, piece[at++]);
        }
    }
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 32;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static int16_t byte_of(const char *piece, size_t len)
{
    if (len != 6 || memcmp(piece, "<0x", 3) != 0 || piece[5] != '>')
        return -1;
    int high = hex_digit(piece[3]), low = hex_digit(piece[4]);
    return high < 0 || low < 0 ? -1 : (int16_t)(high << 4 | low);
}

static void add_token(struct decoder *d, int32_t id, const char *piece, size_t len)
{
    struct decoder_token *t = &d->tokens[id];
    const struct decoder_spec *spec = &d->spec;
    t->at = d->pool.len;
    t->is_set = true;
    t->byte = -1;
    if (spec->byte_level) {
        add_byte_level(&d->pool, piece, len);
    } else if (spec->drops_first) { /* replaced when it is known whether it comes first */
        buf_add(&d->pool, piece, len);
    } else {
        add_replaced(&d->pool, piece, len, spec->from, spec->to);
        if (spec->byte_fallback)
            t->byte = byte_of(d->pool.data + t->at, d->pool.len - t->at);
    }
    t->len = (uint32_t)(d->pool.len - t->at);
}

int decoder_build(struct decoder *d, const struct decoder_spec *spec,
                  const struct vocab *vocab, const struct added *added, struct err *err)
{
    d->spec = *spec;
    d->n_tokens = vocab->id_end > added->names.id_end ? vocab->id_end : added->names.id_end;
    d->tokens = mem_try_calloc((size_t)d->n_tokens, sizeof *d->tokens);
    if (!d->tokens)
        return err_set(err, ERR_NO_MEMORY, "not enough memory for the tokenizer");
    buf_reserve(&d->pool, 1);
    for (int32_t id = 0; id < d->n_tokens; id++) {
        size_t len;
        const char *piece = vocab_piece(&added->names, id, &len);
        if (!piece)
            piece = vocab_piece(vocab, id, &len);
        if (!piece)
            continue;
        if (utf8_valid_len(piece, len) != len)
            return err_set(err, ERR_INVALID, "token %d is not UTF-8", id);
        add_token(d, id, piece, len);
    }
    for (size_t i = 0; i < added->n; i++)
        d->tokens[added->tokens[i].id].is_special = added->tokens[i].is_special;
    return 0;
}

bool decoder_is_special(const struct decoder *d, int32_t id)
{
    return id >= 0 && id < d->n_tokens && d->tokens[id].is_special;
}

void decoder_free(struct decoder *d)
{
    free(d->tokens);
    buf_free(&d->pool);
    *d = (struct decoder){0};
}

void decode_init(struct decode_state *s, const struct decoder *d, bool skips_special)
{
    *s = (struct decode_state){
        .decoder = d, .skips_special = skips_special, .strip_left = d->spec.n_strip};
}

/* Hands out certain text, less what is stripped at the start of the whole. */
static void emit(const struct decoder_spec *spec, int *strip_left, const char *text,
                 size_t len, struct buf *out)
{
    size_t n = strlen(spec->strip);
    while (*strip_left > 0 && len) {
        if (len < n || memcmp(text, spec->strip, n) != 0) {
            *strip_left = 0;
            break;
        }
        --*strip_left;
        text += n;
        len -= n;
    }
    buf_add(out, text, len);
}

static void emit_replacements(const struct decoder_spec *spec, int *strip_left, size_t n,
                              struct buf *out)
{
    for (size_t i = 0; i < n; i++)
        emit(spec, strip_left, replacement_char, sizeof replacement_char - 1, out);
}

/* Bytes at the end that may be the beginning of a character. */
static size_t cut_tail(const char *s, size_t len)
{
    for (size_t n = 1; n <= 3 && n <= len; n++) {
        bool is_cut = false;
        utf8_char_len(s + len - n, n, &is_cut);
        if (is_cut)
            return n;
    }
    return 0;
}

static void feed_byte_level(struct decode_state *s, const char *text, size_t len,
                            struct buf *out)
{
    buf_add(&s->held, text, len);
    size_t tail = cut_tail(s->held.data, s->held.len);
    size_t n = s->held.len - tail;
    utf8_add_lossy(out, s->held.data, n);
    memmove(s->held.data, s->held.data + n, tail);
    s->held.len = tail;
}

static void feed_byte(struct decode_state *s, char byte, struct buf *out)
{
    const struct decoder_spec *spec = &s->decoder->spec;
    if (s->is_run_broken) {
        emit_replacements(spec, &s->strip_left, 1, out);
        return;
    }
    buf_add_char(&s->held, byte);
    bool is_cut = false;
    const char *from = s->held.data + s->n_checked;
    size_t len = s->held.len - s->n_checked;
    int n = utf8_char_len(from, len, &is_cut);
    s->n_checked += (size_t)n;
    if (n || is_cut)
        return;
    emit_replacements(spec, &s->strip_left, s->held.len, out);
    buf_clear(&s->held);
    s->n_checked = 0;
    s->is_run_broken = true;
}

static void add_rest(const struct decode_state *s, int *strip_left, struct buf *out)
{
    const struct decoder_spec *spec = &s->decoder->spec;
    if (!s->held.len)
        return;
    if (spec->byte_level)
        utf8_add_lossy(out, s->held.data, s->held.len);
    else if (s->n_checked == s->held.len)
        emit(spec, strip_left, s->held.data, s->held.len, out);
    else
        emit_replacements(spec, strip_left, s->held.len, out);
}

void decode_rest(const struct decode_state *s, struct buf *out)
{
    int strip_left = s->strip_left;
    add_rest(s, &strip_left, out);
}

/* The end of a run of byte tokens, or of everything. */
static void end_run(struct decode_state *s, struct buf *out)
{
    add_rest(s, &s->strip_left, out);
    buf_clear(&s->held);
    s->n_checked = 0;
    s->is_run_broken = false;
}

static void feed_text(struct decode_state *s, const char *text, size_t len, struct buf *out)
{
    const struct decoder_spec *spec = &s->decoder->spec;
    if (!spec->drops_first) {
        emit(spec, &s->strip_left, text, len, out);
        return;
    }
    add_replaced(out, text, len, spec->from, s->has_token ? spec->to : "");
}

void decode_feed(struct decode_state *s, int32_t id, struct buf *out)
{
    const struct decoder *d = s->decoder;
    if (id < 0 || id >= d->n_tokens || !d->tokens[id].is_set)
        return;
    const struct decoder_token *t = &d->tokens[id];
    if (t->is_special && s->skips_special)
        return;
    const char *text = d->pool.data + t->at;
    if (d->spec.byte_level) {
        feed_byte_level(s, text, t->len, out);
    } else if (t->byte >= 0) {
        feed_byte(s, (char)t->byte, out);
    } else {
        end_run(s, out);
        feed_text(s, text, t->len, out);
    }
    s->has_token = true;
}

void decode_end(struct decode_state *s, struct buf *out)
{
    end_run(s, out);
}

void decode_fini(struct decode_state *s)
{
    buf_free(&s->held);
    s->decoder = NULL;
}
