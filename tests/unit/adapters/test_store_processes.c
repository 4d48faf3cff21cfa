/* store: many processes, killed ones included: what was acknowledged is there, whole;
 * nothing else is. */
#define _GNU_SOURCE
#include "adapters/store.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "adapters/file_read.h"
#include "tests/support/adapter_files.h"
#include "tests/test.h"
#include "tests/unit/adapters/stored.h"

/* ---- kill -9 ------------------------------------------------------------------------- */

struct shared {                /* with the child that is killed */
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
    *name = (int)(r % STORED_NAMES);
    return (int)(r / STORED_NAMES % (STORED_VERSIONS + 2)) - 2;
}

static void apply(struct store *s, unsigned seed, int i)
{
    struct err err = {0};
    int name, v = operation(seed, i, &name);
    int rc =
        v >= 0 ? stored_put(s, 1, name, v, &err) : stored_delete(s, 1, name, v == -2, &err);
    if (rc < 0 && err.code != ERR_ADAPTER_NOT_FOUND)
        _exit(2);
}

static _Noreturn void work_until_killed(const char *dir, unsigned seed,
                                        struct shared *shared)
{
    struct err err = {0};
    struct store *s = stored_open(dir, 1, &err);
    if (!s)
        _exit(3);
    for (int i = 0;; i++) {
        apply(s, seed, i);
        shared->acknowledged = i + 1;
    }
}

static void replay(int state[STORED_NAMES], unsigned seed, int n)
{
    for (int i = 0; i < n; i++) {
        int name, v = operation(seed, i, &name);
        if (v >= 0 || state[name] >= 0) /* deleting what is not there changes nothing */
            state[name] = v;
    }
}

static void check_survivors(const char *dir, int state[STORED_NAMES], unsigned seed,
                            int acknowledged)
{
    struct err err = {0};
    int running, next = operation(seed, acknowledged, &running);
    struct store *s = stored_open(dir, 1, &err);
    ASSERT(s);
    replay(state, seed, acknowledged);
    for (int i = 0; i < STORED_NAMES; i++) {
        int found = stored_in(s, 1, i);
        if (found != state[i] && !(i == running && found == next))
            test_fail(__FILE__, __LINE__, "round %u after %d: %s has %d, expected %d", seed,
                      acknowledged, stored_name(i), found, state[i]);
        if (found >= 0 && !stored_is_whole(s, 1, found))
            test_fail(__FILE__, __LINE__, "round %u: files of %s are not whole", seed,
                      stored_name(i));
        state[i] = found;
    }
    EXPECT_EQ(stored_count(dir, "blobs", true), 0);
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
    int state[STORED_NAMES] = {-1, -1, -1}, total = 0;
    for (unsigned seed = 1; seed <= 60; seed++) {
        int acknowledged = kill_one(dir, seed);
        check_survivors(dir, state, seed, acknowledged);
        total += acknowledged;
    }
    EXPECT(total >= 60);
    adapter_files_remove_dir(dir);
    free(dir);
}

/* ---- a process that dies inside a change --------------------------------------------- */

static int die(void *ud, const char *current, bool is_from_folder, struct err *err)
{
    (void)ud, (void)current, (void)is_from_folder, (void)err;
    _exit(7);
}

