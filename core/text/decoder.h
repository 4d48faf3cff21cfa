/* From tokens back to text, one at a time: what is handed out never changes.
 *
 * Thread: built at boot; immutable afterwards, the states belong to their callers. A zeroed
 * struct decoder_spec is what decoder_build starts from.
 *
 * What can be certain after a token depends on the kind. Byte-level: everything but the
 * beginning of a character that is not whole yet (at most three bytes). Byte fallback: the
 * reference turns a whole run of byte tokens into text if it is UTF-8 and into one U+FFFD
 * per byte if it is not, so a run is held back until it ends or cannot become UTF-8 any
 * more.
 *
 *     struct decode_state s;
 *     decode_init(&s, &decoder, true);
 *     decode_feed(&s, id, &out);
 *     decode_end(&s, &out);
 *     decode_fini(&s);
 */
#ifndef PREFIXD_TEXT_DECODER_H
#define PREFIXD_TEXT_DECODER_H

#include "core/base/buf.h"
#include "core/base/err.h"
#include "core/text/added.h"
#include "core/text/vocab.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { DECODER_MAX_STRING = 32 };

struct decoder_spec {
    bool byte_level;                   /* characters of the byte-level alphabet to bytes */
    bool byte_fallback;                /* <0xNN> to bytes */
    char from[DECODER_MAX_STRING + 1]; /* replaced in every token; "" for none */
    char to[DECODER_MAX_STRING + 1];
    bool drops_first; /* Metaspace: in the first token `from` is dropped instead */
    char strip[5];    /* a character dropped at the start of the whole text... */
    int n_strip;      /* ...at most so many times */
};

struct decoder_token;

struct decoder {
    struct decoder_spec spec;
    struct decoder_token *tokens; /* [n_tokens] */
    int32_t n_tokens;
    struct buf pool;
};

struct decode_state {
    const struct decoder *decoder;
    bool skips_special;
    bool has_token;     /* a token was decoded */
    bool is_run_broken; /* the run of byte tokens is no UTF-8 */
    int strip_left;     /* how many characters may still be stripped */
    size_t n_checked;   /* bytes of held that are whole characters */
    struct buf held;
};

/* Writes down the text of every token of the vocabulary and the added ones. */
int decoder_build(struct decoder *d, const struct decoder_spec *spec,
                  const struct vocab *vocab, const struct added *added, struct err *err);
bool decoder_is_special(const struct decoder *d, int32_t id);
void decoder_free(struct decoder *d);

void decode_init(struct decode_state *s, const struct decoder *d, bool skips_special);
void decode_feed(struct decode_state *s, int32_t id,
                 struct buf *out); /* unknown ids give nothing */
void decode_rest(const struct decode_state *s,
                 struct buf *out); /* what an end here would add */
void decode_end(struct decode_state *s, struct buf *out);
void decode_fini(struct decode_state *s);

#endif
