/* Making room for versions in memory, and letting them in. */
#include <stdio.h>
#include <string.h>

#include "adapters/registry.h"
#include "adapters/store_tenants.h"

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

/* ---- who may take how much ----------------------------------------------------------- */

static void note_tenant(void *ud, const struct tenant *t)
{
    (void)ud, (void)t;
}

/* Nothing is kept for others where there are none. */
static bool has_other_tenants(const struct adapters *a)
{
    bool has_more = false;
    return store_each_tenant(a->store, "", 1, &has_more, note_tenant, NULL, NULL) < 0 || has_more;
}

/* Of `room` bytes those that may be in use if this tenant takes so many more. */
static size_t limit_of(const struct residents *r, int64_t tenant, size_t bytes, size_t room)
{
    size_t own = residents_in_use_of(r, tenant), n = r->n_users > 2 ? r->n_users : 2;
    if (own == 0)
        return room;
    return room - (own + bytes <= room / n ? room / 16 : room / 4);
}

bool room_is_refused(const struct adapters *a, int64_t tenant, size_t bytes)
{
    const struct residents *r = &a->residents;
    size_t in_use = residents_in_use(r), want = in_use + a->reserved + bytes;
    size_t room = r->memory > r->pinned.bytes ? r->memory - r->pinned.bytes : 0;
    if (in_use == 0)
        return false; /* one alone is served, however large it is */
    return want > room ||
           (want > limit_of(r, tenant, bytes, room) && has_other_tenants(a));
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
    } else if (room_make(a, v->compiled.bytes) || !residents_in_use(&a->residents)) {
        residents_add(&a->residents, v);
        return v;
    }
    version_unref(v);
    return there;
}
