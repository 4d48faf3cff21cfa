/* store: many processes, killed ones included: what was acknowledged is there, whole; nothing else is. */
#define _GNU_SOURCE
#include "adapters/store.h"

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/base/buf.h"
#include "core/base/mem.h"
#include "tests/support/adapter_files.h"
#include "tests/test.h"
#include "tests/unit/adapters/stored.h"

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
    *name = (int)(r % STORED_NAMES);
    return (int)(r / STORED_NAMES % (STORED_VERSIONS + 2)) - 2;
}

static void apply(struct store *s, unsigned seed, int i)
{
    struct err err = {0};
    int name, v = operation(seed, i, &name);
    int rc = v >= 0 ? stored_put(s, 1, name, v, &err) : stored_delete(s, 1, name, v == -2, &err);
    if (rc < 0 && err.code != ERR_ADAPTER_NOT_FOUND)
        _exit(2);
}

static _Noreturn void work_until_killed(const char *dir, unsigned seed, struct shared *shared)
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

static void check_survivors(const char *dir, int state[STORED_NAMES], unsigned seed, int acknowledged)
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
            test_fail(__FILE__, __LINE__, "round %u: files of %s are not whole", seed, stored_name(i));
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
