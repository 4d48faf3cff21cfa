/* From a tenant's limits to those of a change. */
#include "server/change_limits.h"

#include <limits.h>

struct adapters_limits change_limits_of(const struct tenant_limits *t)
{
    int64_t tokens = t->max_virtual_tokens;
    return (struct adapters_limits){
        .max_virtual_tokens = tokens < INT_MAX ? (int)tokens : INT_MAX,
        .store = {.max_adapters = t->max_adapters, .max_bytes = t->max_adapter_bytes},
    };
}
