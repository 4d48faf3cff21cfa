/* JSON strings and numbers into a buffer. */
#include "core/base/json_out.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/utf8.h"

static bool is_plain(unsigned char c)
{
    return c >= 0x20 && c < 0x80 && c != '"' && c != '\\';
}

static void add_escaped(struct buf *b, unsigned char c)
{
    static const char from[] = "\"\\\b\f\n\r\t", to[] = "\"\\bfnrt";
    const char *at = c ? strchr(from, c) : NULL;
    if (at) {
        char pair[2] = {'\\', to[at - from]};
        buf_add(b, pair, 2);
    } else {
        buf_printf(b, "\\u%04x", c);
    }
}

void json_out_string(struct buf *b, const char *s, size_t len)
{
    buf_reserve(b, len + 2);
    buf_add_char(b, '"');
    size_t at = 0;
    while (at < len) {
        size_t start = at;
        int n = 1;
        while (at < len && is_plain((unsigned char)s[at]))
            at++;
        buf_add(b, s + start, at - start);
        if (at == len)
            break;
        if ((unsigned char)s[at] < 0x80) {
            add_escaped(b, (unsigned char)s[at]);
        } else if ((n = utf8_char_len(s + at, len - at, NULL)) > 0) {
            buf_add(b, s + at, (size_t)n);
        } else {
            buf_add_str(b, "\xef\xbf\xbd");
            n = 1;
        }
        at += (size_t)n;
    }
    buf_add_char(b, '"');
}

void json_out_str(struct buf *b, const char *s)
{
    if (s)
        json_out_string(b, s, strlen(s));
    else
        buf_add_str(b, "null");
}

/* Nine significant digits always tell one f32 from its neighbours; mostly fewer do. */
void json_out_float(struct buf *b, float f)
{
    char text[32];
    if (!isfinite(f)) {
        buf_add_str(b, "null");
        return;
    }
    for (int digits = 6; digits <= 9; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, (double)f);
        if (strtof(text, NULL) == f && (float)strtod(text, NULL) == f)
            break;
    }
    buf_add_str(b, text);
    if (!strpbrk(text, ".e"))
        buf_add_str(b, ".0");
}
