/* Keys over HTTP, for administrators.
 *
 * Thread: loop; changes are made on the pool. */
#ifndef PREFIXD_KEYS_API_H
#define PREFIXD_KEYS_API_H

#include "server/exchange.h"

enum exchange_result keys_api_list(struct exchange *x);   /* GET /admin/keys */
enum exchange_result keys_api_add(struct exchange *x);    /* POST /admin/keys */
enum exchange_result keys_api_revoke(struct exchange *x); /* DELETE /admin/keys/{} */

#endif
