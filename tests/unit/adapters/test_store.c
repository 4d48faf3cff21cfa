/* store: names, versions and their files; what cannot be done changes nothing. */
#define _GNU_SOURCE
#include "adapters/store.h"

#include <fcntl.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "adapters/store_parts.h"
#include "core/base/buf.h"
#include "core/base/mem.h"
#include "tests/support/adapter_files.h"
#include "tests/test.h"
#include "tests/unit/adapters/stored.h"

TEST(store_keep_names_over_a_restart)
{
    char *dir = adapter_files_tmp_dir();
    struct err err = {0};
    struct store *s = stored_open(dir, 1, &err);
    ASSERT(s);
    EXPECT_EQ(stored_put(s, 1, 0, 0, &err), 0);
    EXPECT_EQ(stored_put(s, 1, 1, 1, &err), 0);
    EXPECT_EQ(stored_put(s, 1, 2, 1, &err), 0);
    EXPECT_EQ(stored_put(s, 1, 0, 2, &err), 0);
    EXPECT_EQ(store_delete(s, 1, stored_name(1), false, NULL, &err), 0);
    EXPECT_EQ(store_delete(s, 1, "never", false, NULL, &err), -1);
    EXPECT_EQ(err.code, ERR_ADAPTER_NOT_FOUND);
    store_close(s);
    s = stored_open(dir, 1, &err);
    ASSERT(s);
    EXPECT_EQ(stored_in(s, 1, 0), 2);
    EXPECT_EQ(stored_in(s, 1, 1), -1);
    EXPECT_EQ(stored_in(s, 1, 2), 1);
    EXPECT(stored_is_whole(s, 1, 2) && stored_is_whole(s, 1, 1) &&
           !stored_is_whole(s, 1, 0));
    EXPECT_EQ(store_delete(s, 1, stored_name(2), true, NULL, &err), 0);
    store_close(s);
    s = stored_open(dir, 1, &err);
    ASSERT(s);
    EXPECT_EQ(stored_in(s, 1, 2), -2);
    EXPECT(!stored_is_whole(s, 1, 1));
    EXPECT_EQ(stored_put(s, 1, 2, 1, &err), 0);
    EXPECT_EQ(stored_in(s, 1, 2), 1);
    store_close(s);
    adapter_files_remove_dir(dir);
    free(dir);
}

/* A version that a name stopped and started to mean again must not lose its files
 * meanwhile. */
TEST(store_old_version_again)
{
    char *dir = adapter_files_tmp_dir();
    struct err err = {0};
    struct store *s = stored_open(dir, 1, &err);
    ASSERT(s);
    for (int i = 0; i < 6; i++) {
        EXPECT_EQ(stored_put(s, 1, 0, i % 2, &err), 0);
        EXPECT(stored_is_whole(s, 1, i % 2));
        EXPECT_EQ(i == 0 || stored_is_whole(s, 1, (i + 1) % 2),
                  1); /* a late reader of the old one */
    }
    EXPECT_EQ(stored_put(s, 1, 1, 0, &err), 0);
    EXPECT_EQ(stored_put(s, 1, 0, 2, &err), 0);
    EXPECT_EQ(stored_put(s, 1, 0, 3, &err), 0);
    EXPECT(stored_is_whole(s, 1, 0) && stored_is_whole(s, 1, 3) &&
           !stored_is_whole(s, 1, 1));
    store_close(s);
    adapter_files_remove_dir(dir);
    free(dir);
}

TEST(store_clear_what_was_left_half_done)
{
    char *dir = adapter_files_tmp_dir(), blobs[512];
    struct err err = {0};
    struct store *s = stored_open(dir, 1, &err);
    ASSERT(s && stored_put(s, 1, 0, 0, &err) == 0);
    store_close(s);
    snprintf(blobs, sizeof blobs, "%s/blobs", dir);
    adapter_files_make_dir(blobs, ".new-x");
    adapter_files_write(blobs, ".new-x/adapter_config.json", "{", 1);
    adapter_files_make_dir(blobs, ".old-y");
    char orphan[DIGEST_HEX + 3] = "1-", others[DIGEST_HEX + 3] = "2-";
    stored_version(3, orphan + 2);
    stored_version(0, others + 2); /* another tenant's, of the same digest */
    adapter_files_make_dir(blobs, orphan);
    adapter_files_make_dir(blobs, others);
    s = stored_open(dir, 1, &err);
    ASSERT(s);
    EXPECT_EQ(stored_count(dir, "blobs", false), 1);
    EXPECT_EQ(stored_in(s, 1, 0), 0);
    store_close(s);
    adapter_files_remove_dir(dir);
    free(dir);
}

