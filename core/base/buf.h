/* A growing run of bytes.
 *
 * Thread: one at a time. A zeroed struct is a valid empty buffer; buf_free makes it so again. Growth
 * aborts when memory is out, so whoever fills a buffer from outside bounds it first, or uses buf_try_*
 * where a client decides about megabytes. `data` is always followed by a NUL that `len` does not count (data is NULL while nothing was ever added).
 *
 *     struct buf b = {0};
 *     buf_printf(&b, "%d rows", n);
 *     buf_free(&b);
 */
#ifndef PREFIXD_BUF_H
#define PREFIXD_BUF_H

#include <stddef.h>

struct buf {
    char *data;
    size_t len, cap;
};

void buf_reserve(struct buf *b, size_t more);
void buf_add(struct buf *b, const void *bytes, size_t len);
void buf_add_str(struct buf *b, const char *s);
void buf_add_char(struct buf *b, char c);
void buf_printf(struct buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* -1 when memory is out, with nothing changed. buf_try_reserve takes exactly what is asked for. */
int buf_try_reserve(struct buf *b, size_t more);
int buf_try_add(struct buf *b, const void *bytes, size_t len);

void buf_clear(struct buf *b);              /* len = 0, memory kept */
char *buf_take(struct buf *b, size_t *len); /* caller frees; b is empty after; len may be NULL */
void buf_free(struct buf *b);

#endif
