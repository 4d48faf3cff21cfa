/* Who asks: from a request's Authorization to the tenant, what the key may do, and the
 * tenant's limits.
 *
 * Thread: loop. Nothing about keys or tenants is remembered from one request to the next
 * but whether there ever was a key and what `default` is like, and these only while the
 * registry says that nobody has changed anything: revoking and suspending hold for the next
 * request of every worker.
 *
 *     struct tenants *t = tenants_new(&(struct tenants_opts){.store = store, ...});
 *     struct caller who;
 *     if (tenants_identify(t, header, &who, &err) < 0) -> 401, or 403 tenant_suspended
 */
#ifndef PREFIXD_TENANTS_H
#define PREFIXD_TENANTS_H

#include "adapters/store_tenants.h"
#include "core/base/err.h"

#include <stdbool.h>
#include <stdint.h>

struct auth;
struct tenants;

struct caller {
    int64_t tenant; /* whose adapters, limits and usage; never 0 once identified */
    int64_t key;    /* 0: none, or one of a key file */
    char tenant_name[TENANT_NAME_MAX + 1];
    enum key_scope scope;
    uint32_t weight;
    struct tenant_limits limits; /* effective */
    bool is_admin;
    bool has_key;
    bool is_suspended; /* only of who is let in all the same, to resume it */
};

struct tenants_opts {
    struct store *store;           /* the loop's; nobody else asks store_has_changed */
    const struct auth *keys;       /* of --api-key-file; NULL: none */
    const struct auth *admin_keys; /* of --admin-key-file; NULL: none */
    bool is_loopback;              /* nobody from elsewhere can ask */
    bool allows_open;              /* allow_unauthenticated_remote */
};

struct tenants *tenants_new(const struct tenants_opts *opts);
void tenants_free(struct tenants *t); /* accepts NULL */

/* header: the value of Authorization, NULL if absent. ERR_UNAUTHORIZED, ERR_SUSPENDED;
 * ERR_IO if the registry cannot be read. As long as no key was ever made, everybody is
 * `default`, on loopback with an administrator's rights; elsewhere only if that is allowed,
 * and without them. */
int tenants_identify(struct tenants *t, const char *header, struct caller *out,
                     struct err *err);

/* An administrator's request is another tenant's from here on. ERR_FORBIDDEN for others,
 * ERR_NOT_FOUND. */
int tenants_act_as(struct tenants *t, struct caller *c, const char *name, struct err *err);

/* For boot, before anything is forked: whether the registry in this folder has a key, or
 * ever had one. */
int tenants_has_key(const char *dir, bool *out, struct err *err);

#endif
