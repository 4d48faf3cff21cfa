/* A growing run of bytes. */
#include "core/base/buf.h"

#include "core/base/check.h"
#include "core/base/mem.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void buf_reserve(struct buf *b, size_t more)
{
    CHECK(more < SIZE_MAX / 2 - b->len);
    size_t need = b->len + more + 1;
    if (need <= b->cap)
        return;
    size_t cap = b->cap ? b->cap : 64;
    while (cap < need)
        cap *= 2;
    b->data = xrealloc(b->data, cap);
    b->cap = cap;
}

static int try_grow(struct buf *b, size_t cap)
{
    char *data = realloc(b->data, cap);
    if (!data)
        return -1;
    b->data = data;
    b->cap = cap;
    return 0;
}

int buf_try_reserve(struct buf *b, size_t more)
{
    if (more >= SIZE_MAX / 2 - b->len)
        return -1;
    size_t need = b->len + more + 1;
    return need <= b->cap ? 0 : try_grow(b, need);
}

/* Doubles while it can; what is asked for alone when memory is short. */
int buf_try_add(struct buf *b, const void *bytes, size_t len)
{
    bool is_tight = len < SIZE_MAX / 4 && b->len + len + 1 > b->cap;
    if (!(is_tight && b->cap < SIZE_MAX / 4 && try_grow(b, 2 * b->cap + len + 1) == 0) &&
        buf_try_reserve(b, len) < 0)
        return -1;
    buf_add(b, bytes, len);
    return 0;
}

void buf_add(struct buf *b, const void *bytes, size_t len)
{
    buf_reserve(b, len);
    if (len)
        memcpy(b->data + b->len, bytes, len);
    b->len += len;
    b->data[b->len] = '\0';
}

void buf_add_str(struct buf *b, const char *s)
{
    buf_add(b, s, strlen(s));
}

void buf_add_char(struct buf *b, char c)
{
    buf_add(b, &c, 1);
}

void buf_printf(struct buf *b, const char *fmt, ...)
{
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    CHECK(n >= 0);
    buf_reserve(b, (size_t)n);
    CHECK(vsnprintf(b->data + b->len, (size_t)n + 1, fmt, again) == n);
    va_end(again);
    b->len += (size_t)n;
}

void buf_clear(struct buf *b)
{
    b->len = 0;
    if (b->data)
        b->data[0] = '\0';
}

char *buf_take(struct buf *b, size_t *len)
{
    buf_reserve(b, 0);
    b->data[b->len] = '\0';
    char *data = b->data;
    if (len)
        *len = b->len;
    *b = (struct buf){0};
    return data;
}

void buf_free(struct buf *b)
{
    free(b->data);
    *b = (struct buf){0};
}