static int run_child(const char *dir, void (*work)(struct store *s))
{
    struct err err = {0};
    int status = 0;
    pid_t child = fork();
    if (child == 0) {
        struct store *s =
            store_open(&(struct store_opts){.dir = dir, .keep_versions = 2}, &err);
        if (!s)
            _exit(1);
        work(s);
        store_close(s);
        _exit(0);
    }
    waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void put_and_die(struct store *s)
{
    const struct store_condition only_if = {die, NULL};
    stored_put_if(s, 1, 0, 1, &only_if, NULL, NULL);
}

/* The files were there and the transaction had begun: others go on at once, and nothing of
 * it stays. */
TEST(store_forgets_the_change_of_who_died_in_it)
{
    char *dir = adapter_files_tmp_dir();
    struct err err = {0};
    struct store *s = stored_open(dir, 2, &err);
    ASSERT(s && stored_put(s, 1, 0, 0, &err) == 0);
    EXPECT_EQ(run_child(dir, put_and_die), 7);
    EXPECT_EQ(stored_in(s, 1, 0), 0);
    EXPECT(stored_is_whole(s, 1, 1)); /* left behind */
    EXPECT_EQ(stored_put(s, 1, 1, 2, &err), 0);
    store_close(s);
    s = stored_open(dir, 2, &err);
    ASSERT(s);
    EXPECT(stored_in(s, 1, 0) == 0 && stored_in(s, 1, 1) == 2 && !stored_is_whole(s, 1, 1));
    store_close(s);
    adapter_files_remove_dir(dir);
    free(dir);
}

/* ---- a process that dies between the log and its index -------------------------------- */

static void put_and_exit(struct store *s)
{
    _exit(stored_put(s, 1, 0, 1, NULL) == 0 ? 8 : 9);
}

static char *read_state(const char *dir, const char *name, size_t *len)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    return file_read(AT_FDCWD, path, 1 << 24, len, NULL, NULL);
}

/* In place: the index is mapped by whoever has the database open. */
static void write_index(const char *dir, const char *bytes, size_t len)
{
    char path[256];
    snprintf(path, sizeof path, "%s/registry.db-shm", dir);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    EXPECT_EQ(pwrite(fd, bytes, len, 0), (ssize_t)len);
    close(fd);
}

/* What name 0 is for those who begin anew from what stands on the disk now. */
static int after_restart(const char *dir)
{
    static const char *const names[] = {"registry.db", "registry.db-wal"};
    char *copy = adapter_files_tmp_dir();
    for (int i = 0; i < 2; i++) {
        size_t len;
        char *bytes = read_state(dir, names[i], &len);
        adapter_files_write(copy, names[i], bytes, len);
        free(bytes);
    }
    struct store *s = store_open(&(struct store_opts){.dir = copy}, NULL);
    int found = s ? stored_in(s, 1, 0) : -100;
    store_close(s);
    adapter_files_remove_dir(copy);
    free(copy);
    return found;
}

/* A commit that nobody saw after its process was killed does not come back later. */
TEST(store_settles_what_a_killed_process_left)
{
    char *dir = adapter_files_tmp_dir();
    struct err err = {0};
    struct store *s = stored_open(dir, 2, &err);
    ASSERT(s && stored_put(s, 1, 0, 0, &err) == 0);
    size_t len;
    char *index = read_state(dir, "registry.db-shm", &len);
    ASSERT(index);
    EXPECT_EQ(run_child(dir, put_and_exit), 8);
    EXPECT_EQ(stored_in(s, 1, 0), 1);
    write_index(dir, index, len);
    EXPECT_EQ(stored_in(s, 1, 0), 0);
    EXPECT_EQ(after_restart(dir), 1); /* this is what is to be ended */
    EXPECT_EQ(store_settle(s, &err), 0);
    EXPECT_EQ(stored_in(s, 1, 0), 0);
    EXPECT_EQ(after_restart(dir), 0);
    free(index);
    store_close(s);
    adapter_files_remove_dir(dir);
    free(dir);
}

static int take_blob_away(void *ud, const char *current, bool is_from_folder,
                          struct err *err)
{
    char version[DIGEST_HEX + 1];
    (void)current, (void)is_from_folder, (void)err;
    stored_version(1, version);
    blobs_discard(store_blobs(ud), 1, version);
    return 0;
}

/* Another process may collect a blob between its writing and the change that makes it a
 * version. */
TEST(store_writes_a_blob_again_that_others_collected)
{
    char *dir = adapter_files_tmp_dir();
    struct err err = {0};
    struct store *s = stored_open(dir, 2, &err);
    ASSERT(s);
    const struct store_condition only_if = {take_blob_away, s};
    EXPECT_EQ(stored_put_if(s, 1, 0, 1, &only_if, NULL, &err), 0);
    EXPECT(stored_in(s, 1, 0) == 1 && stored_is_whole(s, 1, 1));
    store_close(s);
    adapter_files_remove_dir(dir);
    free(dir);
}

