/* Small pieces of JSON written straight into a buffer, for answers made token by token.
 *
 * Thread: any.
 *
 *     json_out_string(&b, text, len);    "a \"quoted\" text"
 *     json_out_float(&b, -0.5f);         -0.5
 */
#ifndef PREFIXD_JSON_OUT_H
#define PREFIXD_JSON_OUT_H

#include "core/base/buf.h"

#include <stddef.h>

/* Appends s, quoted and escaped. s may hold any bytes (and be NULL when len is 0): what is
 * not UTF-8 comes out as U+FFFD, so that the result is JSON whatever a client or a cut
 * message brought in. */
void json_out_string(struct buf *b, const char *s, size_t len);

/* The same for a NUL-terminated string; NULL gives null. */
void json_out_str(struct buf *b, const char *s);

/* Appends the shortest decimal that reads back as the same f32, whether a reader parses it
 * as float or as double. Always recognisable as a real number (1.0, not 1). NaN and
 * infinities give null. */
void json_out_float(struct buf *b, float f);

#endif
