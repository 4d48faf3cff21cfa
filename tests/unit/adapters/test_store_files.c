/* store_files: what was acknowledged is there after kill -9, whole; nothing else is. */
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
    const struct store_file files[] = {{"adapter_config.json", "{}", 2},
                                       {"adapter_model.safetensors", weights, WEIGHT_BYTES}};
    version_of(v, version);
    const struct store_entry e = {.name = names[name], .version = version, .created = 1000 + v};
    int rc = store_put(s, &e, files, 2, err);
    free(weights);
    return rc;
}

static bool has_whole_files(const struct store *s, int v)
{
    char version[DIGEST_HEX + 1], *weights = weights_of(v);
    struct err err = {0};
    size_t n = 0, m = 0;
    version_of(v, version);
    char *config = store_read_file(s, version, "adapter_config.json", 100, &n, &err);
    char *read = store_read_file(s, version, "adapter_model.safetensors", 1 << 20, &m, &err);
    bool ok = config && read && n == 2 && m == WEIGHT_BYTES && memcmp(read, weights, m) == 0;
    free(config);
    free(read);
    free(weights);
    return ok;
}

/* -1: no such name; -2: remembered as deleted; -5: damaged; else the version. */
static int version_in(const struct store *s, int name)
{
    for (size_t i = 0; i < store_n_entries(s); i++) {
        struct store_entry e = store_entry_at(s, i);
        char version[DIGEST_HEX + 1];
        if (strcmp(e.name, names[name]) != 0)
            continue;
        if (e.is_damaged)
            return e.version[0] ? -6 : -5;
        for (int v = 0; v < N_VERSIONS; v++) {
            version_of(v, version);
            if (strcmp(version, e.version) == 0)
                return e.created == 1000 + v ? v : -3;
        }
        return e.version[0] ? -4 : -2;
    }
    return -1;
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

TEST(store_files_keep_names_over_a_restart)
{
    char *dir = adapter_files_tmp_dir();
    struct err err = {0};
    struct store *s = store_open(dir, &err);
    ASSERT(s);
    EXPECT_EQ(put(s, 0, 0, &err), 0);
    EXPECT_EQ(put(s, 1, 1, &err), 0);
    EXPECT_EQ(put(s, 2, 1, &err), 0);
    EXPECT_EQ(put(s, 0, 2, &err), 0);
    EXPECT_EQ(store_delete(s, names[1], false, &err), 0);
    EXPECT_EQ(store_delete(s, "never", false, &err), 0);
    store_close(s);
    s = store_open(dir, &err);
    ASSERT(s);
    EXPECT_EQ(version_in(s, 0), 2);
    EXPECT_EQ(version_in(s, 1), -1);
    EXPECT_EQ(version_in(s, 2), 1);
    EXPECT(has_whole_files(s, 2) && has_whole_files(s, 1) && !has_whole_files(s, 0));
    EXPECT_EQ(store_delete(s, names[2], true, &err), 0);
    store_close(s);
    s = store_open(dir, &err);
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
TEST(store_files_old_version_again)
{
    char *dir = adapter_files_tmp_dir();
    struct err err = {0};
    struct store *s = store_open(dir, &err);
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

TEST(store_files_have_one_owner)
{
    char *dir = adapter_files_tmp_dir();
    struct err err = {0};
    struct store *s = store_open(dir, &err);
    ASSERT(s);
    EXPECT(store_open(dir, &err) == NULL);
    EXPECT_EQ(err.code, ERR_CONFLICT);
    store_close(s);
    s = store_open(dir, &err);
    EXPECT(s != NULL);
    store_close(s);
    adapter_files_remove_dir(dir);
    free(dir);
}

TEST(store_files_clear_what_was_left_half_done)
{
    char *dir = adapter_files_tmp_dir(), blobs[512], adapters[512];
    struct err err = {0};
    struct store *s = store_open(dir, &err);
    ASSERT(s && put(s, 0, 0, &err) == 0);
    store_close(s);
    snprintf(blobs, sizeof blobs, "%s/blobs", dir);
    snprintf(adapters, sizeof adapters, "%s/adapters", dir);
    adapter_files_write(adapters, ".new-b.json", "{\"ver", 5);
    adapter_files_make_dir(blobs, ".new-x");
    adapter_files_write(blobs, ".new-x/adapter_config.json", "{", 1);
    adapter_files_make_dir(blobs, ".old-y");
    char orphan[DIGEST_HEX + 1];
    version_of(3, orphan);
    adapter_files_make_dir(blobs, orphan);
    s = store_open(dir, &err);
    ASSERT(s);
    EXPECT_EQ(count_in(dir, "adapters", false), 1);
    EXPECT_EQ(count_in(dir, "blobs", false), 1);
    EXPECT_EQ(version_in(s, 0), 0);
    store_close(s);
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
TEST(store_files_put_again_mends_what_is_damaged)
{
    for (int how = 0; how < N_DAMAGES; how++) {
        char *dir = adapter_files_tmp_dir(), path[512], version[DIGEST_HEX + 1];
        struct err err = {0};
        struct store *s = store_open(dir, &err);
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

#define SLASHES "../../../../../../../../../../../../../../../../../../../../../x" /* 64 */

/* A pointer that somebody broke is left aside; no blob goes, since one may be its. */
TEST(store_files_leave_damaged_pointers)
{
    static const char *const broken[] = {
        "", "{", "[]", "{\"version\": 7, \"created\": 1}", "{\"version\": \"..\", \"created\": 1}",
        "{\"version\": \"" SLASHES "\", \"created\": 1}", "{\"deleted\": false}"};
    char *dir = adapter_files_tmp_dir(), adapters[512];
    struct err err = {0};
    struct store *s = store_open(dir, &err);
    ASSERT(s && put(s, 0, 0, &err) == 0);
    store_close(s);
    snprintf(adapters, sizeof adapters, "%s/adapters", dir);
    log_init(LOG_TEXT, LOG_ERROR + 1);
    for (size_t i = 0; i < sizeof broken / sizeof broken[0]; i++) {
        adapter_files_write(adapters, "a.json", broken[i], strlen(broken[i]));
        s = store_open(dir, &err);
        ASSERT(s);
        EXPECT_EQ(version_in(s, 0), -5);
        EXPECT(has_whole_files(s, 0));
        if (i % 2)
            EXPECT_EQ(put(s, 0, 0, &err), 0);
        else
            EXPECT_EQ(store_delete(s, names[0], false, &err), 0);
        EXPECT_EQ(version_in(s, 0), i % 2 ? 0 : -1);
        store_close(s);
        s = store_open(dir, &err);
        ASSERT(s);
        EXPECT_EQ(version_in(s, 0), i % 2 ? 0 : -1);
        EXPECT_EQ(put(s, 0, 0, &err), 0);
        store_close(s);
    }
    log_init(LOG_TEXT, LOG_ERROR);
    adapter_files_remove_dir(dir);
    free(dir);
}

TEST(store_files_report_what_cannot_be_written)
{
    char *dir = adapter_files_tmp_dir(), blobs[512];
    struct err err = {0};
    struct store *s = store_open(dir, &err);
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
TEST(store_files_full_disk_changes_nothing)
{
    char *dir = adapter_files_tmp_dir();
    struct err err = {0};
    struct rlimit was, small;
    struct store *s = store_open(dir, &err);
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
TEST(store_files_drop_old_versions)
{
    char *dir = adapter_files_tmp_dir();
    struct err err = {0};
    struct store *s = store_open(dir, &err);
    ASSERT(s);
    for (int i = 0; i < 3; i++)
        EXPECT_EQ(put(s, i, i, &err), 0);
    EXPECT_EQ(store_delete(s, names[0], false, &err), 0);
    EXPECT_EQ(store_delete(s, names[1], true, &err), 0);
    EXPECT_EQ(put(s, 2, 3, &err), 0);
    EXPECT_EQ(put(s, 2, 3, &err), 0);
    EXPECT_EQ(count_in(dir, "blobs", false), 1);
    EXPECT_EQ(count_in(dir, "adapters", false), 2);
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
    int rc = v >= 0 ? put(s, name, v, &err) : store_delete(s, names[name], v == -2, &err);
    if (rc < 0)
        _exit(2);
}

static _Noreturn void work_until_killed(const char *dir, unsigned seed, struct shared *shared)
{
    struct err err = {0};
    struct store *s = store_open(dir, &err);
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
    struct store *s = store_open(dir, &err);
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
    EXPECT_EQ(count_in(dir, "adapters", true), 0);
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

TEST(store_files_survive_kill_9)
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
