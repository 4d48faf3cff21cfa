/* A tenant's limits, as far as they bear on changes of adapters.
 *
 * Thread: any; pure. */
#ifndef PREFIXD_CHANGE_LIMITS_H
#define PREFIXD_CHANGE_LIMITS_H

#include "adapters/adapters.h"
#include "adapters/store_tenants.h"

struct adapters_limits change_limits_of(const struct tenant_limits *t);

#endif
