/* GET /v1/adapters/{name}/versions.
 *
 * Thread: loop. */
#ifndef PREFIXD_VERSIONS_API_H
#define PREFIXD_VERSIONS_API_H

#include "server/exchange.h"

enum exchange_result versions_api_list(struct exchange *x);

#endif
