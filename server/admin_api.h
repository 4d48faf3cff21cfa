/* Tenants over HTTP, for administrators.
 *
 * Thread: loop; changes are made on the pool. */
#ifndef PREFIXD_ADMIN_API_H
#define PREFIXD_ADMIN_API_H

#include "server/exchange.h"

enum exchange_result admin_api_list(struct exchange *x); /* GET /admin/tenants */
enum exchange_result admin_api_add(struct exchange *x);  /* POST /admin/tenants */
enum exchange_result admin_api_get(struct exchange *x);  /* GET /admin/tenants/{} */
enum exchange_result admin_api_set(struct exchange *x);  /* PATCH /admin/tenants/{} */
enum exchange_result
admin_api_remove(struct exchange *x); /* DELETE /admin/tenants/{} */
enum exchange_result admin_api_suspend(struct exchange *x); /* POST .../{}/suspend */
enum exchange_result admin_api_resume(struct exchange *x);  /* POST .../{}/resume */

#endif
