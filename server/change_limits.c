/* From a tenant's limits to those of a change. */
#include "server/change_limits.h"

#include "server/exchange.h"

#include <limits.h>

struct adapters_limits change_limits_of(const struct tenant_limits *t)
{
    int64_t tokens = t->max_virtual_tokens;
    return (struct adapters_limits){
        .max_virtual_tokens = tokens < INT_MAX ? (int)tokens : INT_MAX,
        .store = {.max_adapters = t->max_adapters, .max_bytes = t->max_adapter_bytes},
    };
}

struct limits_compile *change_limits_set(struct exchange *x, struct adapter_change *work)
{
    struct limits_compile *compile = limits_compile_new(x);
    struct adapters_limits limits = change_limits_of(&x->caller.limits);
    limits.charge = limits_charge_compile;
    limits.ud = compile;
    adapter_change_limit(work, &limits);
    return compile;
}
