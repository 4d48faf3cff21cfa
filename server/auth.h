/* Bearer keys out of a file, compared without leaking how much of one was right.
 *
 * Thread: opened at boot, immutable afterwards.
 *
 *     struct auth *a = auth_open("--api-key-file", "keys.txt", &err);
 *                                      one key a line; blank lines and # are skipped
 *     if (auth_hash_header(header, hash) && auth_has(a, hash)) -> it is one of them
 */
#ifndef PREFIXD_AUTH_H
#define PREFIXD_AUTH_H

#include "adapters/store_tenants.h"
#include "core/base/err.h"

#include <stdbool.h>

struct auth;

/* setting: which one the path comes from, for messages. */
struct auth *auth_open(const char *setting, const char *path, struct err *err);
void auth_free(struct auth *a);

/* header: the value of Authorization, NULL if absent; false if it holds no bearer key. */
bool auth_hash_header(const char *header, unsigned char hash[KEY_HASH_BYTES]);

/* In the same time for every hash. a may be NULL: no. */
bool auth_has(const struct auth *a, const unsigned char hash[KEY_HASH_BYTES]);

#endif