/* ---- changes of others --------------------------------------------------------------- */

static void change_something(struct store *s)
{
    if (stored_put(s, 1, 1, 1, NULL) < 0 || stored_put(s, 1, 0, 3, NULL) < 0)
        _exit(2);
}

TEST(store_sees_what_others_change_at_once)
{
    char *dir = adapter_files_tmp_dir();
    struct err err = {0};
    const struct store_opts opts = {.dir = dir, .keep_versions = 2};
    struct store *s = stored_open(dir, 2, &err), *other = store_open(&opts, &err);
    ASSERT(s && other);
    store_has_changed(s);
    EXPECT(!store_has_changed(s));
    EXPECT_EQ(stored_in(s, 1, 0), STORED_NOTHING);
    EXPECT_EQ(stored_put(other, 1, 0, 2, &err), 0);
    EXPECT(store_has_changed(s) && !store_has_changed(s));
    EXPECT_EQ(stored_in(s, 1, 0), 2);
    EXPECT_EQ(stored_put(s, 1, 0, 1, &err), 0);
    EXPECT(store_has_changed(s)); /* his own changes, too */
    EXPECT_EQ(stored_in(other, 1, 0), 1);
    EXPECT_EQ(run_child(dir, change_something), 0);
    EXPECT(store_has_changed(s));
    EXPECT(stored_in(s, 1, 0) == 3 && stored_in(s, 1, 1) == 1 &&
           stored_in(other, 1, 0) == 3);
    EXPECT_EQ(stored_delete(other, 1, 0, false, &err), 0);
    EXPECT_EQ(stored_in(s, 1, 0), STORED_NOTHING);
    store_close(other);
    EXPECT_EQ(stored_put(s, 1, 0, 0, &err), 0);
    store_close(s);
    adapter_files_remove_dir(dir);
    free(dir);
}

static int expect_nothing(void *ud, const char *current, bool is_from_folder,
                          struct err *err)
{
    (void)ud, (void)is_from_folder;
    return current ? err_set(err, ERR_PRECONDITION, "there is something") : 0;
}

enum { N_WRITERS = 4, N_ROUNDS = 25 };

/* Each round all writers want to be the first to put a name, of the same tenant and the
 * same or other content; then each puts and deletes names of its own choice. */
static void contend(struct store *s, int writer, int *n_first)
{
    const struct store_condition only_if = {expect_nothing, NULL};
    struct err err = {0};
    for (int i = 0; i < N_ROUNDS; i++) {
        int name = i % STORED_NAMES;
        if (stored_put_if(s, 1, name, (i + writer) % STORED_VERSIONS, &only_if, NULL,
                          &err) == 0)
            ++*n_first;
        else if (err.code != ERR_PRECONDITION)
            _exit(3);
        unsigned r = mix((unsigned)(writer * 1000 + i));
        if (stored_put(s, 2, (int)(r % STORED_NAMES), (int)(r / 8 % STORED_VERSIONS),
                       &err) < 0)
            _exit(4);
        if (r % 5 == 0 &&
            stored_delete(s, 2, (int)(r / 64 % STORED_NAMES), r % 2, &err) < 0 &&
            err.code != ERR_ADAPTER_NOT_FOUND)
            _exit(5);
    }
}

static pid_t start_writer(const char *dir, int writer, int *n_first)
{
    struct err err = {0};
    pid_t child = fork();
    if (child != 0)
        return child;
    struct store *s =
        store_open(&(struct store_opts){.dir = dir, .keep_versions = 2}, &err);
    if (!s)
        _exit(1);
    contend(s, writer, n_first);
    store_close(s);
    _exit(0);
}

static void look_meanwhile(struct store *s)
{
    for (int64_t tenant = 1; tenant <= 2; tenant++)
        for (int name = 0; name < STORED_NAMES; name++) {
            int v = stored_in(s, tenant, name);
            EXPECT(v >= STORED_DELETED);
        }
}

