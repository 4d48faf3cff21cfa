/* Names and versions for tests of the store. */
#include "tests/unit/adapters/stored.h"

#include <dirent.h>
#include <sqlite3.h>
#include <stdlib.h>

#include "adapters/home.h"
#include "adapters/store_tenants.h"
#include "core/base/mem.h"
#include "tests/test.h"

static const char *const names[STORED_NAMES] = {"a", "b.json", "c-C_9"};

struct store *stored_open(const char *dir, int keep_versions, struct err *err)
{
    struct home *h = home_open(dir, err);
    const struct store_opts opts = {.dir = dir, .keep_versions = keep_versions};
    struct store *s = h ? store_open(&opts, err) : NULL;
    home_free(h);
    return s;
}

const char *stored_name(int name)
{
    return names[name];
}

void stored_version(int v, char out[DIGEST_HEX + 1])
{
    memset(out, "0369"[v], DIGEST_HEX);
    out[DIGEST_HEX] = '\0';
}

char *stored_weights(int v)
{
    char *bytes = xmalloc(STORED_BYTES);
    for (int i = 0; i < STORED_BYTES; i++)
        bytes[i] = (char)(i * 7 + v);
    return bytes;
}

int stored_put_if(struct store *s, int64_t tenant, int name, int v,
                  const struct store_condition *only_if, const struct store_limits *limits,
                  struct err *err)
{
    char version[DIGEST_HEX + 1], *weights = stored_weights(v);
    const struct blob_file files[] = {{"adapter_config.json", "{}", 2},
                                      {"adapter_model.safetensors", weights, STORED_BYTES}};
    stored_version(v, version);
    const struct store_entry e = {.tenant = tenant,
                                  .name = names[name],
                                  .version = version,
                                  .kind = "K",
                                  .base_hint = "some/base",
                                  .created = 1000 + v,
                                  .n_tokens = 10 + v,
                                  .n_tasks = 1,
                                  .compile_ms = 1.5};
    int rc = store_put(s, &e, files, 2, only_if, limits, err);
    free(weights);
    return rc;
}

int stored_put(struct store *s, int64_t tenant, int name, int v, struct err *err)
{
    return stored_put_if(s, tenant, name, v, NULL, NULL, err);
}

int stored_delete(struct store *s, int64_t tenant, int name, bool stays_deleted,
                  struct err *err)
{
    return store_delete(s, tenant, names[name], stays_deleted, NULL, err);
}

int stored_roll_back(struct store *s, int64_t tenant, int name, int v, struct err *err)
{
    char version[DIGEST_HEX + 1];
    stored_version(v, version);
    return store_rollback(s, tenant, names[name], version, NULL, err);
}

static void look(void *ud, const struct store_entry *e)
{
    char version[DIGEST_HEX + 1];
    int *found = ud;
    *found = e->is_damaged ? STORED_DAMAGED : e->version[0] ? -4 : STORED_DELETED;
    for (int v = 0; v < STORED_VERSIONS; v++) {
        stored_version(v, version);
        if (strcmp(version, e->version) == 0)
            *found = e->created == 1000 + v ? v : -3;
    }
}

int stored_in(struct store *s, int64_t tenant, int name)
{
    int found = STORED_NOTHING;
    EXPECT_EQ(store_find_own(s, tenant, names[name], look, &found, NULL),
              found != STORED_NOTHING);
    return found;
}

bool stored_is_whole(const struct store *s, int64_t tenant, int v)
{
    char version[DIGEST_HEX + 1], *weights = stored_weights(v);
    struct err err = {0};
    size_t n = 0, m = 0;
    stored_version(v, version);
    char *config = blobs_read_file(store_blobs(s), tenant, version, "adapter_config.json",
                                   100, &n, &err);
    char *read = blobs_read_file(store_blobs(s), tenant, version,
                                 "adapter_model.safetensors", 1 << 20, &m, &err);
    bool ok =
        config && read && n == 2 && m == STORED_BYTES && memcmp(read, weights, m) == 0;
    free(config);
    free(read);
    free(weights);
    return ok;
}

int stored_count(const char *dir, const char *sub, bool only_hidden)
{
    char path[512];
    int n = 0;
    struct dirent *e;
    snprintf(path, sizeof path, "%s/%s", dir, sub);
    DIR *d = opendir(path);
    while (d && (e = readdir(d)))
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
            n += !only_hidden || e->d_name[0] == '.';
    if (d)
        closedir(d);
    return n;
}

int64_t stored_tenant(struct store *s, const char *name)
{
    struct tenant t = {0};
    struct err err = {0};
    if (store_add_tenant(s, name, 0, NULL, &t, &err) < 0)
        test_fail(__FILE__, __LINE__, "no tenant %s: %s", name, err.msg);
    return t.id;
}

int64_t stored_sql(const char *dir, const char *sql)
{
    char path[512];
    sqlite3 *db = NULL;
    sqlite3_stmt *st = NULL;
    int64_t n = -1;
    snprintf(path, sizeof path, "%s/registry.db", dir);
    if (sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE, NULL) == SQLITE_OK &&
        sqlite3_prepare_v2(db, sql, -1, &st, NULL) == SQLITE_OK &&
        sqlite3_step(st) == SQLITE_ROW)
        n = sqlite3_column_int64(st, 0);
    sqlite3_finalize(st);
    sqlite3_close(db);
    return n;
}
