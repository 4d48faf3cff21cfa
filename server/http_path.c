/* Percent signs in paths and queries. */
#include "server/http_parts.h"

static int hex_digit(char c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

/* Decodes in place. %00 and %2F stay as they are: a NUL would cut the path, a slash would
 * move the name's end. No name holds a percent sign, so that they are refused later. */
size_t http_path_decode(char *s)
{
    char *to = s;
    for (const char *from = s; *from;) {
        int hi = from[0] == '%' ? hex_digit(from[1]) : -1;
        int lo = hi >= 0 ? hex_digit(from[2]) : -1;
        int c = lo >= 0 ? hi * 16 + lo : 0;
        if (c == 0 || c == '/') {
            *to++ = *from++;
        } else {
            *to++ = (char)c;
            from += 3;
        }
    }
    *to = '\0';
    return (size_t)(to - s);
}