/* ---- what goes wrong ----------------------------------------------------------------- */

enum damage {
    DAMAGED_BYTES,
    CUT_SHORT,
    FILE_MISSING,
    FILE_TOO_MANY,
    FOLDER_EMPTY,
    N_DAMAGES
};

static void damage(const char *dir, int v, enum damage how)
{
    char version[DIGEST_HEX + 1], blob[512], path[600], *weights = stored_weights(v);
    stored_version(v, version);
    snprintf(blob, sizeof blob, "%s/blobs/1-%s", dir, version);
    snprintf(path, sizeof path, "%s/adapter_config.json", blob);
    weights[STORED_BYTES - 1] ^= 1;
    if (how == DAMAGED_BYTES || how == CUT_SHORT)
        adapter_files_write(blob, "adapter_model.safetensors", weights,
                            how == CUT_SHORT ? STORED_BYTES - 1 : STORED_BYTES);
    if (how == FILE_TOO_MANY)
        adapter_files_write(blob, "adapter.json", "{}", 2);
    if (how == FILE_MISSING || how == FOLDER_EMPTY)
        EXPECT_EQ(unlink(path), 0);
    snprintf(path, sizeof path, "%s/adapter_model.safetensors", blob);
    if (how == FOLDER_EMPTY)
        EXPECT_EQ(unlink(path), 0);
    free(weights);
}

/* A put is acknowledged only for what is there, whatever became of the same digest since.
 */
TEST(store_put_again_mends_what_is_damaged)
{
    for (int how = 0; how < N_DAMAGES; how++) {
        char *dir = adapter_files_tmp_dir(), path[512], version[DIGEST_HEX + 1];
        struct err err = {0};
        struct store *s = stored_open(dir, 1, &err);
        ASSERT(s && stored_put(s, 1, 0, 0, &err) == 0);
        damage(dir, 0, (enum damage)how);
        EXPECT_EQ(stored_put(s, 1, how % 2, 0, &err), 0);
        stored_version(0, version);
        snprintf(path, sizeof path, "blobs/1-%s", version);
        if (!stored_is_whole(s, 1, 0) || stored_count(dir, path, false) != 2)
            test_fail(__FILE__, __LINE__, "damage %d was acknowledged", how);
        EXPECT_EQ(stored_count(dir, "blobs", false), 1);
        store_close(s);
        adapter_files_remove_dir(dir);
        free(dir);
    }
}

TEST(store_files_are_their_owners_alone)
{
    static const char *const files[] = {"registry.db", "registry.db-wal", "registry.db-shm",
                                        "lock", "collect.lock"};
    char *dir = adapter_files_tmp_dir(), path[512];
    struct err err = {0};
    struct stat st;
    struct store *s = stored_open(dir, 1, &err);
    ASSERT(s && stored_put(s, 1, 0, 0, &err) == 0);
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        snprintf(path, sizeof path, "%s/%s", dir, files[i]);
        EXPECT_EQ(stat(path, &st), 0);
        EXPECT_EQ(st.st_mode & 0777, 0600);
    }
    store_close(s);
    adapter_files_remove_dir(dir);
    free(dir);
}

