/* store: what was acknowledged is there after kill -9, whole; nothing else is. */
#define _GNU_SOURCE
#include "adapters/store.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/base/log.h"
#include "core/base/mem.h"
#include "tests/support/adapter_files.h"
#include "tests/test.h"

enum { N_NAMES = 3, N_VERSIONS = 4, WEIGHT_BYTES = 40000 };

static const char *const names[N_NAMES] = {"a", "b.json", "c-C_9"};

static struct store *open_store(const char *dir, int keep_versions, struct err *err)
{
    return store_open(&(struct store_opts){dir, keep_versions}, err);
}

static void version_of(int v, char out[DIGEST_HEX + 1])
{
    memset(out, "0369"[v], DIGEST_HEX);
    out[DIGEST_HEX] = '\0';
}

static char *weights_of(int v)
{
    char *bytes = xmalloc(WEIGHT_BYTES);
    for (int i = 0; i < WEIGHT_BYTES; i++)
        bytes[i] = (char)(i * 7 + v);
    return bytes;
}

static int put(struct store *s, int name, int v, struct err *err)
{
    char version[DIGEST_HEX + 1], *weights = weights_of(v);
    const struct blob_file files[] = {{"adapter_config.json", "{}", 2},
                                       {"adapter_model.safetensors", weights, WEIGHT_BYTES}};
    version_of(v, version);
    const struct store_entry e = {.name = names[name], .version = version, .kind = "K", .created = 1000 + v};
    int rc = store_put(s, &e, files, 2, NULL, err);
    free(weights);
    return rc;
}

static bool has_whole_files(const struct store *s, int v)
{
    char version[DIGEST_HEX + 1], *weights = weights_of(v);
    struct err err = {0};
    size_t n = 0, m = 0;
    version_of(v, version);
    char *config = blobs_read_file(store_blobs(s), version, "adapter_config.json", 100, &n, &err);
    char *read = blobs_read_file(store_blobs(s), version, "adapter_model.safetensors", 1 << 20, &m, &err);
    bool ok = config && read && n == 2 && m == WEIGHT_BYTES && memcmp(read, weights, m) == 0;
    free(config);
    free(read);
    free(weights);
    return ok;
}

struct looking {
    const char *name;
    int found;
};

static void look(void *ud, const struct store_entry *e)
{
    struct looking *l = ud;
    char version[DIGEST_HEX + 1];
    if (strcmp(e->name, l->name) != 0)
        return;
    l->found = e->is_damaged ? -5 : e->version[0] ? -4 : -2;
    for (int v = 0; v < N_VERSIONS; v++) {
        version_of(v, version);
        if (strcmp(version, e->version) == 0)
            l->found = e->created == 1000 + v ? v : -3;
    }
}

/* -1: no such name; -2: remembered as deleted; -5: damaged; else the version. */
static int version_in(const struct store *s, int name)
{
    struct looking l = {names[name], -1};
    EXPECT_EQ(store_each(s, look, &l, NULL), 0);
    return l.found;
}

static int count_in(const char *dir, const char *sub, bool only_hidden)
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

