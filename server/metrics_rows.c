/* Taking rows and freeing them. The key comes last and goes first, so that whoever finds a
 * key finds its names, and a process that dies in between leaves a free row. */
#include "server/metrics_rows.h"

#include "core/base/check.h"
#include "core/base/digest.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

enum { HOLDERS = UINT8_MAX + 1 };

_Static_assert((int)METRICS_TENANTS <= (int)HOLDERS, "a holder is a byte");
_Static_assert(METRICS_TENANTS * METRICS_OWN <= METRICS_ADAPTERS, "rows of one's own");

/* ---- the lock ------------------------------------------------------------------------ */

void metrics_rows_init(struct metrics_rows *r)
{
    pthread_mutexattr_t attr;
    CHECK(pthread_mutexattr_init(&attr) == 0);
    CHECK(pthread_mutexattr_setpshared(&attr, PTHREAD_PROCESS_SHARED) == 0);
    CHECK(pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST) == 0);
    CHECK(pthread_mutex_init(&r->lock, &attr) == 0);
    pthread_mutexattr_destroy(&attr);
}

static void lock(struct metrics_rows *r)
{
    int rc = pthread_mutex_lock(&r->lock);
    if (rc == EOWNERDEAD)
        rc = pthread_mutex_consistent(&r->lock);
    CHECK(rc == 0);
}

static void unlock(struct metrics_rows *r)
{
    CHECK(pthread_mutex_unlock(&r->lock) == 0);
}

/* ---- keys ---------------------------------------------------------------------------- */

static uint64_t key_at(const uint64_t *keys, int i)
{
    return __atomic_load_n(&keys[i], __ATOMIC_ACQUIRE);
}

static int find(const uint64_t *keys, int n, uint64_t key)
{
    int i = 0;
    while (i < n && key_at(keys, i) != key)
        i++;
    return i;
}

static uint64_t tenant_key(int64_t id)
{
    return (uint64_t)id + 1;
}

/* A hash that nobody can aim at: names are chosen by tenants. */
static uint64_t adapter_key(int64_t tenant, const char *adapter)
{
    struct digest d;
    char hex[DIGEST_HEX + 1];
    uint64_t key = 0;
    digest_init(&d);
    digest_part(&d, &tenant, sizeof tenant);
    digest_part(&d, adapter, strlen(adapter));
    digest_hex(&d, hex);
    for (int i = 0; i < 16; i++)
        key = key << 4 | (uint64_t)(hex[i] <= '9' ? hex[i] - '0' : hex[i] - 'a' + 10);
    return key | 1;
}

/* ---- taking, under the lock ---------------------------------------------------------- */

static void take(uint64_t *key_there, struct metrics_row *row, uint64_t key,
                 const char *tenant, const char *adapter)
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST); /* that it was free is seen before the names */
    snprintf(row->tenant, sizeof row->tenant, "%s", tenant);
    snprintf(row->adapter, sizeof row->adapter, "%s", adapter);
    __atomic_store_n(key_there, key, __ATOMIC_RELEASE);
}

static int need_tenant(struct metrics_rows *r, uint64_t key, const char *name)
{
    int i = find(r->tenant_keys, METRICS_TENANTS, key);
    if (i < METRICS_TENANTS)
        return i;
    i = find(r->tenant_keys, METRICS_TENANTS, 0);
    if (i < METRICS_TENANTS)
        take(&r->tenant_keys[i], &r->tenants[i], key, name, "");
    return i;
}

/* Also asked without the lock, as a guess. */
static bool may_take(const struct metrics_rows *r, int tenant)
{
    int n[HOLDERS] = {0};
    int n_free = METRICS_ADAPTERS - METRICS_TENANTS * METRICS_OWN;
    for (int i = 0; i < METRICS_ADAPTERS; i++)
        if (key_at(r->adapter_keys, i))
            n[__atomic_load_n(&r->holders[i], __ATOMIC_RELAXED)]++;
    for (int i = 0; i < HOLDERS; i++)
        n_free -= n[i] > METRICS_OWN ? n[i] - METRICS_OWN : 0;
    return n[tenant] < METRICS_OWN || n[tenant] - METRICS_OWN < n_free;
}

