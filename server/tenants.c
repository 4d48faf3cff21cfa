/* From keys to tenants.
 *
 * Thread: loop. */
#include "server/tenants.h"

#include "core/base/check.h"
#include "core/base/mem.h"
#include "server/auth.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct tenants {
    struct thread_owner owner;
    struct tenants_opts o;
    bool is_known; /* what follows, as long as nobody changes anything */
    bool had_stored_key;
    struct tenant own; /* `default` */
};

struct tenants *tenants_new(const struct tenants_opts *opts)
{
    struct tenants *t = xcalloc(1, sizeof *t);
    thread_owner_set(&t->owner);
    t->o = *opts;
    return t;
}

void tenants_free(struct tenants *t)
{
    free(t);
}

static int look_again(struct tenants *t, struct err *err)
{
    t->is_known = false;
    if (store_ever_had_key(t->o.store, &t->had_stored_key, err) < 0)
        return -1;
    if (store_find_tenant_by_id(t->o.store, STORE_DEFAULT_TENANT, &t->own, err) < 0)
        return -1;
    t->is_known = true;
    return 0;
}

static int refresh(struct tenants *t, struct err *err)
{
    bool has_changed = store_has_changed(t->o.store);
    return t->is_known && !has_changed ? 0 : look_again(t, err);
}

static void become(struct caller *c, const struct tenant *t)
{
    c->tenant = t->id;
    c->weight = (uint32_t)t->weight;
    c->limits = t->limits;
    c->is_suspended = t->is_suspended;
    snprintf(c->tenant_name, sizeof c->tenant_name, "%s", t->name);
}

/* Who has an administrator's key is not kept out by what it can undo. */
static int admit_tenant(const struct caller *c, struct err *err)
{
    if (!c->is_suspended || c->is_admin)
        return 0;
    return err_set(err, ERR_SUSPENDED, "This tenant is suspended");
}

static int refuse_key(struct err *err)
{
    return err_set(err, ERR_UNAUTHORIZED, "The API key is not valid");
}

static int identify_open(const struct tenants *t, struct caller *c, struct err *err)
{
    if (!t->o.is_loopback && !t->o.allows_open)
        return err_set(err, ERR_UNAUTHORIZED,
                       "An API key is needed, and there is none any more");
    become(c, &t->own);
    c->scope = KEY_MANAGE;
    c->is_admin = t->o.is_loopback;
    return admit_tenant(c, err);
}

static int identify_stored(const struct tenants *t, const unsigned char *hash,
                           struct caller *c, struct err *err)
{
    struct tenant_key key;
    struct tenant owner;
    int found = store_find_key(t->o.store, hash, &key, &owner, err);
    if (found < 0)
        return -1;
    if (!found || key.revoked)
        return refuse_key(err);
    if (key.expires && key.expires <= (int64_t)time(NULL))
        return err_set(err, ERR_UNAUTHORIZED, "The API key has expired");
    c->key = key.id;
    c->scope = key.scope;
    c->is_admin = key.scope == KEY_ADMIN;
    become(c, c->is_admin ? &t->own : &owner);
    return admit_tenant(c, err);
}

int tenants_identify(struct tenants *t, const char *header, struct caller *out,
                     struct err *err)
{
    CHECK_ON_THREAD(t->owner);
    unsigned char hash[KEY_HASH_BYTES];
    *out = (struct caller){0};
    if (refresh(t, err) < 0)
        return -1;
    if (!t->o.keys && !t->o.admin_keys && !t->had_stored_key)
        return identify_open(t, out, err);
    if (!header)
        return err_set(err, ERR_UNAUTHORIZED,
                       "An API key is needed: Authorization: Bearer KEY");
    if (!auth_hash_header(header, hash))
        return refuse_key(err);
    out->has_key = true;
    bool is_admin = auth_has(t->o.admin_keys, hash), is_own = auth_has(t->o.keys, hash);
    if (!is_admin && !is_own)
        return identify_stored(t, hash, out, err);
    become(out, &t->own);
    out->scope = is_admin ? KEY_ADMIN : KEY_MANAGE;
    out->is_admin = is_admin;
    return admit_tenant(out, err);
}

int tenants_act_as(struct tenants *t, struct caller *c, const char *name, struct err *err)
{
    CHECK_ON_THREAD(t->owner);
    struct tenant as;
    if (!c->is_admin)
        return err_param(err, ERR_FORBIDDEN, "tenant",
                         "Only an administrator's key may name a tenant");
    if (store_find_tenant(t->o.store, name, &as, err) < 0)
        return -1;
    become(c, &as);
    return 0;
}

int tenants_has_key(const char *dir, bool *out, struct err *err)
{
    struct store *s = store_open(&(struct store_opts){.dir = dir}, err);
    if (!s)
        return -1;
    int rc = store_ever_had_key(s, out, err);
    store_close(s);
    return rc;
}
