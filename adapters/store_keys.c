/* Keys. What is stored of one is its hash; who has the registry cannot act for anybody. */
#include <sodium.h>
#include <string.h>
#include <time.h>

#include "adapters/store_parts.h"
#include "adapters/store_tenants.h"

#define PREFIX "pfx_"
enum { SECRET_BYTES = 32 };

static const char *const scopes[] = {
    [KEY_INFER] = "infer", [KEY_MANAGE] = "manage", [KEY_ADMIN] = "admin"};

const char *key_scope_name(enum key_scope scope)
{
    return scopes[scope];
}

int key_scope_of(const char *name, enum key_scope *out, struct err *err)
{
    for (size_t i = 0; i < sizeof scopes / sizeof scopes[0]; i++)
        if (strcmp(scopes[i], name) == 0) {
            *out = (enum key_scope)i;
            return 0;
        }
    return err_param(err, ERR_INVALID, "scope", "scope must be infer, manage or admin");
}

void key_hash(unsigned char out[KEY_HASH_BYTES], const char *key, size_t len)
{
    crypto_generichash(out, KEY_HASH_BYTES, (const unsigned char *)key, len, NULL, 0);
}

static void make_key(char text[KEY_TEXT_MAX])
{
    unsigned char secret[SECRET_BYTES];
    randombytes_buf(secret, sizeof secret);
    memcpy(text, PREFIX, sizeof PREFIX);
    sodium_bin2base64(text + sizeof PREFIX - 1, KEY_TEXT_MAX - sizeof PREFIX + 1, secret,
                      sizeof secret, sodium_base64_VARIANT_URLSAFE_NO_PADDING);
    sodium_memzero(secret, sizeof secret);
}

/* ---- rows ---------------------------------------------------------------------------- */

#define KEY                                                                                \
    "SELECT k.id, k.created, k.expires, k.revoked, k.scope, "                              \
    "k.tenant, " STORE_TENANT_COLUMNS                                                      \
    "  FROM keys k LEFT JOIN tenants t ON t.id = k.tenant "
enum { TENANT_COLUMN = 6 };

static void read_key(sqlite3_stmt *st, struct tenant_key *key, struct tenant *tenant)
{
    memset(key, 0, sizeof *key);
    memset(tenant, 0, sizeof *tenant);
    key->id = sqlite3_column_int64(st, 0);
    key->created = sqlite3_column_int64(st, 1);
    key->expires = sqlite3_column_int64(st, 2);
    key->revoked = sqlite3_column_int64(st, 3);
    if (key_scope_of(db_text(st, 4), &key->scope, NULL) < 0)
        key->scope = KEY_INFER;
    key->tenant_id = sqlite3_column_int64(st, 5);
    if (!key->tenant_id)
        return;
    store_read_tenant(st, TENANT_COLUMN, tenant);
    memcpy(key->tenant, tenant->name, sizeof key->tenant);
}

int store_keep_key_statements(struct store *s, struct err *err)
{
    s->find_key = db_keep(s->reader, KEY "WHERE k.hash = ?", err);
    return s->find_key ? 0 : -1;
}

int store_find_key(struct store *s, const unsigned char hash[KEY_HASH_BYTES],
                   struct tenant_key *key, struct tenant *tenant, struct err *err)
{
    CHECK_ON_THREAD(s->owner);
    db_bind(s->find_key, "b", (const void *)hash, (int64_t)KEY_HASH_BYTES);
    int rc = db_step(s->reader, s->find_key, err);
    if (rc == 1)
        read_key(s->find_key, key, tenant);
    sqlite3_reset(s->find_key);
    return rc;
}

/* AUTOINCREMENT remembers the last id for ever; without a first key it has no row. */
int store_ever_had_key(struct store *s, bool *out, struct err *err)
{
    CHECK_ON_THREAD(s->owner);
    sqlite3_stmt *st = db_prepare(
        s->reader, err, "SELECT 1 FROM sqlite_sequence WHERE name = 'keys' AND seq > 0", "");
    int rc = st ? db_step(s->reader, st, err) : -1;
    *out = rc == 1;
    sqlite3_finalize(st);
    return rc < 0 ? -1 : 0;
}

