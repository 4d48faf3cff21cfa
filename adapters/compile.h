/* From a checked description to prefixes: one, or one per task.
 *
 * Thread: any but the loop's and the engine's; blocks while the engine computes. Numbers
 * are finite before (in the file) and after (in the prefix, in the type of the KV pool), or
 * the adapter is refused. */
#ifndef PREFIXD_COMPILE_H
#define PREFIXD_COMPILE_H

#include "adapters/spec.h"

struct compiled { /* zeroed = empty */
    struct kv_prefix **prefixes;
    int n_prefixes;
    int n_tokens;
    size_t bytes;
    double ms; /* that compiling took */
};

struct compile_with {
    struct engine *engine;
    const struct base_model *base;
    int max_virtual_tokens;
    uint32_t domain; /* the tenant that is charged for computing */
    /* Asked once, immediately before anything is computed: the virtual tokens of all tasks.
     * -1 with err: it is not. NULL: nobody is asked. */
    int (*allow)(void *ud, int64_t n_tokens, struct err *err);
    void *ud;
};

int compile_spec(const struct adapter_spec *s, const struct compile_with *with,
                 struct compiled *out, struct err *err);
void compile_fini(struct compiled *c);

#endif
