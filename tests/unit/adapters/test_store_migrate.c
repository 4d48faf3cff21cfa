/* store: state folders of older and newer daemons. */
#define _GNU_SOURCE
#include "adapters/store.h"

#include <fcntl.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "adapters/store_tenants.h"
#include "core/base/log.h"
#include "core/base/mem.h"
#include "tests/support/adapter_files.h"
#include "tests/test.h"
#include "tests/unit/adapters/stored.h"

/* ---- state folders of older daemons -------------------------------------------------- */

static void write_blob(const char *dir, int v)
{
    char path[512], version[DIGEST_HEX + 1], *weights = stored_weights(v);
    stored_version(v, version);
    snprintf(path, sizeof path, "%s/blobs", dir);
    adapter_files_make_dir(path, version);
    snprintf(path, sizeof path, "%s/blobs/%s", dir, version);
    adapter_files_write(path, "adapter_config.json", "{}", 2);
    adapter_files_write(path, "adapter_model.safetensors", weights, STORED_BYTES);
    free(weights);
}

static void write_pointer(const char *dir, const char *file, int v)
{
    char path[512], version[DIGEST_HEX + 1], json[200];
    stored_version(v < 0 ? 0 : v, version);
    snprintf(path, sizeof path, "%s/adapters", dir);
    snprintf(json, sizeof json, "{\"version\": \"%s\", \"created\": %d}\n", version,
             1000 + v);
    if (v < 0)
        snprintf(json, sizeof json, "{\"deleted\": true}\n");
    adapter_files_write(path, file, json, strlen(json));
}

static char *older_folder(void)
{
    char *dir = adapter_files_tmp_dir();
    adapter_files_make_dir(dir, "adapters");
    adapter_files_make_dir(dir, "blobs");
    for (int v = 0; v < STORED_VERSIONS; v++)
        write_blob(dir, v); /* 3 is nobody's */
    write_pointer(dir, "a.json", 0);
    write_pointer(dir, "b.json.json", 1);
    write_pointer(dir, "c-C_9.json", -1);
    return dir;
}

TEST(store_takes_pointer_files_over_once)
{
    char *dir = older_folder(), adapters[512];
    struct err err = {0};
    snprintf(adapters, sizeof adapters, "%s/adapters", dir);
    adapter_files_write(adapters, ".new-b", "{\"ver", 5);
    struct store *s = stored_open(dir, 1, &err);
    ASSERT(s);
    EXPECT(stored_in(s, 1, 0) == 0 && stored_in(s, 1, 1) == 1 && stored_in(s, 1, 2) == -2);
    EXPECT(stored_is_whole(s, 1, 0) && stored_is_whole(s, 1, 1) &&
           !stored_is_whole(s, 1, 3));
    EXPECT(access(adapters, F_OK) != 0);
    EXPECT_EQ(stored_put(s, 1, 2, 0, &err), 0);
    EXPECT_EQ(stored_delete(s, 1, 2, false, &err), 0);
    EXPECT_EQ(stored_in(s, 1, 2), STORED_DELETED);
    EXPECT_EQ(store_delete(s, 1, stored_name(0), false, NULL, &err), 0);
    store_close(s);
    log_init(LOG_TEXT, LOG_ERROR + 1);
    adapter_files_make_dir(dir, "adapters");
    write_pointer(dir, "a.json",
                  1); /* as a kill between the commit and the removal leaves it */
    s = stored_open(dir, 1, &err);
    log_init(LOG_TEXT, LOG_ERROR);
    ASSERT(s);
    EXPECT(stored_in(s, 1, 0) == -1 && stored_in(s, 1, 1) == 1 && stored_in(s, 1, 2) == -2);
    store_close(s);
    adapter_files_remove_dir(dir);
    free(dir);
}

#define SLASHES "../../../../../../../../../../../../../../../../../../../../../x" /* 64   \
                                                                                    */

