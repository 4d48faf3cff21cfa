/* GET /v1/models and /v1/models/{id}: the base and its adapters as the OpenAI API lists
 * models.
 *
 * Thread: loop. */
#ifndef PREFIXD_MODELS_API_H
#define PREFIXD_MODELS_API_H

#include "server/exchange.h"

enum exchange_result models_api_list(struct exchange *x);
enum exchange_result models_api_get(struct exchange *x);

#endif
