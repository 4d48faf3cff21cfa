/* Compiled versions in memory, by tenant and digest, and the order in which they may go.
 *
 * Thread: loop. The table holds one reference to each of its versions. One that nobody else
 * holds is idle: it stands in one of two lists, the one last used in front; those of pinned
 * adapters apart, because they stay.
 *
 *     struct adapter_version *v = residents_find(r, tenant, digest);
 *     residents_add(r, v) ... residents_drop(r, v);
 */
#ifndef PREFIXD_RESIDENTS_H
#define PREFIXD_RESIDENTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct adapter_version;

struct version_list {
    struct adapter_version *first, *last;
    size_t bytes;
};

struct resident_user { /* a tenant who has versions in use */
    int64_t tenant;
    size_t bytes;
};

struct residents { /* zeroed but for memory = empty */
    size_t memory; /* what falls idle beyond it goes at once */
    struct adapter_version **buckets;
    size_t n_buckets, n;
    size_t bytes;
    uint64_t n_evicted;
    struct version_list idle, pinned;
    struct resident_user *users; /* in no order */
    size_t n_users, n_users_allocated;
};

struct version_links { /* of a version, the table's own */
    struct adapter_version *in_bucket, *before, *behind;
    struct version_list *list; /* NULL: it is in use, or not resident */
    struct residents *in;      /* NULL: it is not resident */
};

struct adapter_version *residents_find(const struct residents *r, int64_t tenant,
                                       const char *digest);
void residents_add(struct residents *r, struct adapter_version *v); /* one that is not there */

/* Its reference is given back, so that one that is idle is freed. */
void residents_drop(struct residents *r, struct adapter_version *v);

/* An idle one goes, to make room. */
void residents_evict(struct residents *r, struct adapter_version *v);

/* v, a resident, has just been taken into use or fallen idle, or has been pinned or unpinned
 * while it was idle. */
void residents_set_busy(struct residents *r, struct adapter_version *v);
void residents_set_idle(struct residents *r, struct adapter_version *v);

/* Bytes in use; those of pinned ones that are idle come beside them. */
size_t residents_in_use(const struct residents *r);
size_t residents_in_use_of(const struct residents *r, int64_t tenant);
void residents_fini(struct residents *r);

#endif
