/* References to versions, and what a version is to the request that pins it. */
#include "adapters/registry.h"

#include <stdlib.h>

void version_ref(struct adapter_version *v)
{
    CHECK_ON_THREAD(v->owner);
    v->n_refs++;
}

void version_unref(struct adapter_version *v)
{
    if (!v)
        return;
    CHECK_ON_THREAD(v->owner);
    CHECK(v->n_refs > 0);
    if (--v->n_refs > 0)
        return;
    compile_fini(&v->compiled);
    kept_fini(&v->kept);
    free(v->base_hint);
    free(v);
}

void adapters_release(struct adapter_version *v)
{
    CHECK_ON_THREAD(v->owner);
    CHECK(v->n_users > 0);
    v->n_users--;
    version_unref(v);
}

const struct kv_prefix *adapter_version_prefix(const struct adapter_version *v, bool has_task,
                                               int64_t task, struct err *err)
{
    int n = v->compiled.n_prefixes;
    if (!has_task && n > 1) {
        err_param(err, ERR_INVALID, "task_id",
                  "this adapter has %d tasks: \"task_id\" must say which, from 0 to %d", n, n - 1);
        return NULL;
    }
    if (has_task && (task < 0 || task >= n)) {
        err_param(err, ERR_INVALID, "task_id", "task_id is %lld, but must be from 0 to %d",
                  (long long)task, n - 1);
        return NULL;
    }
    return v->compiled.prefixes[has_task ? task : 0];
}

const char *adapter_version_digest(const struct adapter_version *v)
{
    return v->digest;
}
