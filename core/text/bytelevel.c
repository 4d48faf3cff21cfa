/* The byte-level alphabet, computed rather than tabled. */
#include "core/text/bytelevel.h"

#include <stdbool.h>

#include "core/base/utf8.h"

static bool is_plain(uint32_t c)
{
    return (c >= 0x21 && c <= 0x7e) || (c >= 0xa1 && c <= 0xff && c != 0xad);
}

/* The bytes that are not plain are numbered in order: 0..32, 127..160, 173. */
static uint32_t code_of(unsigned char byte)
{
    if (is_plain(byte))
        return byte;
    if (byte <= 0x20)
        return 0x100u + byte;
    return byte == 0xad ? 0x143 : 0x121u + (byte - 0x7fu);
}

void bytelevel_add(struct buf *out, const char *bytes, size_t len)
{
    buf_reserve(out, 2 * len); /* no character of the alphabet is longer */
    char *to = out->data + out->len;
    for (size_t i = 0; i < len; i++) {
        uint32_t c = code_of((unsigned char)bytes[i]);
        if (c >= 0x80) {
            *to++ = (char)(0xc0 | c >> 6);
            c = 0x80 | (c & 0x3f);
        }
        *to++ = (char)c;
    }
    *to = '\0';
    out->len = (size_t)(to - out->data);
}

int bytelevel_byte(uint32_t code)
{
    if (code <= 0xff)
        return is_plain(code) ? (int)code : -1;
    if (code <= 0x120)
        return (int)(code - 0x100);
    if (code <= 0x142)
        return (int)(code - 0x121 + 0x7f);
    return code == 0x143 ? 0xad : -1;
}
