/* GET /admin/requests: what all workers are doing now.
 *
 * Thread: loop. */
#ifndef PREFIXD_REQUESTS_API_H
#define PREFIXD_REQUESTS_API_H

#include "server/exchange.h"

enum exchange_result requests_api_list(struct exchange *x);

#endif