TEST(store_report_what_cannot_be_written)
{
    char *dir = adapter_files_tmp_dir(), blobs[512];
    struct err err = {0};
    struct store *s = stored_open(dir, 1, &err);
    ASSERT(s && stored_put(s, 1, 0, 0, &err) == 0);
    if (geteuid() == 0) { /* permissions do not bind root: a file in the way does */
        char tmp[DIGEST_HEX + 40], version[DIGEST_HEX + 1];
        stored_version(1, version);
        snprintf(tmp, sizeof tmp, ".new-%d-1-%s", (int)gettid(), version);
        snprintf(blobs, sizeof blobs, "%s/blobs", dir);
        adapter_files_make_dir(blobs, tmp);
        snprintf(blobs, sizeof blobs, "%s/blobs/%s", dir, tmp);
        adapter_files_make_dir(blobs, "adapter_config.json");
    } else {
        snprintf(blobs, sizeof blobs, "%s/blobs", dir);
        EXPECT_EQ(chmod(blobs, 0500), 0);
    }
    EXPECT_EQ(stored_put(s, 1, 0, 1, &err), -1);
    EXPECT_EQ(err.code, ERR_IO);
    EXPECT_EQ(stored_in(s, 1, 0), 0);
    EXPECT(stored_is_whole(s, 1, 0));
    snprintf(blobs, sizeof blobs, "%s/blobs", dir);
    EXPECT_EQ(chmod(blobs, 0700), 0);
    store_close(s);
    adapter_files_remove_dir(dir);
    free(dir);
}

/* A full disk looks like this: a write that stops half-way. */
TEST(store_full_disk_changes_nothing)
{
    char *dir = adapter_files_tmp_dir();
    struct err err = {0};
    struct rlimit was, small;
    struct store *s = stored_open(dir, 1, &err);
    ASSERT(s && stored_put(s, 1, 0, 0, &err) == 0 && getrlimit(RLIMIT_FSIZE, &was) == 0);
    small = was;
    small.rlim_cur = STORED_BYTES / 2;
    void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
    EXPECT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
    EXPECT_EQ(stored_put(s, 1, 0, 1, &err), -1);
    EXPECT_EQ(setrlimit(RLIMIT_FSIZE, &was), 0);
    signal(SIGXFSZ, handler);
    EXPECT_EQ(err.code, ERR_IO);
    EXPECT_EQ(stored_in(s, 1, 0), 0);
    EXPECT_EQ(stored_count(dir, "blobs", false), 1);
    EXPECT_EQ(stored_put(s, 1, 0, 1, &err), 0);
    EXPECT(stored_is_whole(s, 1, 1));
    store_close(s);
    adapter_files_remove_dir(dir);
    free(dir);
}

/* What nothing means any more goes with the next change, not only at the next start. */
TEST(store_drop_old_versions)
{
    char *dir = adapter_files_tmp_dir();
    struct err err = {0};
    struct store *s = stored_open(dir, 1, &err);
    ASSERT(s);
    for (int i = 0; i < 3; i++)
        EXPECT_EQ(stored_put(s, 1, i, i, &err), 0);
    EXPECT_EQ(store_delete(s, 1, stored_name(0), false, NULL, &err), 0);
    EXPECT_EQ(store_delete(s, 1, stored_name(1), true, NULL, &err), 0);
    EXPECT_EQ(stored_put(s, 1, 2, 3, &err), 0);
    EXPECT_EQ(stored_put(s, 1, 2, 3, &err), 0);
    EXPECT_EQ(stored_count(dir, "blobs", false), 1);
    store_close(s);
    adapter_files_remove_dir(dir);
    free(dir);
}

static sqlite3 *lock_db(const char *dir)
{
    char path[512];
    sqlite3 *db = NULL;
    snprintf(path, sizeof path, "%s/registry.db", dir);
    EXPECT_EQ(sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE, NULL), SQLITE_OK);
    EXPECT_EQ(sqlite3_exec(db, "BEGIN IMMEDIATE", NULL, NULL, NULL), SQLITE_OK);
    return db;
}