TEST(store_keep_names_over_a_restart)
{
    char *dir = adapter_files_tmp_dir();
    struct err err = {0};
    struct store *s = open_store(dir, 1, &err);
    ASSERT(s);
    EXPECT_EQ(put(s, 0, 0, &err), 0);
    EXPECT_EQ(put(s, 1, 1, &err), 0);
    EXPECT_EQ(put(s, 2, 1, &err), 0);
    EXPECT_EQ(put(s, 0, 2, &err), 0);
    EXPECT_EQ(store_delete(s, names[1], false, NULL, &err), 0);
    EXPECT_EQ(store_delete(s, "never", false, NULL, &err), 0);
    store_close(s);
    s = open_store(dir, 1, &err);
    ASSERT(s);
    EXPECT_EQ(version_in(s, 0), 2);
    EXPECT_EQ(version_in(s, 1), -1);
    EXPECT_EQ(version_in(s, 2), 1);
    EXPECT(has_whole_files(s, 2) && has_whole_files(s, 1) && !has_whole_files(s, 0));
    EXPECT_EQ(store_delete(s, names[2], true, NULL, &err), 0);
    store_close(s);
    s = open_store(dir, 1, &err);
    ASSERT(s);
    EXPECT_EQ(version_in(s, 2), -2);
    EXPECT(!has_whole_files(s, 1));
    EXPECT_EQ(put(s, 2, 1, &err), 0);
    EXPECT_EQ(version_in(s, 2), 1);
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
    struct store *s = open_store(dir, 1, &err);
    ASSERT(s);
    for (int i = 0; i < 6; i++) {
        EXPECT_EQ(put(s, 0, i % 2, &err), 0);
        EXPECT(has_whole_files(s, i % 2));
        EXPECT_EQ(i == 0 || has_whole_files(s, (i + 1) % 2), 1); /* a late reader of the old one */
    }
    EXPECT_EQ(put(s, 1, 0, &err), 0);
    EXPECT_EQ(put(s, 0, 2, &err), 0);
    EXPECT_EQ(put(s, 0, 3, &err), 0);
    EXPECT(has_whole_files(s, 0) && has_whole_files(s, 3) && !has_whole_files(s, 1));
    store_close(s);
    adapter_files_remove_dir(dir);
    free(dir);
}

TEST(store_have_one_owner)
{
    char *dir = adapter_files_tmp_dir();
    struct err err = {0};
    struct store *s = open_store(dir, 1, &err);
    ASSERT(s);
    EXPECT(open_store(dir, 1, &err) == NULL);
    EXPECT_EQ(err.code, ERR_CONFLICT);
    store_close(s);
    s = open_store(dir, 1, &err);
    EXPECT(s != NULL);
    store_close(s);
    adapter_files_remove_dir(dir);
    free(dir);
}

TEST(store_clear_what_was_left_half_done)
{
    char *dir = adapter_files_tmp_dir(), blobs[512];
    struct err err = {0};
    struct store *s = open_store(dir, 1, &err);
    ASSERT(s && put(s, 0, 0, &err) == 0);
    store_close(s);
    snprintf(blobs, sizeof blobs, "%s/blobs", dir);
    adapter_files_make_dir(blobs, ".new-x");
    adapter_files_write(blobs, ".new-x/adapter_config.json", "{", 1);
    adapter_files_make_dir(blobs, ".old-y");
    char orphan[DIGEST_HEX + 1];
    version_of(3, orphan);
    adapter_files_make_dir(blobs, orphan);
    s = open_store(dir, 1, &err);
    ASSERT(s);
    EXPECT_EQ(count_in(dir, "blobs", false), 1);
    EXPECT_EQ(version_in(s, 0), 0);
    store_close(s);
    adapter_files_remove_dir(dir);
    free(dir);
}

/* ---- state folders of older daemons -------------------------------------------------- */

static void write_blob(const char *dir, int v)
{
    char path[512], version[DIGEST_HEX + 1], *weights = weights_of(v);
    version_of(v, version);
    snprintf(path, sizeof path, "%s/blobs", dir);
    adapter_files_make_dir(path, version);
    snprintf(path, sizeof path, "%s/blobs/%s", dir, version);
    adapter_files_write(path, "adapter_config.json", "{}", 2);
    adapter_files_write(path, "adapter_model.safetensors", weights, WEIGHT_BYTES);
    free(weights);
}

static void write_pointer(const char *dir, const char *file, int v)
{
    char path[512], version[DIGEST_HEX + 1], json[200];
    version_of(v < 0 ? 0 : v, version);
    snprintf(path, sizeof path, "%s/adapters", dir);
    snprintf(json, sizeof json, "{\"version\": \"%s\", \"created\": %d}\n", version, 1000 + v);
    if (v < 0)
        snprintf(json, sizeof json, "{\"deleted\": true}\n");
    adapter_files_write(path, file, json, strlen(json));
}

