/* file_read: regular files up to a limit, and nothing else. */
#define _GNU_SOURCE
#include "adapters/file_read.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "tests/support/adapter_files.h"
#include "tests/test.h"

static void expect_refused(int dir, const char *name, enum err_code code)
{
    struct err err = {0};
    size_t len;
    void *bytes = file_read(dir, name, 100, &len, NULL, &err);
    if (bytes || err.code != code)
        test_fail(__FILE__, __LINE__, "%s: %s \"%s\"", name, err_name(err.code), err.msg);
    free(bytes);
}

TEST(file_read_wants_regular_files)
{
    char *path = adapter_files_tmp_dir();
    int dir = open(path, O_RDONLY | O_DIRECTORY);
    struct err err = {0};
    size_t len = 0;
    adapter_files_write(path, "file", "0123456789", 10);
    adapter_files_make_dir(path, "folder");
    EXPECT(mkfifoat(dir, "fifo", 0600) == 0 && symlinkat("file", dir, "link") == 0 &&
           symlinkat("/dev/zero", dir, "zero") == 0);
    expect_refused(dir, "folder", ERR_ADAPTER);
    expect_refused(dir, "fifo", ERR_ADAPTER); /* and does not wait for a writer */
    expect_refused(dir, "zero", ERR_ADAPTER);
    expect_refused(dir, "none", ERR_NOT_FOUND);
    expect_refused(dir, "file/none", ERR_NOT_FOUND);
    char *bytes = file_read(dir, "link", 10, &len, NULL, &err);
    EXPECT_EQ(len, 10);
    EXPECT_STR(bytes, "0123456789");
    free(bytes);
    EXPECT(file_read(dir, "file", 9, &len, NULL, &err) == NULL);
    EXPECT_EQ(err.code, ERR_TOO_LARGE);
    close(dir);
    adapter_files_remove_dir(path);
    free(path);
}

TEST(file_read_tells_states_of_a_file_apart)
{
    char *path = adapter_files_tmp_dir();
    int dir = open(path, O_RDONLY | O_DIRECTORY);
    struct file_stamp first, same, longer, other;
    adapter_files_write(path, "file", "abc", 3);
    close(file_open(dir, "file", &first, NULL));
    close(file_open(dir, "file", &same, NULL));
    adapter_files_write(path, "file", "abcd", 4);
    close(file_open(dir, "file", &longer, NULL));
    adapter_files_write(path, "new", "abcd", 4);
    EXPECT(renameat(dir, "new", dir, "file") == 0);
    close(file_open(dir, "file", &other, NULL));
    EXPECT(file_stamp_is_same(&first, &same));
    EXPECT(!file_stamp_is_same(&first, &longer) && !file_stamp_is_same(&longer, &other));
    close(dir);
    adapter_files_remove_dir(path);
    free(path);
}
