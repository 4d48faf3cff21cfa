/* /v1/load_lora_adapter and /v1/unload_lora_adapter, by which operators of vLLM know the
 * PUT and DELETE of an adapter: the files are not sent but named by a path below the folder
 * <lora_root>/<tenant>/. Without lora_root there is nothing at these paths.
 *
 * Thread: loop; opening, reading and compiling are the queue's of changes. */
#ifndef PREFIXD_LORA_API_H
#define PREFIXD_LORA_API_H

#include "server/exchange.h"

enum exchange_result lora_api_load(struct exchange *x);
enum exchange_result lora_api_unload(struct exchange *x);

#endif
