/* Content digests by libsodium's SHA-256. */
#include "core/base/digest.h"

#include "core/base/check.h"

#include <sodium.h>

_Static_assert(sizeof(struct digest) >= sizeof(crypto_hash_sha256_state), "state must fit");

static crypto_hash_sha256_state *state_of(struct digest *d)
{
    return (crypto_hash_sha256_state *)(void *)d->state;
}

void digest_init(struct digest *d)
{
    CHECK(sodium_init() >= 0);
    crypto_hash_sha256_init(state_of(d));
}

void digest_add(struct digest *d, const void *bytes, size_t len)
{
    crypto_hash_sha256_update(state_of(d), bytes, len);
}

void digest_length(struct digest *d, uint64_t len)
{
    unsigned char le[8];
    for (int i = 0; i < 8; i++)
        le[i] = (unsigned char)(len >> (8 * i));
    digest_add(d, le, sizeof le);
}

void digest_part(struct digest *d, const void *bytes, size_t len)
{
    digest_length(d, len);
    digest_add(d, bytes, len);
}

void digest_hex(struct digest *d, char hex[DIGEST_HEX + 1])
{
    unsigned char sum[crypto_hash_sha256_BYTES];
    crypto_hash_sha256_final(state_of(d), sum);
    sodium_bin2hex(hex, DIGEST_HEX + 1, sum, sizeof sum);
}
