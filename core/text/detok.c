/* Streams the text of an answer: what decode(prompt + new) has beyond decode(prompt). */
#include "core/tokenizer.h"

#include <stdlib.h>
#include <string.h>

#include "core/base/mem.h"
#include "core/base/utf8.h"
#include "core/text/tokenizer_parts.h"

/* The prompt's certain text is dropped as it is decoded. What an end of the prompt would
 * still show
 * (`shown`: U+FFFD for half a character, or the text of a run of byte tokens) is dropped
 * from the answer character by character for as long as the answer agrees with it. */
struct detok {
    struct decode_state state;
    struct buf shown, piece;
    size_t shown_at;
};

struct detok *detok_new(const struct tokenizer *t, const int32_t *prompt, size_t n)
{
    struct detok *d = xcalloc(1, sizeof *d);
    decode_init(&d->state, &t->decoder, true);
    for (size_t i = 0; i < n; i++) {
        decode_feed(&d->state, prompt[i], &d->piece);
        buf_clear(&d->piece);
    }
    decode_rest(&d->state, &d->shown);
    return d;
}

/* Moves the piece to out, without what the prompt already shows. */
static void hand_out(struct detok *d, struct buf *out)
{
    const char *text = d->piece.data;
    size_t len = d->piece.len, left;
    while (len && (left = d->shown.len - d->shown_at) > 0) {
        size_t n = (size_t)utf8_char_len(text, len, NULL);
        if (n > left || memcmp(text, d->shown.data + d->shown_at, n) != 0) {
            d->shown_at = d->shown.len;
            break;
        }
        d->shown_at += n;
        text += n;
        len -= n;
    }
    if (len)
        buf_add(out, text, len);
    buf_clear(&d->piece);
}

void detok_feed(struct detok *d, int32_t id, struct buf *out)
{
    decode_feed(&d->state, id, &d->piece);
    hand_out(d, out);
}

void detok_end(struct detok *d, struct buf *out)
{
    decode_end(&d->state, &d->piece);
    hand_out(d, out);
}

void detok_free(struct detok *d)
{
    if (!d)
        return;
    decode_fini(&d->state);
    buf_free(&d->shown);
    buf_free(&d->piece);
    free(d);
}
