/* What was used, over HTTP: by a tenant of his own, by administrators of all.
 *
 * Thread: loop; sums over long times are made on the pool. */
#ifndef PREFIXD_USAGE_API_H
#define PREFIXD_USAGE_API_H

#include "server/exchange.h"

enum exchange_result usage_api_own(struct exchange *x); /* GET /v1/usage */
enum exchange_result usage_api_all(struct exchange *x); /* GET /admin/usage */

#endif
