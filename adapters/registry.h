/* The registry's own view: private to registry.c, acquire.c, room.c, change.c, version.c and
 * residents.c.
 *
 * Thread: loop (the thread of adapters_open), but for make.c. */
#ifndef PREFIXD_REGISTRY_H
#define PREFIXD_REGISTRY_H

#include "adapters/adapters.h"
#include "adapters/broken.h"
#include "adapters/load_queue.h"
#include "adapters/make.h"
#include "adapters/residents.h"
#include "adapters/row.h"
#include "core/base/check.h"

struct adapter_version {
    struct thread_owner owner;
    int n_refs;  /* the table of residents, loads, changes and requests */
    int n_users; /* requests */
    int64_t tenant;
    enum kind kind;
    char digest[DIGEST_HEX + 1];
    char name[ADAPTER_NAME_MAX + 1];
    char pinned_by[ADAPTER_NAME_MAX + 1]; /* a name that keeps it in memory; "": none known */
    struct compiled compiled;
    struct version_links links;
};

struct adapters {
    struct thread_owner owner;
    struct maker maker;
    struct store *store;
    char *base_name;
    bool is_durable;
    size_t reserved; /* for loads that run */
    struct residents residents;
    struct broken broken;
    struct adapters_peers peers;
    struct load_queue queue;
    struct adapters_stats stats; /* counters but for evictions, which residents count */
    struct row row;              /* what the last call on a name lent */
};

/* ---- version.c */

struct adapter_version *version_new(const struct adapters *a, int64_t tenant, const char *digest,
                                    const char *name, enum kind kind, struct compiled *takes);
void version_ref(struct adapter_version *v);
void version_unref(struct adapter_version *v); /* accepts NULL */
void version_pin(struct adapter_version *v);   /* for a request */

/* ---- room.c: what goes when room is needed */

/* Idle versions go until so many bytes more fit; false if they do not. */
bool room_make(struct adapters *a, size_t bytes);

/* Makes v resident if it fits, or if nothing at all is in use. What stands for the version in
 * memory, with a reference for the caller, or NULL. v is the caller's, and given up. */
struct adapter_version *room_admit(struct adapters *a, struct adapter_version *v);

/* Whether the tenant has to do without so many bytes more in use, until something is released.
 * Who has versions in use already fills no more than three quarters, so that one tenant cannot
 * take everything; the last quarter is for those who have less than their share (an equal part
 * for each tenant with versions in use), and its last fourth for the first version of a tenant
 * who has none. What is released then goes to those below their share. Memory that is not in
 * use is anybody's, and without other tenants all of it is. */
bool room_is_refused(const struct adapters *a, int64_t tenant, size_t bytes);
size_t room_for(const struct adapters *a, int n_tokens, int n_tasks); /* bytes; 0: not known */

/* ---- registry.c */

#define REGISTRY_DAMAGED "its entry in the registry is damaged"

/* What name means to the tenant: 1, 0 or -1. */
int registry_find(struct adapters *a, int64_t tenant, const char *name, struct row *out,
                  struct err *err);

/* His own alone, which is not one that was deleted: 0, or -1 with ERR_ADAPTER_NOT_FOUND. */
int registry_need_own(struct adapters *a, int64_t tenant, const char *name, struct row *out,
                      struct err *err);
void registry_describe(struct adapters *a, const struct store_entry *e, struct adapter_info *out);
const struct broken_version *registry_broken(const struct adapters *a, int64_t tenant,
                                             const char *digest);
struct broken_stamp registry_stamp(const struct adapters *a, int64_t tenant, const char *digest);

#endif
