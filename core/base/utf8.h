/* Checks and repair of UTF-8 (RFC 3629: no overlong forms, no surrogates, at most U+10FFFF).
 *
 * Thread: any. */
#ifndef PREFIXD_UTF8_H
#define PREFIXD_UTF8_H

#include "core/base/buf.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Length (1..4) of the character at s, or 0 if no valid one starts there. If the bytes up to the end
 * are a proper beginning of a longer character, *is_cut (may be NULL) is set. */
int utf8_char_len(const char *s, size_t len, bool *is_cut);

/* Bytes of s that form whole valid characters from the start. */
size_t utf8_valid_len(const char *s, size_t len);

/* Decodes the valid character at s, of length n as utf8_char_len gave it. */
uint32_t utf8_decode(const char *s, int n);

/* Appends code point c. */
void utf8_encode(struct buf *out, uint32_t c);

/* Appends s with U+FFFD for every maximal ill-formed part (Unicode 15, 3.9: what Rust's
 * from_utf8_lossy and Python's errors="replace" do). */
void utf8_add_lossy(struct buf *out, const char *s, size_t len);

#endif