/* A pointer that somebody broke is left aside; no blob goes, since one may be its. */
TEST(store_leaves_damaged_pointers)
{
    static const char *const broken[] = {"",
                                         "{",
                                         "[]",
                                         "{\"version\": 7, \"created\": 1}",
                                         "{\"version\": \"..\", \"created\": 1}",
                                         "{\"version\": \"" SLASHES "\", \"created\": 1}",
                                         "{\"deleted\": false}"};
    struct err err = {0};
    log_init(LOG_TEXT, LOG_ERROR + 1);
    for (size_t i = 0; i < sizeof broken / sizeof broken[0]; i++) {
        char *dir = older_folder(), adapters[512];
        snprintf(adapters, sizeof adapters, "%s/adapters", dir);
        adapter_files_write(adapters, "a.json", broken[i], strlen(broken[i]));
        for (int again = 0; again < 2; again++) {
            struct store *s = stored_open(dir, 1, &err);
            ASSERT(s);
            EXPECT(stored_in(s, 1, 0) == STORED_DAMAGED && stored_in(s, 1, 1) == 1);
            EXPECT(stored_is_whole(s, 1, 0) && stored_is_whole(s, 1, 3));
            if (again && i % 2)
                EXPECT_EQ(stored_put(s, 1, 0, 0, &err), 0);
            else if (again)
                EXPECT_EQ(store_delete(s, 1, stored_name(0), false, NULL, &err), 0);
            store_close(s);
        }
        struct store *s = stored_open(dir, 1, &err);
        ASSERT(s);
        EXPECT_EQ(stored_in(s, 1, 0), i % 2 ? 0 : -1);
        store_close(s);
        EXPECT_EQ(stored_count(dir, "adapters", false), 1);
        adapter_files_remove_dir(dir);
        free(dir);
    }
    log_init(LOG_TEXT, LOG_ERROR);
}

TEST(store_refuses_a_registry_that_it_does_not_understand)
{
    char *dir = adapter_files_tmp_dir(), path[512];
    struct err err = {0};
    struct store *s = stored_open(dir, 1, &err);
    ASSERT(s && stored_put(s, 1, 0, 0, &err) == 0);
    store_close(s);
    snprintf(path, sizeof path, "%s/registry.db", dir);
    FILE *f = fopen(path, "r+b"); /* user_version is at 60, big-endian */
    ASSERT(f && fseek(f, 60, SEEK_SET) == 0 && fwrite("\0\0\3\0", 1, 4, f) == 4 &&
           fclose(f) == 0);
    EXPECT(stored_open(dir, 1, &err) == NULL);
    EXPECT_EQ(err.code, ERR_CONFLICT);
    EXPECT(strstr(err.msg, "newer") != NULL);
    adapter_files_write(dir, "registry.db",
                        "this is no database, however long one looks at it", 49);
    EXPECT(stored_open(dir, 1, &err) == NULL);
    EXPECT_EQ(err.code, ERR_IO);
    EXPECT_EQ(stored_count(dir, "blobs", false), 1);
    adapter_files_remove_dir(dir);
    free(dir);
}

/* ---- version 2 of the tables --------------------------------------------------------- */

/* As the daemons made them that knew one tenant and shared blobs. */
static const char version_2[] =
    "PRAGMA journal_mode = WAL; BEGIN;"
    "CREATE TABLE tenants ("
    "  id INTEGER PRIMARY KEY AUTOINCREMENT,"
    "  name TEXT NOT NULL UNIQUE,"
    "  weight INTEGER NOT NULL DEFAULT 1 CHECK (weight > 0),"
    "  requests_per_minute INTEGER, tokens_per_minute INTEGER,"
    "  max_running INTEGER, max_queued INTEGER,"
    "  max_adapters INTEGER, max_adapter_bytes INTEGER, max_virtual_tokens INTEGER,"
    "  is_suspended INTEGER NOT NULL DEFAULT 0,"
    "  created INTEGER NOT NULL) STRICT;"
    "INSERT INTO tenants (id, name, created) VALUES (1, 'default', unixepoch());"
    "CREATE TABLE keys ("
    "  id INTEGER PRIMARY KEY AUTOINCREMENT,"
    "  hash BLOB NOT NULL UNIQUE,"
    "  tenant INTEGER REFERENCES tenants ON DELETE CASCADE,"
    "  scope TEXT NOT NULL CHECK (scope IN ('infer', 'manage', 'admin')),"
    "  expires INTEGER,"
    "  created INTEGER NOT NULL,"
    "  revoked INTEGER) STRICT;"
    "CREATE INDEX keys_by_tenant ON keys (tenant);"
    "CREATE TABLE adapters ("
    "  tenant INTEGER NOT NULL REFERENCES tenants,"
    "  name TEXT NOT NULL,"
    "  current TEXT,"
    "  is_public INTEGER NOT NULL DEFAULT 0,"
    "  PRIMARY KEY (tenant, name)) STRICT, WITHOUT ROWID;"
    "CREATE TABLE blobs ("
    "  digest TEXT PRIMARY KEY,"
    "  bytes INTEGER NOT NULL) STRICT, WITHOUT ROWID;"
    "CREATE TABLE versions ("
    "  tenant INTEGER NOT NULL,"
    "  name TEXT NOT NULL,"
    "  digest TEXT NOT NULL REFERENCES blobs,"
    "  kind TEXT NOT NULL,"
    "  created INTEGER NOT NULL,"
    "  number INTEGER NOT NULL,"
    "  PRIMARY KEY (tenant, name, digest),"
    "  FOREIGN KEY (tenant, name) REFERENCES adapters) STRICT, WITHOUT ROWID;"
    "CREATE INDEX versions_by_digest ON versions (digest);"
    "CREATE TABLE dropped (digest TEXT PRIMARY KEY) STRICT, WITHOUT ROWID;"
    "CREATE TRIGGER versions_dropped AFTER DELETE ON versions BEGIN"
    "  INSERT OR IGNORE INTO dropped VALUES (OLD.digest); END;"
    "PRAGMA user_version = 2; COMMIT;";