static char *older_folder(void)
{
    char *dir = adapter_files_tmp_dir();
    adapter_files_make_dir(dir, "adapters");
    adapter_files_make_dir(dir, "blobs");
    for (int v = 0; v < N_VERSIONS; v++)
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
    struct store *s = open_store(dir, 1, &err);
    ASSERT(s);
    EXPECT(version_in(s, 0) == 0 && version_in(s, 1) == 1 && version_in(s, 2) == -2);
    EXPECT(has_whole_files(s, 0) && has_whole_files(s, 1) && !has_whole_files(s, 3));
    EXPECT(access(adapters, F_OK) != 0);
    EXPECT_EQ(store_delete(s, names[0], false, NULL, &err), 0);
    store_close(s);
    log_init(LOG_TEXT, LOG_ERROR + 1);
    adapter_files_make_dir(dir, "adapters");
    write_pointer(dir, "a.json", 1); /* as a kill between the commit and the removal leaves it */
    s = open_store(dir, 1, &err);
    log_init(LOG_TEXT, LOG_ERROR);
    ASSERT(s);
    EXPECT(version_in(s, 0) == -1 && version_in(s, 1) == 1 && version_in(s, 2) == -2);
    store_close(s);
    adapter_files_remove_dir(dir);
    free(dir);
}

#define SLASHES "../../../../../../../../../../../../../../../../../../../../../x" /* 64 */

/* A pointer that somebody broke is left aside; no blob goes, since one may be its. */
TEST(store_leaves_damaged_pointers)
{
    static const char *const broken[] = {
        "", "{", "[]", "{\"version\": 7, \"created\": 1}", "{\"version\": \"..\", \"created\": 1}",
        "{\"version\": \"" SLASHES "\", \"created\": 1}", "{\"deleted\": false}"};
    struct err err = {0};
    log_init(LOG_TEXT, LOG_ERROR + 1);
    for (size_t i = 0; i < sizeof broken / sizeof broken[0]; i++) {
        char *dir = older_folder(), adapters[512];
        snprintf(adapters, sizeof adapters, "%s/adapters", dir);
        adapter_files_write(adapters, "a.json", broken[i], strlen(broken[i]));
        for (int again = 0; again < 2; again++) {
            struct store *s = open_store(dir, 1, &err);
            ASSERT(s);
            EXPECT(version_in(s, 0) == -5 && version_in(s, 1) == 1);
            EXPECT(has_whole_files(s, 0) && has_whole_files(s, 3));
            if (again && i % 2)
                EXPECT_EQ(put(s, 0, 0, &err), 0);
            else if (again)
                EXPECT_EQ(store_delete(s, names[0], false, NULL, &err), 0);
            store_close(s);
        }
        struct store *s = open_store(dir, 1, &err);
        ASSERT(s);
        EXPECT_EQ(version_in(s, 0), i % 2 ? 0 : -1);
        store_close(s);
        EXPECT_EQ(count_in(dir, "adapters", false), 1);
        adapter_files_remove_dir(dir);
        free(dir);
    }
    log_init(LOG_TEXT, LOG_ERROR);
}

/* ---- what goes wrong ----------------------------------------------------------------- */

TEST(store_refuses_a_registry_that_it_does_not_understand)
{
    char *dir = adapter_files_tmp_dir(), path[512];
    struct err err = {0};
    struct store *s = open_store(dir, 1, &err);
    ASSERT(s && put(s, 0, 0, &err) == 0);
    store_close(s);
    snprintf(path, sizeof path, "%s/registry.db", dir);
    FILE *f = fopen(path, "r+b"); /* user_version is at 60, big-endian */
    ASSERT(f && fseek(f, 60, SEEK_SET) == 0 && fwrite("\0\0\3\0", 1, 4, f) == 4 && fclose(f) == 0);
    EXPECT(open_store(dir, 1, &err) == NULL);
    EXPECT_EQ(err.code, ERR_CONFLICT);
    EXPECT(strstr(err.msg, "newer") != NULL);
    adapter_files_write(dir, "registry.db", "this is no database, however long one looks at it", 49);
    EXPECT(open_store(dir, 1, &err) == NULL);
    EXPECT_EQ(err.code, ERR_IO);
    EXPECT_EQ(count_in(dir, "blobs", false), 1);
    adapter_files_remove_dir(dir);
    free(dir);
}

