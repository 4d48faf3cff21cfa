/* Tenants and keys in the registry. Threads and processes as in store.h.
 *
 * A key is "pfx_" and 43 characters of base64url (32 random bytes); the registry has only its hash
 * (BLAKE2b-256, libsodium: enough for what nobody can guess). Ids of tenants and keys are never given twice.
 */
#ifndef PREFIXD_STORE_TENANTS_H
#define PREFIXD_STORE_TENANTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "adapters/store.h"

enum { TENANT_NAME_MAX = 64, TENANT_MAX_WEIGHT = 1000, KEY_HASH_BYTES = 32, KEY_TEXT_MAX = 64 };
#define TENANT_WEIGHTS "1 to 1000"
#define TENANT_MAX_LIMIT INT64_C(9007199254740992) /* exact in JSON */

/* name, column and JSON key; default; doc. What is NULL in the database has the default. */
#define TENANT_LIMITS(XX)                                                                        \
    XX(requests_per_minute, 600000, "requests a minute")                                         \
    XX(tokens_per_minute, 100000000, "prompt and asked-for tokens a minute")                     \
    XX(max_running, 1024, "sequences that run at once")                                          \
    XX(max_queued, 1024, "sequences that wait at once")                                          \
    XX(max_adapters, 100000, "adapters")                                                         \
    XX(max_adapter_bytes, 1099511627776, "bytes of the files of all kept versions")              \
    XX(max_virtual_tokens, 16777216, "virtual tokens of an adapter")

struct tenant_limits { /* -1: the default, when writing; effective values when reading */
#define XX(name, by_default, doc) int64_t name;
    TENANT_LIMITS(XX)
#undef XX
};

struct tenant {
    int64_t id, created;
    char name[TENANT_NAME_MAX + 1];
    int64_t weight; /* 1 to TENANT_MAX_WEIGHT */
    bool is_suspended;
    struct tenant_limits limits; /* effective */
    struct tenant_limits set;    /* -1 where nothing is set and the default holds */
};

enum key_scope { KEY_INFER, KEY_MANAGE, KEY_ADMIN };

struct tenant_key {
    int64_t id, created;
    int64_t expires; /* Unix seconds; 0: never */
    int64_t revoked; /* 0: it is not */
    enum key_scope scope;
    int64_t tenant_id;                /* 0: an administrator's */
    char tenant[TENANT_NAME_MAX + 1]; /* "" */
};

const char *key_scope_name(enum key_scope scope); /* "infer", "manage", "admin" */
int key_scope_of(const char *name, enum key_scope *out, struct err *err);
void key_hash(unsigned char out[KEY_HASH_BYTES], const char *key, size_t len);

/* -1 with ERR_INVALID unless [A-Za-z0-9][A-Za-z0-9._-]{0,63}. */
int tenant_check_name(const char *name, struct err *err);

/* What the limit of this name may be set to at least: none waiting at once is one; none at all
 * of the others would be no tenant. */
int64_t tenant_least_limit(const char *name);

/* ---- changes ------------------------------------------------------------------------------------ */

/* ERR_CONFLICT if there is one of this name. set may be NULL: all defaults. */
int store_add_tenant(struct store *s, const char *name, int64_t weight, const struct tenant_limits *set,
                     struct tenant *out, struct err *err);

/* what->weight 0 and limits INT64_MIN are left as they are; -1 goes back to the default. ERR_NOT_FOUND. */
int store_set_tenant(struct store *s, const char *name, int64_t weight, const struct tenant_limits *set,
                     struct tenant *out, struct err *err);
int store_suspend_tenant(struct store *s, const char *name, bool is_suspended, struct tenant *out,
                         struct err *err);

/* With his keys and adapters; his usage stays, and his name for it. `default` cannot be removed (ERR_INVALID). */
int store_remove_tenant(struct store *s, const char *name, struct err *err);

/* text: the key, told once. tenant NULL with KEY_ADMIN alone. expires 0: never. */
int store_add_key(struct store *s, const char *tenant, enum key_scope scope, int64_t expires,
                  char text[KEY_TEXT_MAX], struct tenant_key *out, struct err *err);
int store_revoke_key(struct store *s, int64_t id, struct err *err); /* ERR_NOT_FOUND */

/* ---- reading ------------------------------------------------------------------------------------ */

/* 1, 0: nobody's; -1. An expired or revoked key is found (the caller looks). tenant is zeroed for an
 * administrator's. One indexed statement, prepared once: for every request. */
int store_find_key(struct store *s, const unsigned char hash[KEY_HASH_BYTES], struct tenant_key *key,
                   struct tenant *tenant, struct err *err);
int store_find_tenant(struct store *s, const char *name, struct tenant *out, struct err *err);
int store_find_tenant_by_id(struct store *s, int64_t id, struct tenant *out, struct err *err);

/* The id of the last one of this name that was removed. ERR_NOT_FOUND. */
int store_find_former_tenant(struct store *s, const char *name, int64_t *id,
                             struct err *err);

/* Whether a key was ever made. From then on requests need one, also when all of them are
 * revoked, or gone with their tenants: taking keys away opens nothing. */
int store_ever_had_key(struct store *s, bool *out, struct err *err);

int store_each_tenant(struct store *s, const char *after, size_t limit, bool *has_more,
                      void (*fn)(void *ud, const struct tenant *t), void *ud, struct err *err);

/* tenant NULL: everybody's. By id, those above after. Revoked ones included. */
int store_each_key(struct store *s, const char *tenant, int64_t after, size_t limit, bool *has_more,
                   void (*fn)(void *ud, const struct tenant_key *k), void *ud, struct err *err);

#endif
