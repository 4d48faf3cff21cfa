/* Checks and repair of UTF-8. */
#include "core/base/utf8.h"

/* The lead byte decides the length and the range of the second byte (Unicode 15, table 3-7). */
static int lead_info(unsigned char c, unsigned char *lo, unsigned char *hi)
{
    *lo = 0x80;
    *hi = 0xbf;
    if (c < 0x80)
        return 1;
    if (c >= 0xc2 && c <= 0xdf)
        return 2;
    if (c >= 0xe0 && c <= 0xef) {
        if (c == 0xe0)
            *lo = 0xa0;
        if (c == 0xed)
            *hi = 0x9f;
        return 3;
    }
    if (c >= 0xf0 && c <= 0xf4) {
        if (c == 0xf0)
            *lo = 0x90;
        if (c == 0xf4)
            *hi = 0x8f;
        return 4;
    }
    return 0;
}

/* How many bytes at s belong together: a whole character (*whole), or the maximal ill-formed part. */
static int part_len(const char *s, size_t len, bool *whole, bool *is_cut)
{
    unsigned char lo, hi;
    int want = lead_info((unsigned char)s[0], &lo, &hi);
    *whole = want == 1;
    *is_cut = false;
    if (want <= 1)
        return 1;
    for (int i = 1; i < want; i++) {
        if ((size_t)i >= len) {
            *is_cut = true;
            return i;
        }
        unsigned char c = (unsigned char)s[i];
        if (c < lo || c > hi)
            return i;
        lo = 0x80;
        hi = 0xbf;
    }
    *whole = true;
    return want;
}

int utf8_char_len(const char *s, size_t len, bool *is_cut)
{
    bool whole = false, cut = false;
    int n = len ? part_len(s, len, &whole, &cut) : 0;
    if (is_cut)
        *is_cut = cut;
    return whole ? n : 0;
}

size_t utf8_valid_len(const char *s, size_t len)
{
    size_t at = 0;
    while (at < len) {
        int n = utf8_char_len(s + at, len - at, NULL);
        if (!n)
            break;
        at += (size_t)n;
    }
    return at;
}

uint32_t utf8_decode(const char *s, int n)
{
    const unsigned char *u = (const unsigned char *)s;
    if (n == 1)
        return u[0];
    uint32_t c = u[0] & (0x7fu >> n);
    for (int i = 1; i < n; i++)
        c = c << 6 | (u[i] & 0x3fu);
    return c;
}

void utf8_encode(struct buf *out, uint32_t c)
{
    if (c < 0x80) {
        buf_add_char(out, (char)c);
    } else if (c < 0x800) {
        buf_add_char(out, (char)(0xc0 | c >> 6));
        buf_add_char(out, (char)(0x80 | (c & 0x3f)));
    } else if (c < 0x10000) {
        buf_add_char(out, (char)(0xe0 | c >> 12));
        buf_add_char(out, (char)(0x80 | (c >> 6 & 0x3f)));
        buf_add_char(out, (char)(0x80 | (c & 0x3f)));
    } else {
        buf_add_char(out, (char)(0xf0 | c >> 18));
        buf_add_char(out, (char)(0x80 | (c >> 12 & 0x3f)));
        buf_add_char(out, (char)(0x80 | (c >> 6 & 0x3f)));
        buf_add_char(out, (char)(0x80 | (c & 0x3f)));
    }
}

void utf8_add_lossy(struct buf *out, const char *s, size_t len)
{
    size_t at = 0;
    while (at < len) {
        bool whole, cut;
        int n = part_len(s + at, len - at, &whole, &cut);
        if (whole)
            buf_add(out, s + at, (size_t)n);
        else
            buf_add_str(out, "\xef\xbf\xbd");
        at += (size_t)n;
    }
}