static void check_all_whole(struct store *s, const char *dir)
{
    static const char files[] = "SELECT count(DISTINCT tenant || digest) FROM versions";
    for (int64_t tenant = 1; tenant <= 2; tenant++)
        for (int name = 0; name < STORED_NAMES; name++) {
            int v = stored_in(s, tenant, name);
            EXPECT(v < 0 || stored_is_whole(s, tenant, v));
        }
    EXPECT_EQ(stored_count(dir, "blobs", true), 0);
    EXPECT_EQ(stored_sql(dir, files),
              stored_sql(dir, "SELECT count(*) FROM blobs WHERE EXISTS"
                              "  (SELECT 1 FROM versions v WHERE v.digest ="
                              "   blobs.digest AND v.tenant = blobs.tenant)"));
}

TEST(store_is_changed_by_many_processes)
{
    char *dir = adapter_files_tmp_dir();
    struct err err = {0};
    int status, running = N_WRITERS, total = 0;
    int *n_first = mmap(NULL, N_WRITERS * sizeof *n_first, PROT_READ | PROT_WRITE,
                        MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    struct store *s = stored_open(dir, 2, &err);
    ASSERT(s);
    stored_tenant(s, "b");
    for (int i = 0; i < N_WRITERS; i++)
        start_writer(dir, i, &n_first[i]);
    while (running > 0) {
        look_meanwhile(s);
        pid_t done = waitpid(-1, &status, WNOHANG);
        if (done > 0) {
            running--;
            EXPECT(WIFEXITED(status));
            EXPECT_EQ(WEXITSTATUS(status), 0);
        }
    }
    for (int i = 0; i < N_WRITERS; i++)
        total += n_first[i];
    EXPECT_EQ(total,
              STORED_NAMES); /* nobody came between another's condition and his change */
    check_all_whole(s, dir);
    store_close(s);
    s = stored_open(dir, 2, &err);
    ASSERT(s);
    check_all_whole(s, dir);
    EXPECT_EQ(stored_count(dir, "blobs", false),
              stored_sql(dir, "SELECT count(*) FROM blobs"));
    store_close(s);
    munmap(n_first, N_WRITERS * sizeof *n_first);
    adapter_files_remove_dir(dir);
    free(dir);
}

/* ---- threads of one process ---------------------------------------------------------- */

struct thread {
    pthread_t id;
    struct store *s;
    int i, n_failed;
};

static void *put_some(void *ud)
{
    struct thread *t = ud;
    struct err err = {0};
    for (int i = 0; i < N_ROUNDS; i++) {
        t->n_failed += stored_put(t->s, 1 + t->i % 2, i % STORED_NAMES,
                                  (i + t->i) % STORED_VERSIONS, &err) < 0;
        t->n_failed +=
            stored_delete(t->s, 1 + t->i % 2, (i + 1) % STORED_NAMES, false, &err) < 0 &&
            err.code != ERR_ADAPTER_NOT_FOUND;
    }
    return NULL;
}

TEST(store_is_changed_by_threads_while_the_loop_reads)
{
    char *dir = adapter_files_tmp_dir();
    struct err err = {0};
    struct thread threads[N_WRITERS];
    struct store *s = stored_open(dir, 2, &err);
    ASSERT(s);
    stored_tenant(s, "b");
    for (int i = 0; i < N_WRITERS; i++) {
        threads[i] = (struct thread){.s = s, .i = i};
        ASSERT(pthread_create(&threads[i].id, NULL, put_some, &threads[i]) == 0);
    }
    for (int i = 0; i < 500; i++)
        look_meanwhile(s);
    for (int i = 0; i < N_WRITERS; i++) {
        pthread_join(threads[i].id, NULL);
        EXPECT_EQ(threads[i].n_failed, 0);
    }
    check_all_whole(s, dir);
    store_close(s);
    adapter_files_remove_dir(dir);
    free(dir);
}

/* ---- copies -------------------------------------------------------------------------- */

static pid_t start_changing(const char *dir)
{
    struct err err = {0};
    pid_t child = fork();
    if (child != 0)
        return child;
    struct store *s =
        store_open(&(struct store_opts){.dir = dir, .keep_versions = 1}, &err);
    for (int i = 0; s; i++) /* names 0 and 1 change together, within one change of each */
        if (stored_put(s, 1, 0, i % 4, &err) < 0 || stored_put(s, 1, 1, i % 4, &err) < 0)
            break;
    _exit(1);
}

/* Whatever the copy has is still there, as long as it is held. */
static void check_copy(const char *dir, const char *copy, struct store *s)
{
    char path[600];
    struct err err = {0};
    snprintf(path, sizeof path, "%s/copied", dir);
    ASSERT(mkdir(path, 0700) == 0);
    snprintf(path, sizeof path, "%s/copied/registry.db", dir);
    ASSERT(rename(copy, path) == 0);
    snprintf(path, sizeof path, "%s/copied", dir);
    EXPECT_EQ(
        stored_sql(
            path,
            "SELECT count(*) FROM pragma_integrity_check WHERE integrity_check = 'ok'"),
        1);
    struct store *c = store_open(&(struct store_opts){.dir = path}, &err);
    ASSERT(c);
    int a = stored_in(c, 1, 0), b = stored_in(c, 1, 1);
    EXPECT(a >= 0 && b >= 0 && (a == b || a == (b + 1) % 4));
    EXPECT(stored_is_whole(s, 1, a) && stored_is_whole(s, 1, b));
    store_close(c);
    adapter_files_remove_dir(path);
}

TEST(store_is_copied_while_it_changes)
{
    char *dir = adapter_files_tmp_dir(), copy[512];
    struct err err = {0};
    struct stat st;
    int status, hold;
    struct store *s = stored_open(dir, 1, &err);
    ASSERT(s && stored_put(s, 1, 0, 0, &err) == 0 && stored_put(s, 1, 1, 0, &err) == 0);
    pid_t child = start_changing(dir);
    for (int i = 0; i < 8; i++) {
        snprintf(copy, sizeof copy, "%s/copy%d", dir, i);
        if (store_snapshot(s, copy, &hold, &err) < 0) {
            test_fail(__FILE__, __LINE__, "no copy: %s", err.msg);
            break;
        }
        EXPECT(stat(copy, &st) == 0 && (st.st_mode & 0777) == 0600);
        usleep(50000); /* some changes, which would collect */
        check_copy(dir, copy, s);
        close(hold);
        usleep(20000);
    }
    kill(child, SIGKILL);
    waitpid(child, &status, 0);
    EXPECT(WIFSIGNALED(status));
    EXPECT_EQ(store_snapshot(s, "/nowhere/at/all", &hold, &err), -1);
    EXPECT(err.code == ERR_IO && hold == -1 && strstr(err.msg, "nowhere") == NULL);
    store_close(s);
    adapter_files_remove_dir(dir);
    free(dir);
}

TEST(store_collects_nothing_while_a_copy_is_held)
{
    char *dir = adapter_files_tmp_dir(), copy[512];
    struct err err = {0};
    int hold;
    struct store *s = stored_open(dir, 1, &err);
    ASSERT(s && stored_put(s, 1, 0, 0, &err) == 0);
    snprintf(copy, sizeof copy, "%s/copy", dir);
    ASSERT(store_snapshot(s, copy, &hold, &err) == 0);
    for (int v = 1; v < 4; v++)
        EXPECT_EQ(stored_put(s, 1, 0, v, &err), 0);
    EXPECT_EQ(stored_count(dir, "blobs", false), 4);
    store_close(s);
    s = stored_open(dir, 1, &err); /* a start, too */
    ASSERT(s);
    EXPECT(stored_count(dir, "blobs", false) == 4 && stored_is_whole(s, 1, 0));
    close(hold);
    EXPECT_EQ(stored_put(s, 1, 0, 3, &err), 0);
    EXPECT_EQ(stored_count(dir, "blobs", false), 1);
    store_close(s);
    adapter_files_remove_dir(dir);
    free(dir);
}
