/* Random bytes in store, handed out once each. */
#include "server/ids.h"

#include "core/base/check.h"

#include <sodium.h>

void ids_next(struct ids *ids, char *hex, size_t n)
{
    CHECK(n > 0 && n <= IDS_MAX);
    if (ids->n_left < n) {
        randombytes_buf(ids->bytes, sizeof ids->bytes);
        ids->n_left = sizeof ids->bytes;
    }
    unsigned char *at = ids->bytes + sizeof ids->bytes - ids->n_left;
    sodium_bin2hex(hex, 2 * n + 1, at, n);
    sodium_memzero(at, n);
    ids->n_left -= n;
}
