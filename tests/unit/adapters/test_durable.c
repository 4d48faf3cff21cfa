/* durable: a folder that cannot be read to its end is told from one that ends. */
#define _GNU_SOURCE
#include "adapters/durable.h"

#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "adapters/blobs.h"
#include "core/base/check.h"
#include "tests/support/adapter_files.h"
#include "tests/test.h"

static _Thread_local int fails_after = -1; /* so many entries; -1: never */

/* Stands before the C library's. */
struct dirent *readdir(DIR *d)
{
    static _Thread_local struct dirent *(*real)(DIR *d);
    if (!real)
        *(void **)&real = dlsym(RTLD_NEXT, "readdir");
    CHECK(real);
    if (fails_after == 0) {
        errno = EIO;
        return NULL;
    }
    fails_after -= fails_after > 0;
    return real(d);
}

static void count(void *ud, const char *name)
{
    EXPECT(name[0] != '.');
    ++*(int *)ud;
}

TEST(durable_each_is_told_a_folder_that_cannot_be_read)
{
    char *path = adapter_files_tmp_dir();
    struct err err = {0};
    int n = 0, dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    ASSERT(dir >= 0);
    for (int i = 0; i < 5; i++)
        adapter_files_write(path, (const char[]){(char)('a' + i), 0}, "x", 1);
    errno = EIO; /* of something before */
    EXPECT_EQ(durable_each(dir, count, &n, &err), 0);
    EXPECT_EQ(n, 5);
    for (int after = 0; after < 5; after++) {
        err = (struct err){0};
        fails_after = after;
        int rc = durable_each(dir, count, &n, &err);
        fails_after = -1;
        EXPECT_EQ(rc, -1);
        EXPECT_EQ(err.code, ERR_IO);
    }
    close(dir);
    adapter_files_remove_dir(path);
    free(path);
}

static bool is_wanted(void *ud, int64_t tenant, const char *digest)
{
    (void)ud, (void)tenant, (void)digest;
    return true;
}

TEST(durable_sweep_is_told_so_too)
{
    char *path = adapter_files_tmp_dir();
    struct err err = {0};
    struct blobs b;
    int dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    ASSERT(dir >= 0 && blobs_open(&b, dir, false, &err) == 0);
    fails_after = 0;
    int rc = blobs_sweep(&b, is_wanted, NULL, &err);
    fails_after = -1;
    EXPECT_EQ(rc, -1);
    blobs_close(&b);
    close(dir);
    adapter_files_remove_dir(path);
    free(path);
}
