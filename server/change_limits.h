/* A tenant's limits, as far as they bear on changes of adapters. */
#ifndef PREFIXD_CHANGE_LIMITS_H
#define PREFIXD_CHANGE_LIMITS_H

#include "adapters/adapters.h"
#include "adapters/store_tenants.h"
#include "server/limits.h"

/* Any thread; pure. Compiling is not charged. */
struct adapters_limits change_limits_of(const struct tenant_limits *t);

/* Loop: of a change that is asked for by request, whose tenant pays for compiling. Once it
 * has run: limits_note_compile. */
struct limits_compile *change_limits_set(struct exchange *x, struct adapter_change *work);

#endif
