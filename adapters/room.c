/* Making room for versions in memory, and letting them in. */
#include <stdio.h>
#include <string.h>

#include "adapters/registry.h"

enum { UNPIN_AT_ONCE = 16 };

/* Other processes pin and unpin too, so the store is asked when it matters. */
static bool is_pinned_now(struct adapters *a, const struct adapter_version *v)
{
    struct row row;
    const char *name = v->pinned_by[0] ? v->pinned_by : v->name;
    return store_find_own(a->store, v->tenant, name, row_take, &row, NULL) == 1 &&
           row.entry.is_pinned && strcmp(row.version, v->digest) == 0;
}

/* Those that were pinned may be no longer; looking at all each time would take too long. */
static bool evict_unpinned(struct adapters *a, int n)
{
    struct residents *r = &a->residents;
    for (; n > 0 && r->pinned.last; n--) {
        struct adapter_version *v = r->pinned.last;
        if (!is_pinned_now(a, v)) {
            residents_evict(r, v);
            return true;
        }
        residents_set_idle(r, v); /* the last to be looked at again */
    }
    return false;
}

/* false: nothing can go. */
static bool evict_one(struct adapters *a)
{
    struct residents *r = &a->residents;
    if (evict_unpinned(a, r->idle.last ? 1 : UNPIN_AT_ONCE))
        return true;
    struct adapter_version *v = r->idle.last;
    while (v && is_pinned_now(a, v)) {
        snprintf(v->pinned_by, sizeof v->pinned_by, "%s", v->name);
        residents_set_idle(r, v);
        v = r->idle.last;
    }
    if (v)
        residents_evict(r, v);
    return v != NULL;
}

bool room_make(struct adapters *a, size_t bytes)
{
    struct residents *r = &a->residents;
    while (r->bytes + a->reserved + bytes > r->memory)
        if (!evict_one(a))
            return false;
    return true;
}

static bool is_any_in_use(const struct residents *r)
{
    return residents_held(r) > r->pinned.bytes;
}

bool room_is_hopeless(const struct adapters *a, size_t bytes)
{
    const struct residents *r = &a->residents;
    return is_any_in_use(r) && residents_held(r) + a->reserved + bytes > r->memory;
}

size_t room_for(const struct adapters *a, int n_tokens, int n_tasks)
{
    return kv_prefix_bytes(base_model_shape(a->maker.base), n_tokens) *
           (size_t)(n_tasks > 1 ? n_tasks : 1);
}

struct adapter_version *room_admit(struct adapters *a, struct adapter_version *v)
{
    struct adapter_version *there = residents_find(&a->residents, v->tenant, v->digest);
    if (there) {
        version_ref(there);
    } else if (room_make(a, v->compiled.bytes) || !is_any_in_use(&a->residents)) {
        residents_add(&a->residents, v);
        return v;
    }
    version_unref(v);
    return there;
}
