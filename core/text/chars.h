/* Classes of characters as the reference's language defines them.
 *
 * Thread: any. */
#ifndef PREFIXD_TEXT_CHARS_H
#define PREFIXD_TEXT_CHARS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

bool chars_is_space(uint32_t c); /* Unicode White_Space */
bool chars_is_word(
    uint32_t c); /* \w of UTS 18: alphabetic, marks, digits, connectors, joiners */
bool chars_is_numeric(uint32_t c); /* categories Nd, Nl, No */

/* Length of the character that ends at s + len, in valid UTF-8; 0 if len is 0. */
int chars_last_len(const char *s, size_t len);

#endif
