/* Server-sent events: the framing alone (WHATWG HTML, 9.2).
 *
 * Thread: any. */
#ifndef PREFIXD_SSE_H
#define PREFIXD_SSE_H

#include "core/base/buf.h"

#include <stddef.h>

/* Between the two the data goes to out, as one line. */
void sse_begin_data(struct buf *out);
void sse_end_data(struct buf *out);

void sse_add_error(struct buf *out, const char *json, size_t len); /* named "error" */
void sse_add_comment(struct buf *out, const char *text);
void sse_add_done(struct buf *out); /* what ends a stream of the OpenAI API */

#endif
