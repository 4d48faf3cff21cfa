/* GET /health, /ready, /version, /metrics.
 *
 * Thread: loop. */
#ifndef PREFIXD_STATUS_API_H
#define PREFIXD_STATUS_API_H

#include "server/exchange.h"

enum exchange_result status_api_health(struct exchange *x);
enum exchange_result status_api_ready(struct exchange *x);
enum exchange_result status_api_version(struct exchange *x);
enum exchange_result status_api_metrics(struct exchange *x);

#endif