enum damage { DAMAGED_BYTES, CUT_SHORT, FILE_MISSING, FILE_TOO_MANY, FOLDER_EMPTY, N_DAMAGES };

static void damage(const char *dir, int v, enum damage how)
{
    char version[DIGEST_HEX + 1], blob[512], path[600], *weights = weights_of(v);
    version_of(v, version);
    snprintf(blob, sizeof blob, "%s/blobs/%s", dir, version);
    snprintf(path, sizeof path, "%s/adapter_config.json", blob);
    weights[WEIGHT_BYTES - 1] ^= 1;
    if (how == DAMAGED_BYTES || how == CUT_SHORT)
        adapter_files_write(blob, "adapter_model.safetensors", weights,
                            how == CUT_SHORT ? WEIGHT_BYTES - 1 : WEIGHT_BYTES);
    if (how == FILE_TOO_MANY)
        adapter_files_write(blob, "adapter.json", "{}", 2);
    if (how == FILE_MISSING || how == FOLDER_EMPTY)
        EXPECT_EQ(unlink(path), 0);
    snprintf(path, sizeof path, "%s/adapter_model.safetensors", blob);
    if (how == FOLDER_EMPTY)
        EXPECT_EQ(unlink(path), 0);
    free(weights);
}

/* A put is acknowledged only for what is there, whatever became of the same digest since. */
TEST(store_put_again_mends_what_is_damaged)
{
    for (int how = 0; how < N_DAMAGES; how++) {
        char *dir = adapter_files_tmp_dir(), path[512], version[DIGEST_HEX + 1];
        struct err err = {0};
        struct store *s = open_store(dir, 1, &err);
        ASSERT(s && put(s, 0, 0, &err) == 0);
        damage(dir, 0, (enum damage)how);
        EXPECT_EQ(put(s, how % 2, 0, &err), 0);
        version_of(0, version);
        snprintf(path, sizeof path, "blobs/%s", version);
        if (!has_whole_files(s, 0) || count_in(dir, path, false) != 2)
            test_fail(__FILE__, __LINE__, "damage %d was acknowledged", how);
        EXPECT_EQ(count_in(dir, "blobs", false), 1);
        store_close(s);
        adapter_files_remove_dir(dir);
        free(dir);
    }
}

TEST(store_files_are_their_owners_alone)
{
    static const char *const files[] = {"registry.db", "registry.db-wal", "registry.db-shm", "lock"};
    char *dir = adapter_files_tmp_dir(), path[512];
    struct err err = {0};
    struct stat st;
    struct store *s = open_store(dir, 1, &err);
    ASSERT(s && put(s, 0, 0, &err) == 0);
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        snprintf(path, sizeof path, "%s/%s", dir, files[i]);
        EXPECT_EQ(stat(path, &st), 0);
        EXPECT_EQ(st.st_mode & 0777, 0600);
    }
    store_close(s);
    adapter_files_remove_dir(dir);
    free(dir);
}

TEST(store_temporary_goes_with_its_process)
{
    char *dir = adapter_files_tmp_dir();
    struct err err = {0};
    const char *was = getenv("TMPDIR");
    char *kept = was ? xstrdup(was) : NULL;
    setenv("TMPDIR", dir, 1);
    struct store *s = open_store(NULL, 1, &err);
    ASSERT(s);
    EXPECT_EQ(put(s, 0, 0, &err), 0);
    EXPECT(version_in(s, 0) == 0 && has_whole_files(s, 0));
    EXPECT_EQ(count_in(dir, ".", false), 1);
    store_close(s);
    EXPECT_EQ(count_in(dir, ".", false), 0);
    setenv("TMPDIR", "/nowhere/at/all", 1);
    EXPECT(open_store(NULL, 1, &err) == NULL);
    EXPECT_EQ(err.code, ERR_IO);
    if (kept)
        setenv("TMPDIR", kept, 1);
    else
        unsetenv("TMPDIR");
    free(kept);
    adapter_files_remove_dir(dir);
    free(dir);
}

