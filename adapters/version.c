/* References to versions, and what a version is to the request that pins it. */
#include "adapters/registry.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/mem.h"

struct adapter_version *version_new(const struct adapters *a, int64_t tenant, const char *digest,
                                    const char *name, enum kind kind, struct compiled *takes)
{
    struct adapter_version *v = xcalloc(1, sizeof *v);
    v->owner = a->owner;
    v->n_refs = 1;
    v->tenant = tenant;
    v->kind = kind;
    snprintf(v->digest, sizeof v->digest, "%s", digest);
    snprintf(v->name, sizeof v->name, "%s", name);
    v->compiled = *takes;
    memset(takes, 0, sizeof *takes);
    return v;
}

void version_ref(struct adapter_version *v)
{
    CHECK_ON_THREAD(v->owner);
    v->n_refs++;
    if (v->links.in)
        residents_set_busy(v->links.in, v);
}

static void version_free(struct adapter_version *v)
{
    compile_fini(&v->compiled);
    free(v);
}

static void fall_idle(struct adapter_version *v)
{
    struct residents *r = v->links.in;
    residents_set_idle(r, v);
    if (r->bytes > r->memory && v->links.list == &r->idle)
        residents_evict(r, v);
}

void version_unref(struct adapter_version *v)
{
    if (!v)
        return;
    CHECK_ON_THREAD(v->owner);
    CHECK(v->n_refs > 0);
    v->n_refs--;
    if (v->n_refs == 1 && v->links.in)
        fall_idle(v);
    else if (v->n_refs == 0)
        version_free(v);
}

void version_pin(struct adapter_version *v)
{
    v->n_users++;
    version_ref(v);
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

int64_t adapter_version_owner(const struct adapter_version *v)
{
    return v->tenant;
}

const char *adapter_version_name(const struct adapter_version *v)
{
    return v->name;
}
