/* Content digests: SHA-256 for names of immutable content.
 *
 * Thread: any, after digest_init(). Source: FIPS 180-4, by libsodium. */
#ifndef PREFIXD_DIGEST_H
#define PREFIXD_DIGEST_H

#include <stddef.h>
#include <stdint.h>

enum { DIGEST_HEX = 64 }; /* characters, without the NUL */

/* Feeds parts with their length in front, so that two splits of the same bytes differ. */
struct digest {
    uint64_t state[16];
};

void digest_init(struct digest *d);
void digest_add(struct digest *d, const void *bytes, size_t len);
void digest_part(struct digest *d, const void *bytes, size_t len);
void digest_length(struct digest *d, uint64_t len); /* in front of a part that follows in pieces */
void digest_hex(struct digest *d, char hex[DIGEST_HEX + 1]);

#endif
