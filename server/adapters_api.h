/* /v1/adapters: list, look, put, delete, roll back, flags, and the files back.
 *
 * Thread: loop; the slow part of a change runs on the pool (changes.h). */
#ifndef PREFIXD_ADAPTERS_API_H
#define PREFIXD_ADAPTERS_API_H

#include "server/exchange.h"

enum exchange_result adapters_api_list(struct exchange *x);
enum exchange_result adapters_api_get(struct exchange *x);
enum exchange_result adapters_api_put(struct exchange *x);
enum exchange_result adapters_api_delete(struct exchange *x);
enum exchange_result adapters_api_rollback(struct exchange *x);
enum exchange_result adapters_api_patch(struct exchange *x);
enum exchange_result adapters_api_file(struct exchange *x);

#endif
