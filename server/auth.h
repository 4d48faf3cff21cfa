/* Who may ask: bearer keys out of a file, compared without leaking how much of one was
 * right.
 *
 * Thread: opened at boot, immutable afterwards.
 *
 *     struct auth *a = auth_open("keys.txt", &err);      one key a line; blank lines and #
 * are skipped if (!auth_allows(a, header)) -> 401
 */
#ifndef PREFIXD_AUTH_H
#define PREFIXD_AUTH_H

#include "core/base/err.h"

#include <stdbool.h>

struct auth;

struct auth *auth_open(const char *path, struct err *err);
void auth_free(struct auth *a);

/* header: the value of Authorization, NULL if absent. */
bool auth_allows(const struct auth *a, const char *header);

#endif