static int need_adapter(struct metrics_rows *r, int tenant, uint64_t key,
                        const char *name, const char *adapter)
{
    int i = find(r->adapter_keys, METRICS_ADAPTERS, key);
    if (i < METRICS_ADAPTERS || !may_take(r, tenant))
        return i;
    i = find(r->adapter_keys, METRICS_ADAPTERS, 0);
    if (i == METRICS_ADAPTERS)
        return i;
    __atomic_store_n(&r->holders[i], (uint8_t)tenant, __ATOMIC_RELAXED);
    take(&r->adapter_keys[i], &r->adapters[i], key, name, adapter);
    return i;
}

/* ---- for whoever counts -------------------------------------------------------------- */

/* Without the lock, there is no row for a key only if none is there after none could be
 * taken: somebody else may have taken it just before. */

int metrics_rows_tenant(struct metrics_rows *r, int64_t id, const char *name,
                        uint64_t *key)
{
    *key = tenant_key(id);
    int i = find(r->tenant_keys, METRICS_TENANTS, *key);
    if (i < METRICS_TENANTS)
        return i;
    if (find(r->tenant_keys, METRICS_TENANTS, 0) == METRICS_TENANTS)
        return find(r->tenant_keys, METRICS_TENANTS, *key);
    lock(r);
    i = need_tenant(r, *key, name);
    unlock(r);
    return i;
}

/* The tenant's row is looked for again under the lock: it holds whatever is taken then. */
int metrics_rows_adapter(struct metrics_rows *r, int64_t id, const char *name,
                         const char *adapter, uint64_t *key)
{
    uint64_t owner;
    *key = adapter_key(id, adapter);
    int i = find(r->adapter_keys, METRICS_ADAPTERS, *key);
    if (i < METRICS_ADAPTERS)
        return i;
    int tenant = metrics_rows_tenant(r, id, name, &owner);
    if (tenant == METRICS_TENANTS || !may_take(r, tenant))
        return find(r->adapter_keys, METRICS_ADAPTERS, *key);
    lock(r);
    tenant = need_tenant(r, owner, name);
    if (tenant < METRICS_TENANTS)
        i = need_adapter(r, tenant, *key, name, adapter);
    unlock(r);
    return i;
}

/* ---- freeing ------------------------------------------------------------------------- */

/* Its own row last: while it is there, so is who holds the others. */
static void forget(struct metrics_rows *r, uint64_t key)
{
    lock(r);
    int tenant = find(r->tenant_keys, METRICS_TENANTS, key);
    for (int i = 0; i < METRICS_ADAPTERS && tenant < METRICS_TENANTS; i++)
        if (r->holders[i] == tenant)
            __atomic_store_n(&r->adapter_keys[i], 0, __ATOMIC_RELEASE);
    if (tenant < METRICS_TENANTS)
        __atomic_store_n(&r->tenant_keys[tenant], 0, __ATOMIC_RELEASE);
    unlock(r);
}

void metrics_rows_forget(struct metrics_rows *r, bool (*is_gone)(int64_t id, void *ud),
                         void *ud)
{
    for (int i = 0; i < METRICS_TENANTS; i++) {
        uint64_t key = key_at(r->tenant_keys, i);
        if (key && is_gone((int64_t)(key - 1), ud))
            forget(r, key);
    }
}

/* ---- reading ------------------------------------------------------------------------- */

static void read_row(const uint64_t *keys, const struct metrics_row *rows, int i,
                     struct metrics_row *out)
{
    uint64_t key = key_at(keys, i);
    *out = rows[i];
    out->tenant[METRICS_NAME - 1] = out->adapter[METRICS_NAME - 1] = '\0';
    __atomic_thread_fence(__ATOMIC_ACQUIRE);
    out->key = key_at(keys, i) == key ? key : 0;
}

void metrics_rows_read_tenant(const struct metrics_rows *r, int i, struct metrics_row *out)
{
    read_row(r->tenant_keys, r->tenants, i, out);
}

void metrics_rows_read_adapter(const struct metrics_rows *r, int i, struct metrics_row *out)
{
    read_row(r->adapter_keys, r->adapters, i, out);
}