static void run_sql(const char *dir, const char *sql)
{
    char path[512];
    sqlite3 *db;
    snprintf(path, sizeof path, "%s/registry.db", dir);
    EXPECT_EQ(sqlite3_open(path, &db), SQLITE_OK);
    EXPECT_EQ(sqlite3_exec(db, sql, NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
}

static void add_version_2(const char *dir, const char *name, int v, int number)
{
    char sql[1000], version[DIGEST_HEX + 1];
    stored_version(v, version);
    snprintf(sql, sizeof sql,
             "INSERT OR IGNORE INTO blobs VALUES ('%s', %d);"
             "INSERT INTO adapters (tenant, name, current) VALUES (1, '%s', '%s')"
             "  ON CONFLICT DO UPDATE SET current = excluded.current;"
             "INSERT INTO versions VALUES (1, '%s', '%s', 'K', %d, %d);",
             version, STORED_BYTES + 2, name, version, name, version, 1000 + v, number);
    run_sql(dir, sql);
}

/* a: versions 0 and 1; b.json: 1, too; c-C_9: deleted, remembered; version 2 was dropped; 3
 * is an orphan */
static char *folder_of_version_2(void)
{
    char *dir = adapter_files_tmp_dir();
    adapter_files_make_dir(dir, "blobs");
    for (int v = 0; v < STORED_VERSIONS; v++)
        write_blob(dir, v);
    run_sql(dir, version_2);
    add_version_2(dir, "a", 0, 1);
    add_version_2(dir, "a", 1, 2);
    add_version_2(dir, "b.json", 1, 1);
    add_version_2(dir, "c-C_9", 2, 1);
    run_sql(dir, "UPDATE adapters SET current = NULL WHERE name = 'c-C_9';"
                 "DELETE FROM versions WHERE name = 'c-C_9';");
    return dir;
}

static void check_migrated(struct store *s)
{
    EXPECT(stored_in(s, 1, 0) == 1 && stored_in(s, 1, 1) == 1);
    EXPECT_EQ(stored_in(s, 1, 2), STORED_DELETED);
    EXPECT(stored_is_whole(s, 1, 0) && stored_is_whole(s, 1, 1));
}

TEST(store_migrates_tables_of_one_tenant)
{
    char *dir = folder_of_version_2(), path[512], version[DIGEST_HEX + 1];
    struct err err = {0};
    struct store *s = stored_open(dir, 3, &err);
    ASSERT(s);
    check_migrated(s);
    EXPECT_EQ(stored_count(dir, "blobs", false), 2);
    stored_version(0, version);
    snprintf(path, sizeof path, "%s/blobs/1-%s", dir, version);
    EXPECT_EQ(access(path, F_OK), 0);
    EXPECT_EQ(stored_put(s, 1, 2, 0, &err), 0);
    EXPECT_EQ(stored_delete(s, 1, 2, false, &err), 0);
    EXPECT_EQ(stored_in(s, 1, 2), STORED_DELETED); /* as before: the folder has one */
    EXPECT_EQ(stored_roll_back(s, 1, 0, 0, &err), 0);
    EXPECT_EQ(stored_put(s, 1, 0, 3, &err), 0);
    EXPECT_EQ(stored_put(s, stored_tenant(s, "b"), 0, 3, &err), 0);
    EXPECT_EQ(stored_sql(
                  dir, "SELECT number FROM versions WHERE digest LIKE '9%' AND tenant = 1"),
              3);
    EXPECT_EQ(stored_sql(dir, "SELECT count(*) FROM pragma_foreign_key_check"), 0);
    EXPECT_EQ(stored_sql(dir, "SELECT count(*) FROM sqlite_schema WHERE name LIKE 'old%'"),
              0);
    store_close(s);
    s = stored_open(dir, 3, &err);
    ASSERT(s);
    EXPECT(stored_in(s, 1, 0) == 3 && stored_in(s, 2, 0) == 3 && stored_is_whole(s, 1, 1));
    store_close(s);
    adapter_files_remove_dir(dir);
    free(dir);
}

/* A command may be first, and a start be killed between the tables and the folders' names:
 * then blobs are read under the names that they have. */
TEST(store_reads_blobs_that_are_not_renamed_yet)
{
    char *dir = folder_of_version_2(), version[DIGEST_HEX + 1], path[512];
    struct err err = {0};
    struct store *s =
        store_open(&(struct store_opts){.dir = dir, .keep_versions = 3}, &err);
    ASSERT(s);
    check_migrated(s);
    stored_version(0, version);
    snprintf(path, sizeof path, "%s/blobs/%s", dir, version);
    EXPECT_EQ(access(path, F_OK), 0);
    EXPECT_EQ(stored_put(s, 1, 0, 0, &err), 0); /* confirms the one that is there */
    EXPECT_EQ(stored_delete(s, 1, 1, false, &err), 0);
    EXPECT_EQ(stored_delete(s, 1, 0, false, &err), 0);
    EXPECT_EQ(stored_put(s, 1, 2, 3, &err),
              0); /* collects those and the one that was dropped */
    EXPECT_EQ(stored_count(dir, "blobs", false), 1);
    store_close(s);
    s = stored_open(dir, 3, &err);
    ASSERT(s);
    EXPECT(stored_in(s, 1, 2) == 3 && stored_is_whole(s, 1, 3));
    store_close(s);
    adapter_files_remove_dir(dir);
    free(dir);
}

/* Who was removed before names were kept stays without one. */
TEST(store_migrates_tables_without_former_tenants)
{
    char *dir = adapter_files_tmp_dir();
    struct err err = {0};
    int64_t id = 0;
    struct store *s = stored_open(dir, 1, &err);
    ASSERT(s);
    stored_tenant(s, "a");
    store_close(s);
    run_sql(dir, "ALTER TABLE adapters DROP COLUMN refused; ALTER TABLE adapters DROP COLUMN refused_until;"
                 "DROP TABLE former_tenants; PRAGMA user_version = 3;");
    s = stored_open(dir, 1, &err);
    ASSERT(s);
    EXPECT_EQ(store_find_former_tenant(s, "a", &id, &err), -1);
    EXPECT_EQ(store_remove_tenant(s, "a", &err), 0);
    EXPECT(store_find_former_tenant(s, "a", &id, &err) == 0 && id == 2);
    store_close(s);
    adapter_files_remove_dir(dir);
    free(dir);
}

/* A daemon that runs does not find its tables changed by a command. */
TEST(store_leaves_tables_of_a_running_daemon)
{
    char *dir = folder_of_version_2(), path[512];
    struct err err = {0};
    snprintf(path, sizeof path, "%s/lock", dir);
    int lock = open(path, O_RDWR | O_CREAT, 0600);
    ASSERT(lock >= 0 && flock(lock, LOCK_EX) == 0);
    EXPECT(store_open(&(struct store_opts){.dir = dir}, &err) == NULL);
    EXPECT_EQ(err.code, ERR_CONFLICT);
    EXPECT_EQ(stored_sql(dir, "PRAGMA user_version"), 2);
    close(lock);
    struct store *s = store_open(&(struct store_opts){.dir = dir}, &err);
    ASSERT(s);
    check_migrated(s);
    store_close(s);
    adapter_files_remove_dir(dir);
    free(dir);
}