/* The files are written before anybody has to wait for others' changes. */
TEST(store_put_that_could_not_begin_leaves_nothing)
{
    char *dir = adapter_files_tmp_dir();
    struct err err = {0};
    struct store *s = stored_open(dir, 1, &err);
    ASSERT(s && stored_put(s, 1, 0, 0, &err) == 0);
    sqlite3_busy_timeout(s->writer, 1);
    for (int is_wanted = 0; is_wanted < 2; is_wanted++) {
        sqlite3 *db = lock_db(dir);
        EXPECT_EQ(stored_put(s, 1, 1, 1, &err), -1);
        EXPECT_EQ(stored_put(s, 1, 1, 0, &err), -1); /* another's version, too */
        EXPECT_EQ(err.code, ERR_IO);
        sqlite3_close(db);
        EXPECT_EQ(stored_put(s, 1, 2, is_wanted ? 1 : 2, &err), 0);
        EXPECT_EQ(stored_put(s, 1, 2, is_wanted ? 1 : 2, &err), 0);
        EXPECT_EQ(stored_is_whole(s, 1, 1), is_wanted);
        EXPECT(stored_is_whole(s, 1, 0));
        EXPECT_EQ(stored_count(dir, "blobs", false), 2);
    }
    store_close(s);
    adapter_files_remove_dir(dir);
    free(dir);
}

TEST(store_delete_clears_away_at_once)
{
    char *dir = adapter_files_tmp_dir(), copy[512];
    struct err err = {0};
    int hold;
    struct store *s = stored_open(dir, 3, &err);
    ASSERT(s && stored_put(s, 1, 0, 0, &err) == 0 && stored_put(s, 1, 0, 1, &err) == 0 &&
           stored_put(s, 1, 1, 1, &err) == 0);
    EXPECT_EQ(stored_delete(s, 1, 0, false, &err), 0);
    EXPECT(stored_is_whole(s, 1, 1) && stored_count(dir, "blobs", false) == 1);
    snprintf(copy, sizeof copy, "%s/copy", dir);
    ASSERT(store_snapshot(s, copy, &hold, &err) == 0);
    EXPECT_EQ(stored_delete(s, 1, 1, true, &err), 0);
    EXPECT(stored_is_whole(s, 1, 1)); /* somebody copies */
    close(hold);
    EXPECT_EQ(stored_put(s, 1, 0, 0, &err), 0);
    EXPECT(!stored_is_whole(s, 1, 1) && stored_count(dir, "blobs", false) == 1);
    store_close(s);
    adapter_files_remove_dir(dir);
    free(dir);
}

/* ---- versions ------------------------------------------------------------------------ */

static void note_version(void *ud, const struct store_version *v)
{
    buf_printf(ud, "%c%lld ", v->digest[0], (long long)v->number);
    EXPECT_STR(v->kind, "K");
}

static void expect_versions(struct store *s, int name, const char *expected)
{
    struct buf seen = {0};
    buf_add_str(&seen, "");
    EXPECT_EQ(store_each_version(s, 1, stored_name(name), note_version, &seen, NULL), 0);
    EXPECT_STR(seen.data, expected);
    buf_free(&seen);
}

TEST(store_keeps_some_versions)
{
    char *dir = adapter_files_tmp_dir();
    struct err err = {0};
    struct store *s = stored_open(dir, 3, &err);
    ASSERT(s);
    for (int v = 0; v < 4; v++)
        EXPECT_EQ(stored_put(s, 1, 0, v, &err), 0);
    expect_versions(s, 0, "94 63 32 ");
    EXPECT_EQ(stored_roll_back(s, 1, 0, 1, &err), 0);
    EXPECT_EQ(stored_in(s, 1, 0), 1);
    expect_versions(s, 0, "94 63 32 ");
    EXPECT_EQ(stored_put(s, 1, 0, 1, &err), 0); /* it is current: nothing happens */
    expect_versions(s, 0, "94 63 32 ");
    EXPECT_EQ(stored_put(s, 1, 0, 2, &err), 0); /* an older one sent again is the newest */
    expect_versions(s, 0, "65 94 32 ");
    EXPECT_EQ(stored_roll_back(s, 1, 0, 0, &err), -1);
    EXPECT_EQ(err.code, ERR_NOT_FOUND);
    EXPECT_EQ(stored_roll_back(s, 1, 1, 1, &err), -1);
    EXPECT_EQ(stored_put(s, 1, 0, 0, &err), 0);
    expect_versions(s, 0, "06 65 94 ");
    EXPECT_EQ(stored_put(s, 1, 0, 0, &err),
              0); /* what was dropped goes with a later change */
    EXPECT(!stored_is_whole(s, 1, 1) && stored_is_whole(s, 1, 0) &&
           stored_is_whole(s, 1, 3));
    store_close(s);
    s = stored_open(dir, 3, &err);
    ASSERT(s);
    expect_versions(s, 0, "06 65 94 ");
    EXPECT_EQ(stored_count(dir, "blobs", false), 3);
    EXPECT_EQ(store_delete(s, 1, stored_name(0), false, NULL, &err), 0);
    expect_versions(s, 0, "");
    EXPECT_EQ(stored_roll_back(s, 1, 0, 0, &err), -1);
    store_close(s);
    adapter_files_remove_dir(dir);
    free(dir);
}

