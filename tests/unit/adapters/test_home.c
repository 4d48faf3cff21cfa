/* home: one daemon has the folder, as long as any of its processes may change it. */
#define _GNU_SOURCE
#include "adapters/home.h"

#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "adapters/store.h"
#include "core/base/mem.h"
#include "tests/support/adapter_files.h"
#include "tests/test.h"
#include "tests/unit/adapters/stored.h"

static bool is_free(const char *dir)
{
    struct err err = {0};
    struct home *h = home_open(dir, &err);
    if (!h)
        EXPECT_EQ(err.code, ERR_CONFLICT);
    home_free(h);
    return h != NULL;
}

TEST(home_has_one_owner)
{
    char *dir = adapter_files_tmp_dir();
    struct err err = {0};
    struct home *h = home_open(dir, &err);
    ASSERT(h);
    EXPECT_STR(home_dir(h), dir);
    EXPECT(home_is_durable(h));
    EXPECT(!is_free(dir));
    home_leave(h);
    EXPECT(is_free(dir));
    home_leave(h);
    home_free(h);
    adapter_files_remove_dir(dir);
    free(dir);
}

static pid_t fork_worker(struct home *h, int gate)
{
    char c;
    pid_t child = fork();
    if (child != 0)
        return child;
    ssize_t n = read(gate, &c, 1);
    home_leave(h);
    n += read(gate, &c, 1);
    _exit(n > 0);
}

/* The folder stays owned while a worker that was inherited it lives and has not left. */
TEST(home_is_shared_by_forked_workers)
{
    char *dir = adapter_files_tmp_dir();
    struct err err = {0};
    int gates[2][2], status;
    struct home *h = home_open(dir, &err);
    ASSERT(h && pipe(gates[0]) == 0 && pipe(gates[1]) == 0);
    pid_t first = fork_worker(h, gates[0][0]), second = fork_worker(h, gates[1][0]);
    home_free(h);
    EXPECT(!is_free(dir));
    EXPECT_EQ(write(gates[0][1], "x", 1), 1); /* the first leaves, but lives on */
    EXPECT(!is_free(dir));
    EXPECT_EQ(kill(second, 9), 0);
    EXPECT(is_free(dir));
    EXPECT_EQ(write(gates[0][1], "x", 1), 1);
    waitpid(first, &status, 0);
    waitpid(second, &status, 0);
    for (int i = 0; i < 4; i++)
        close(gates[i / 2][i % 2]);
    adapter_files_remove_dir(dir);
    free(dir);
}

TEST(home_waits_a_moment_for_who_is_leaving)
{
    char *dir = adapter_files_tmp_dir();
    struct err err = {0};
    int status;
    struct home *h = home_open(dir, &err);
    ASSERT(h);
    pid_t child = fork();
    if (child == 0) {
        usleep(300000);
        _exit(0);
    }
    home_free(h);
    EXPECT(is_free(dir));
    waitpid(child, &status, 0);
    adapter_files_remove_dir(dir);
    free(dir);
}

static char *set_tmpdir(const char *dir)
{
    const char *was = getenv("TMPDIR");
    char *kept = was ? xstrdup(was) : NULL;
    setenv("TMPDIR", dir, 1);
    return kept;
}

static void reset_tmpdir(char *kept)
{
    if (kept)
        setenv("TMPDIR", kept, 1);
    else
        unsetenv("TMPDIR");
    free(kept);
}

TEST(home_temporary_goes_with_who_opened_it)
{
    char *dir = adapter_files_tmp_dir();
    struct err err = {0};
    char *kept = set_tmpdir(dir);
    int status;
    struct home *h = home_open(NULL, &err);
    ASSERT(h);
    EXPECT(!home_is_durable(h));
    struct store *s =
        store_open(&(struct store_opts){.dir = home_dir(h), .is_volatile = true}, &err);
    ASSERT(s);
    EXPECT_EQ(stored_put(s, 1, 0, 0, &err), 0);
    EXPECT(stored_in(s, 1, 0) == 0 && stored_is_whole(s, 1, 0));
    adapter_files_make_dir(home_dir(h), "compiled");
    store_close(s);
    pid_t child = fork();
    if (child == 0) {
        home_free(h);
        _exit(0);
    }
    waitpid(child, &status, 0);
    EXPECT_EQ(stored_count(dir, ".", false), 1);
    home_free(h);
    EXPECT_EQ(stored_count(dir, ".", false), 0);
    setenv("TMPDIR", "/nowhere/at/all", 1);
    EXPECT(home_open(NULL, &err) == NULL);
    EXPECT_EQ(err.code, ERR_IO);
    reset_tmpdir(kept);
    adapter_files_remove_dir(dir);
    free(dir);
}
