/* The byte-level alphabet: every byte is written as one visible character (GPT-2's table).
 *
 * Thread: any. Printable Latin-1 bytes stand for themselves, the others for U+0100 and up.
 *
 *     bytelevel_add(&out, " a", 2);                     appends U+0120 and "a"
 *     int byte = bytelevel_byte(0x120);                 0x20
 */
#ifndef PREFIXD_TEXT_BYTELEVEL_H
#define PREFIXD_TEXT_BYTELEVEL_H

#include "core/base/buf.h"

#include <stdint.h>

void bytelevel_add(struct buf *out, const char *bytes, size_t len);
int bytelevel_byte(uint32_t code); /* -1: no character of the alphabet */

#endif