TEST(store_report_what_cannot_be_written)
{
    char *dir = adapter_files_tmp_dir(), blobs[512];
    struct err err = {0};
    struct store *s = open_store(dir, 1, &err);
    ASSERT(s && put(s, 0, 0, &err) == 0);
    if (geteuid() == 0) { /* permissions do not bind root: a file in the way does */
        char tmp[DIGEST_HEX + 8];
        version_of(1, tmp + 5);
        memcpy(tmp, ".new-", 5);
        snprintf(blobs, sizeof blobs, "%s/blobs", dir);
        adapter_files_make_dir(blobs, tmp);
        snprintf(blobs, sizeof blobs, "%s/blobs/%s", dir, tmp);
        adapter_files_make_dir(blobs, "adapter_config.json");
    } else {
        snprintf(blobs, sizeof blobs, "%s/blobs", dir);
        EXPECT_EQ(chmod(blobs, 0500), 0);
    }
    EXPECT_EQ(put(s, 0, 1, &err), -1);
    EXPECT_EQ(err.code, ERR_IO);
    EXPECT_EQ(version_in(s, 0), 0);
    EXPECT(has_whole_files(s, 0));
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
    struct store *s = open_store(dir, 1, &err);
    ASSERT(s && put(s, 0, 0, &err) == 0 && getrlimit(RLIMIT_FSIZE, &was) == 0);
    small = was;
    small.rlim_cur = WEIGHT_BYTES / 2;
    void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
    EXPECT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
    EXPECT_EQ(put(s, 0, 1, &err), -1);
    EXPECT_EQ(setrlimit(RLIMIT_FSIZE, &was), 0);
    signal(SIGXFSZ, handler);
    EXPECT_EQ(err.code, ERR_IO);
    EXPECT_EQ(version_in(s, 0), 0);
    EXPECT_EQ(count_in(dir, "blobs", false), 1);
    EXPECT_EQ(put(s, 0, 1, &err), 0);
    EXPECT(has_whole_files(s, 1));
    store_close(s);
    adapter_files_remove_dir(dir);
    free(dir);
}