/* A version that one name dropped and another has stays. */
TEST(store_shares_blobs_of_equal_content)
{
    char *dir = adapter_files_tmp_dir();
    struct err err = {0};
    struct store *s = stored_open(dir, 1, &err);
    ASSERT(s);
    EXPECT(stored_put(s, 1, 0, 0, &err) == 0 && stored_put(s, 1, 1, 0, &err) == 0);
    EXPECT_EQ(stored_count(dir, "blobs", false), 1);
    EXPECT_EQ(store_delete(s, 1, stored_name(0), false, NULL, &err), 0);
    EXPECT(stored_put(s, 1, 0, 1, &err) == 0 && stored_put(s, 1, 0, 2, &err) == 0 &&
           stored_put(s, 1, 0, 3, &err) == 0);
    EXPECT(stored_is_whole(s, 1, 0) && stored_in(s, 1, 1) == 0 &&
           !stored_is_whole(s, 1, 1));
    store_close(s);
    adapter_files_remove_dir(dir);
    free(dir);
}

static int expect_current(void *ud, const char *current, bool is_from_folder,
                          struct err *err)
{
    const char *expected = ud;
    EXPECT(!is_from_folder);
    bool is_same =
        current && expected ? strcmp(current, expected) == 0 : current == expected;
    return is_same ? 0 : err_set(err, ERR_CONFLICT, "it is something else");
}

/* What is refused at the moment of the change leaves nothing behind. */
TEST(store_asks_before_it_changes)
{
    char *dir = adapter_files_tmp_dir(), first[DIGEST_HEX + 1], second[DIGEST_HEX + 1],
         empty[] = "";
    struct err err = {0};
    struct store *s = stored_open(dir, 1, &err);
    ASSERT(s);
    stored_version(0, first);
    stored_version(1, second);
    const struct store_condition nothing = {expect_current, NULL},
                                 is_first = {expect_current, first},
                                 is_deleted = {expect_current, empty};
    const struct store_entry e = {.tenant = 1,
                                  .name = stored_name(0),
                                  .version = second,
                                  .kind = "K",
                                  .created = 1001};
    const struct blob_file file = {"adapter.json", "{}", 2};
    EXPECT_EQ(store_put(s, &e, &file, 1, &is_first, NULL, &err), -1);
    EXPECT_EQ(err.code, ERR_CONFLICT);
    EXPECT(stored_in(s, 1, 0) == -1 && stored_count(dir, "blobs", false) == 0);
    EXPECT_EQ(stored_put(s, 1, 0, 0, &err), 0);
    EXPECT_EQ(store_put(s, &e, &file, 1, &nothing, NULL, &err), -1);
    EXPECT_EQ(store_delete(s, 1, stored_name(0), true, &nothing, &err), -1);
    EXPECT_EQ(store_rollback(s, 1, stored_name(0), first, &nothing, &err), -1);
    EXPECT(stored_in(s, 1, 0) == 0 && stored_count(dir, "blobs", false) == 1);
    EXPECT_EQ(store_put(s, &e, &file, 1, &is_first, NULL, &err), 0);
    EXPECT_EQ(store_delete(s, 1, stored_name(0), true, &is_deleted, &err), -1);
    EXPECT_EQ(store_delete(s, 1, stored_name(0), true, NULL, &err), 0);
    EXPECT_EQ(store_put(s, &e, &file, 1, &is_deleted, NULL, &err), 0);
    store_close(s);
    adapter_files_remove_dir(dir);
    free(dir);
}
