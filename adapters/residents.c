/* An open table of chains, and two intrusive lists. */
#include "adapters/residents.h"

#include <stdlib.h>
#include <string.h>

#include "adapters/registry.h"
#include "core/base/check.h"
#include "core/base/mem.h"

enum { FEWEST_BUCKETS = 64 };

static size_t hash(int64_t tenant, const char *digest)
{
    uint64_t h;
    memcpy(&h, digest, sizeof h); /* hexadecimal digits of what is as good as random */
    h ^= (uint64_t)tenant;
    h *= 0x9e3779b97f4a7c15u;
    return (size_t)(h >> 20);
}

static struct adapter_version **bucket_of(const struct residents *r, int64_t tenant,
                                          const char *digest)
{
    return &r->buckets[hash(tenant, digest) & (r->n_buckets - 1)];
}

struct adapter_version *residents_find(const struct residents *r, int64_t tenant,
                                       const char *digest)
{
    struct adapter_version *v = r->n && digest[0] ? *bucket_of(r, tenant, digest) : NULL;
    while (v && (v->tenant != tenant || strcmp(v->digest, digest) != 0))
        v = v->links.in_bucket;
    return v;
}

static void grow(struct residents *r)
{
    struct residents wider = *r;
    wider.n_buckets = r->n_buckets ? 2 * r->n_buckets : FEWEST_BUCKETS;
    wider.buckets = xcalloc(wider.n_buckets, sizeof(struct adapter_version *));
    for (size_t i = 0; i < r->n_buckets; i++)
        for (struct adapter_version *v = r->buckets[i], *next; v; v = next) {
            struct adapter_version **bucket = bucket_of(&wider, v->tenant, v->digest);
            next = v->links.in_bucket;
            v->links.in_bucket = *bucket;
            *bucket = v;
        }
    free(r->buckets);
    r->buckets = wider.buckets;
    r->n_buckets = wider.n_buckets;
}

/* ---- what is in use, by tenant ------------------------------------------------------- */

static struct resident_user *find_user(const struct residents *r, int64_t tenant)
{
    for (size_t i = 0; i < r->n_users; i++)
        if (r->users[i].tenant == tenant)
            return &r->users[i];
    return NULL;
}

static struct resident_user *need_user(struct residents *r, int64_t tenant)
{
    struct resident_user *u = find_user(r, tenant);
    if (u)
        return u;
    if (r->n_users == r->n_users_allocated) {
        r->n_users_allocated = r->n_users ? 2 * r->n_users : 16;
        r->users = xrealloc(r->users, r->n_users_allocated * sizeof *r->users);
    }
    u = &r->users[r->n_users++];
    *u = (struct resident_user){.tenant = tenant};
    return u;
}

static void begin_use(struct residents *r, const struct adapter_version *v)
{
    if (v->compiled.bytes > 0)
        need_user(r, v->tenant)->bytes += v->compiled.bytes;
}

static void end_use(struct residents *r, const struct adapter_version *v)
{
    struct resident_user *u = find_user(r, v->tenant);
    if (v->compiled.bytes == 0)
        return;
    CHECK(u && u->bytes >= v->compiled.bytes);
    u->bytes -= v->compiled.bytes;
    if (u->bytes == 0)
        *u = r->users[--r->n_users];
}

size_t residents_in_use(const struct residents *r)
{
    return r->bytes - r->idle.bytes - r->pinned.bytes;
}

size_t residents_in_use_of(const struct residents *r, int64_t tenant)
{
    const struct resident_user *u = find_user(r, tenant);
    return u ? u->bytes : 0;
}

/* ---- the table and the lists --------------------------------------------------------- */

void residents_add(struct residents *r, struct adapter_version *v)
{
    CHECK(!v->links.in && !residents_find(r, v->tenant, v->digest));
    if (r->n == r->n_buckets)
        grow(r);
    struct adapter_version **bucket = bucket_of(r, v->tenant, v->digest);
    v->links = (struct version_links){.in_bucket = *bucket, .in = r};
    *bucket = v;
    r->n++;
    r->bytes += v->compiled.bytes;
    begin_use(r, v);
    version_ref(v);
}

void residents_drop(struct residents *r, struct adapter_version *v)
{
    CHECK(v->links.in == r);
    struct adapter_version **at = bucket_of(r, v->tenant, v->digest);
    while (*at != v)
        at = &(*at)->links.in_bucket;
    *at = v->links.in_bucket;
    residents_set_busy(r, v);
    end_use(r, v);
    v->links.in = NULL;
    r->n--;
    r->bytes -= v->compiled.bytes;
    version_unref(v);
}

void residents_set_busy(struct residents *r, struct adapter_version *v)
{
    struct version_list *list = v->links.list;
    CHECK(v->links.in == r);
    if (!list)
        return;
    *(v->links.before ? &v->links.before->links.behind : &list->first) = v->links.behind;
    *(v->links.behind ? &v->links.behind->links.before : &list->last) = v->links.before;
    list->bytes -= v->compiled.bytes;
    v->links.before = v->links.behind = NULL;
    v->links.list = NULL;
    begin_use(r, v);
}

void residents_set_idle(struct residents *r, struct adapter_version *v)
{
    struct version_list *list = v->pinned_by[0] ? &r->pinned : &r->idle;
    residents_set_busy(r, v);
    end_use(r, v);
    v->links.list = list;
    v->links.behind = list->first;
    *(list->first ? &list->first->links.before : &list->last) = v;
    list->first = v;
    list->bytes += v->compiled.bytes;
}

void residents_evict(struct residents *r, struct adapter_version *v)
{
    CHECK(v->links.list);
    r->n_evicted++;
    residents_drop(r, v);
}

void residents_fini(struct residents *r)
{
    for (size_t i = 0; i < r->n_buckets; i++)
        while (r->buckets[i])
            residents_drop(r, r->buckets[i]);
    free(r->buckets);
    free(r->users);
    *r = (struct residents){.memory = r->memory};
}