int store_each_key(struct store *s, const char *tenant, int64_t after, size_t limit,
                   bool *has_more, void (*fn)(void *ud, const struct tenant_key *k),
                   void *ud, struct err *err)
{
    CHECK_ON_THREAD(s->owner);
    static const char all[] = KEY "WHERE k.id > ?1 ORDER BY k.id";
    static const char of_one[] = KEY "WHERE k.tenant = (SELECT id FROM tenants WHERE name = ?2)"
                                     "  AND k.id > ?1 ORDER BY k.id";
    sqlite3_stmt *st = db_prepare(s->reader, err, tenant ? of_one : all,
                                  tenant ? "is" : "i", after, tenant);
    struct tenant_key key;
    struct tenant t;
    size_t n = 0;
    int rc = st ? 1 : -1;
    while (rc == 1 && (rc = db_step(s->reader, st, err)) == 1 && n++ < limit) {
        read_key(st, &key, &t);
        fn(ud, &key);
    }
    sqlite3_finalize(st);
    if (has_more)
        *has_more = rc == 1;
    return rc < 0 ? -1 : 0;
}

/* ---- changes ------------------------------------------------------------------------- */

static int check_key(const char *tenant, enum key_scope scope, int64_t expires,
                     struct err *err)
{
    if (scope == KEY_ADMIN && tenant)
        return err_param(err, ERR_INVALID, "scope", "an administrator's key has no tenant");
    if (scope != KEY_ADMIN && !tenant)
        return err_param(err, ERR_INVALID, "tenant",
                         "a key needs a tenant, unless its scope is admin");
    if (expires < 0)
        return err_param(err, ERR_INVALID, "expires", "expires must be Unix seconds");
    return 0;
}

static int add_key(struct store *s, const struct tenant_key *k, const char *text,
                   struct err *err)
{
    unsigned char hash[KEY_HASH_BYTES];
    key_hash(hash, text, strlen(text));
    return db_run(s->writer, err,
                  "INSERT INTO keys (hash, tenant, scope, expires, created)"
                  "  VALUES (?, nullif(?, 0), ?, nullif(?, 0), ?)",
                  "bisii", (const void *)hash, (int64_t)KEY_HASH_BYTES, k->tenant_id,
                  key_scope_name(k->scope), k->expires, k->created);
}

int store_add_key(struct store *s, const char *tenant, enum key_scope scope,
                  int64_t expires, char text[KEY_TEXT_MAX], struct tenant_key *out,
                  struct err *err)
{
    struct tenant_key k = {.scope = scope, .expires = expires, .created = time(NULL)};
    struct tenant t = {0};
    if (check_key(tenant, scope, expires, err) < 0)
        return -1;
    make_key(text);
    if (store_begin(s, err) < 0)
        return -1;
    int rc = tenant ? store_get_tenant(s->writer, tenant, &t, err) : 0;
    k.tenant_id = t.id;
    memcpy(k.tenant, t.name, sizeof k.tenant);
    if (rc == 0)
        rc = add_key(s, &k, text, err);
    k.id = sqlite3_last_insert_rowid(s->writer);
    rc = store_end(s, rc, err);
    if (rc == 0 && out)
        *out = k;
    return rc;
}

/* Once revoked, it stays so as of the first time. */
int store_revoke_key(struct store *s, int64_t id, struct err *err)
{
    if (store_begin(s, err) < 0)
        return -1;
    int rc = db_run(s->writer, err,
                    "UPDATE keys SET revoked = coalesce(revoked, ?) WHERE id = ?", "ii",
                    (int64_t)time(NULL), id);
    if (rc == 0 && sqlite3_changes(s->writer) == 0)
        rc = err_set(err, ERR_NOT_FOUND, "there is no such key");
    return store_end(s, rc, err);
}
