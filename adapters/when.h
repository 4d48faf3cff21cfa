/* Conditions of a change, as HTTP states them (RFC 9110, 13.1.1 and 13.1.2).
 *
 * Thread: any; pure.
 *
 *     if (when_check(&when, current_version, &err) < 0) return -1;      412, or 400 */
#ifndef PREFIXD_WHEN_H
#define PREFIXD_WHEN_H

#include "adapters/adapters.h"

/* current NULL: there is no such adapter. ERR_PRECONDITION if a condition does not hold,
 * ERR_INVALID if it is none. */
int when_check(const struct adapter_when *when, const char *current, struct err *err);

#endif