/* What nothing means any more goes with the next change, not only at the next start. */
TEST(store_drop_old_versions)
{
    char *dir = adapter_files_tmp_dir();
    struct err err = {0};
    struct store *s = open_store(dir, 1, &err);
    ASSERT(s);
    for (int i = 0; i < 3; i++)
        EXPECT_EQ(put(s, i, i, &err), 0);
    EXPECT_EQ(store_delete(s, names[0], false, NULL, &err), 0);
    EXPECT_EQ(store_delete(s, names[1], true, NULL, &err), 0);
    EXPECT_EQ(put(s, 2, 3, &err), 0);
    EXPECT_EQ(put(s, 2, 3, &err), 0);
    EXPECT_EQ(count_in(dir, "blobs", false), 1);
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

static void expect_versions(const struct store *s, int name, const char *expected)
{
    struct buf seen = {0};
    buf_add_str(&seen, "");
    EXPECT_EQ(store_each_version(s, names[name], note_version, &seen, NULL), 0);
    EXPECT_STR(seen.data, expected);
    buf_free(&seen);
}

static int roll_back(struct store *s, int name, int v, struct err *err)
{
    char version[DIGEST_HEX + 1];
    version_of(v, version);
    return store_rollback(s, names[name], version, NULL, err);
}

TEST(store_keeps_some_versions)
{
    char *dir = adapter_files_tmp_dir();
    struct err err = {0};
    struct store *s = open_store(dir, 3, &err);
    ASSERT(s);
    for (int v = 0; v < 4; v++)
        EXPECT_EQ(put(s, 0, v, &err), 0);
    expect_versions(s, 0, "94 63 32 ");
    EXPECT_EQ(roll_back(s, 0, 1, &err), 0);
    EXPECT_EQ(version_in(s, 0), 1);
    expect_versions(s, 0, "94 63 32 ");
    EXPECT_EQ(put(s, 0, 1, &err), 0); /* it is current: nothing happens */
    expect_versions(s, 0, "94 63 32 ");
    EXPECT_EQ(put(s, 0, 2, &err), 0); /* an older one sent again is the newest */
    expect_versions(s, 0, "65 94 32 ");
    EXPECT_EQ(roll_back(s, 0, 0, &err), -1);
    EXPECT_EQ(err.code, ERR_NOT_FOUND);
    EXPECT_EQ(roll_back(s, 1, 1, &err), -1);
    EXPECT_EQ(put(s, 0, 0, &err), 0);
    expect_versions(s, 0, "06 65 94 ");
    EXPECT_EQ(put(s, 0, 0, &err), 0); /* what was dropped goes with a later change */
    EXPECT(!has_whole_files(s, 1) && has_whole_files(s, 0) && has_whole_files(s, 3));
    store_close(s);
    s = open_store(dir, 3, &err);
    ASSERT(s);
    expect_versions(s, 0, "06 65 94 ");
    EXPECT_EQ(count_in(dir, "blobs", false), 3);
    EXPECT_EQ(store_delete(s, names[0], false, NULL, &err), 0);
    expect_versions(s, 0, "");
    EXPECT_EQ(roll_back(s, 0, 0, &err), -1);
    store_close(s);
    adapter_files_remove_dir(dir);
    free(dir);
}

/* A version that one name dropped and another has stays. */
TEST(store_shares_blobs_of_equal_content)
{
    char *dir = adapter_files_tmp_dir();
    struct err err = {0};
    struct store *s = open_store(dir, 1, &err);
    ASSERT(s);
    EXPECT(put(s, 0, 0, &err) == 0 && put(s, 1, 0, &err) == 0);
    EXPECT_EQ(count_in(dir, "blobs", false), 1);
    EXPECT_EQ(store_delete(s, names[0], false, NULL, &err), 0);
    EXPECT(put(s, 0, 1, &err) == 0 && put(s, 0, 2, &err) == 0 && put(s, 0, 3, &err) == 0);
    EXPECT(has_whole_files(s, 0) && version_in(s, 1) == 0 && !has_whole_files(s, 1));
    store_close(s);
    adapter_files_remove_dir(dir);
    free(dir);
}

static int expect_current(void *ud, const char *current, struct err *err)
{
    const char *expected = ud;
    bool is_same = current && expected ? strcmp(current, expected) == 0 : current == expected;
    return is_same ? 0 : err_set(err, ERR_CONFLICT, "it is something else");
}

/* What is refused at the moment of the change leaves nothing behind. */
TEST(store_asks_before_it_changes)
{
    char *dir = adapter_files_tmp_dir(), first[DIGEST_HEX + 1], second[DIGEST_HEX + 1], empty[] = "";
    struct err err = {0};
    struct store *s = open_store(dir, 1, &err);
    ASSERT(s);
    version_of(0, first);
    version_of(1, second);
    const struct store_condition nothing = {expect_current, NULL}, is_first = {expect_current, first},
                             is_deleted = {expect_current, empty};
    const struct store_entry e = {.name = names[0], .version = second, .kind = "K", .created = 1001};
    const struct blob_file file = {"adapter.json", "{}", 2};
    EXPECT_EQ(store_put(s, &e, &file, 1, &is_first, &err), -1);
    EXPECT_EQ(err.code, ERR_CONFLICT);
    EXPECT(version_in(s, 0) == -1 && count_in(dir, "blobs", false) == 0);
    EXPECT_EQ(put(s, 0, 0, &err), 0);
    EXPECT_EQ(store_put(s, &e, &file, 1, &nothing, &err), -1);
    EXPECT_EQ(store_delete(s, names[0], true, &nothing, &err), -1);
    EXPECT_EQ(store_rollback(s, names[0], first, &nothing, &err), -1);
    EXPECT(version_in(s, 0) == 0 && count_in(dir, "blobs", false) == 1);
    EXPECT_EQ(store_put(s, &e, &file, 1, &is_first, &err), 0);
    EXPECT_EQ(store_delete(s, names[0], true, &is_deleted, &err), -1);
    EXPECT_EQ(store_delete(s, names[0], true, NULL, &err), 0);
    EXPECT_EQ(store_put(s, &e, &file, 1, &is_deleted, &err), 0);
    store_close(s);
    adapter_files_remove_dir(dir);
    free(dir);
}

/* ---- kill -9 ------------------------------------------------------------------------- */

struct shared { /* with the child that is killed */
    volatile int acknowledged; /* operations */
};

static unsigned mix(unsigned x)
{
    x ^= x >> 16;
    x *= 0x7feb352du;
    x ^= x >> 15;
    x *= 0x846ca68bu;
    return x ^ x >> 16;
}

/* Operation i of a round: a name, and the version to put, -1 to delete, -2 to delete and
 * remember. */
static int operation(unsigned seed, int i, int *name)
{
    unsigned r = mix(seed * 1000003u + (unsigned)i);
    *name = (int)(r % N_NAMES);
    return (int)(r / N_NAMES % (N_VERSIONS + 2)) - 2;
}

static void apply(struct store *s, unsigned seed, int i)
{
    struct err err = {0};
    int name, v = operation(seed, i, &name);
    int rc = v >= 0 ? put(s, name, v, &err) : store_delete(s, names[name], v == -2, NULL, &err);
    if (rc < 0)
        _exit(2);
}

static _Noreturn void work_until_killed(const char *dir, unsigned seed, struct shared *shared)
{
    struct err err = {0};
    struct store *s = open_store(dir, 1, &err);
    if (!s)
        _exit(3);
    for (int i = 0;; i++) {
        apply(s, seed, i);
        shared->acknowledged = i + 1;
    }
}

static void replay(int state[N_NAMES], unsigned seed, int n)
{
    for (int i = 0; i < n; i++) {
        int name, v = operation(seed, i, &name);
        state[name] = v;
    }
}

static void check_survivors(const char *dir, int state[N_NAMES], unsigned seed, int acknowledged)
{
    struct err err = {0};
    int running, next = operation(seed, acknowledged, &running);
    struct store *s = open_store(dir, 1, &err);
    ASSERT(s);
    replay(state, seed, acknowledged);
    for (int i = 0; i < N_NAMES; i++) {
        int found = version_in(s, i);
        if (found != state[i] && !(i == running && found == next))
            test_fail(__FILE__, __LINE__, "round %u after %d: %s has %d, expected %d", seed,
                      acknowledged, names[i], found, state[i]);
        if (found >= 0 && !has_whole_files(s, found))
            test_fail(__FILE__, __LINE__, "round %u: files of %s are not whole", seed, names[i]);
        state[i] = found;
    }
    EXPECT_EQ(count_in(dir, "blobs", true), 0);
    store_close(s);
}

static int kill_one(const char *dir, unsigned seed)
{
    int status;
    struct shared *shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE,
                                 MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pid_t child = fork();
    if (child == 0)
        work_until_killed(dir, seed, shared);
    int least = (int)(mix(seed) % 5); /* then at a random point of the next operation */
    for (int ms = 0; ms < 5000 && shared->acknowledged < least; ms++)
        usleep(1000);
    usleep(mix(seed + 1000) % 12000);
    kill(child, SIGKILL);
    waitpid(child, &status, 0);
    EXPECT(WIFSIGNALED(status)); /* it did not give up by itself */
    int acknowledged = shared->acknowledged;
    munmap(shared, sizeof *shared);
    return acknowledged;
}

TEST(store_survive_kill_9)
{
    char *dir = adapter_files_tmp_dir();
    int state[N_NAMES] = {-1, -1, -1}, total = 0;
    for (unsigned seed = 1; seed <= 60; seed++) {
        int acknowledged = kill_one(dir, seed);
        check_survivors(dir, state, seed, acknowledged);
        total += acknowledged;
    }
    EXPECT(total >= 60);
    adapter_files_remove_dir(dir);
    free(dir);
}
