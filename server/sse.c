/* Framing of server-sent events. */
#include "server/sse.h"

void sse_begin_data(struct buf *out)
{
    buf_add_str(out, "data: ");
}

void sse_end_data(struct buf *out)
{
    buf_add_str(out, "\n\n");
}

void sse_add_error(struct buf *out, const char *json, size_t len)
{
    buf_add_str(out, "event: error\n");
    sse_begin_data(out);
    buf_add(out, json, len);
    sse_end_data(out);
}

void sse_add_comment(struct buf *out, const char *text)
{
    buf_add_str(out, ": ");
    buf_add_str(out, text);
    buf_add_str(out, "\n\n");
}

void sse_add_done(struct buf *out)
{
    buf_add_str(out, "data: [DONE]\n\n");
}
