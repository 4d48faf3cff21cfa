/* beneath_files: the files of an adapter at a client's path, whatever else lies there. */
#include "adapters/beneath_files.h"

#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/support/adapter_files.h"
#include "tests/test.h"

enum { MAX_BYTES = 1000 };

static char *make_root(void)
{
    char *root = adapter_files_tmp_dir();
    adapter_files_make_dir(root, "acme");
    adapter_files_make_dir(root, "acme/sql");
    adapter_files_write(root, "acme/sql/adapter_config.json", "{}", 2);
    adapter_files_write(root, "acme/sql/adapter_model.safetensors", "weights", 7);
    adapter_files_write(root, "acme/chef.json", "{\"kind\":1}", 10);
    adapter_files_write(root, "acme/notes.txt", "x", 1);
    adapter_files_make_dir(root, "other");
    adapter_files_write(root, "other/secret.json", "{}", 2);
    return root;
}

static void remove_root(char *root)
{
    adapter_files_remove_dir(root);
    free(root);
}

static enum err_code open_code(const char *root, const char *path)
{
    struct beneath_files f = {0};
    struct err err = {0};
    int rc = beneath_files_open(&f, root, "acme", path, MAX_BYTES, &err);
    EXPECT((rc < 0) == (err.code != ERR_NONE));
    EXPECT(!strstr(err.msg, root));
    beneath_files_fini(&f);
    return err.code;
}

TEST(beneath_files_reads_what_it_opened)
{
    char *root = make_root(), path[600];
    struct beneath_files f = {0};
    struct loaded l = {0};
    struct err err = {0};
    ASSERT(beneath_files_open(&f, root, "acme", "sql", MAX_BYTES, &err) == 0);
    EXPECT_EQ(f.n, 2);
    EXPECT_EQ(f.size, 9);
    snprintf(path, sizeof path, "%s/acme/sql/adapter_model.safetensors", root);
    EXPECT_EQ(unlink(path), 0);
    EXPECT_EQ(symlink("/etc/passwd", path), 0); /* too late */
    EXPECT_EQ(beneath_files_read(&f, &l, &err), 0);
    ASSERT(l.n_files == 2);
    EXPECT_STR(l.files[0].name, "adapter_config.json");
    EXPECT_STR(l.files[1].name, "adapter_model.safetensors");
    EXPECT(l.files[1].len == 7 && memcmp(l.files[1].bytes, "weights", 7) == 0);
    loaded_fini(&l);
    beneath_files_fini(&f);
    EXPECT_EQ(open_code(root, "sql"), ERR_INVALID);
    remove_root(root);
}

TEST(beneath_files_takes_a_text_adapter)
{
    char *root = make_root(), path[600];
    struct beneath_files f = {0};
    struct loaded l = {0};
    struct err err = {0};
    snprintf(path, sizeof path, "%s/acme/chef.json", root); /* as the operator sees it */
    ASSERT(beneath_files_open(&f, root, "acme", path, MAX_BYTES, &err) == 0);
    EXPECT_EQ(beneath_files_read(&f, &l, &err), 0);
    ASSERT(l.n_files == 1);
    EXPECT_STR(l.files[0].name, "adapter.json");
    loaded_fini(&l);
    beneath_files_fini(&f);
    remove_root(root);
}

TEST(beneath_files_refuses_the_rest)
{
    char *root = make_root(), path[600];
    EXPECT_EQ(open_code(root, "nothing"), ERR_NOT_FOUND);
    EXPECT_EQ(open_code(root, "notes.txt"), ERR_INVALID);
    EXPECT_EQ(open_code(root, "../other/secret.json"), ERR_INVALID);
    EXPECT_EQ(open_code(root, "/etc/passwd"), ERR_INVALID);
    snprintf(path, sizeof path, "%s/other/secret.json", root);
    EXPECT_EQ(open_code(root, path), ERR_INVALID);
    adapter_files_make_dir(root, "acme/empty");
    EXPECT_EQ(open_code(root, "empty"), ERR_NOT_FOUND);
    adapter_files_write(root, "acme/empty/adapter_config.json", "{}", 2);
    EXPECT_EQ(open_code(root, "empty"), ERR_NOT_FOUND);
    adapter_files_write(root, "acme/empty/adapter_model.bin", "PK", 2);
    EXPECT_EQ(open_code(root, "empty"), ERR_ADAPTER);
    snprintf(path, sizeof path, "%s/acme/empty/adapter_model.safetensors", root);
    EXPECT_EQ(mkfifo(path, 0600), 0); /* does not wait for a writer */
    EXPECT_EQ(open_code(root, "empty"), ERR_INVALID);
    EXPECT_EQ(unlink(path), 0);
    EXPECT_EQ(mkdir(path, 0700), 0);
    EXPECT_EQ(open_code(root, "empty"), ERR_ADAPTER);
    remove_root(root);
}

/* Sizes are looked at before anything is read. */
TEST(beneath_files_refuses_what_is_huge)
{
    char *root = make_root(), path[600];
    snprintf(path, sizeof path, "%s/acme/sql/adapter_model.safetensors", root);
    EXPECT_EQ(truncate(path, MAX_BYTES), 0);
    EXPECT_EQ(open_code(root, "sql"), ERR_NONE);
    EXPECT_EQ(truncate(path, MAX_BYTES + 1), 0);
    EXPECT_EQ(open_code(root, "sql"), ERR_TOO_LARGE);
    EXPECT_EQ(truncate(path, 1LL << 40), 0); /* a hole, on most disks */
    EXPECT_EQ(open_code(root, "sql"), ERR_TOO_LARGE);
    snprintf(path, sizeof path, "%s/acme/chef.json", root);
    EXPECT_EQ(truncate(path, (1 << 20) + 1), 0);
    EXPECT_EQ(open_code(root, "chef.json"), ERR_TOO_LARGE);
    remove_root(root);
}

TEST(beneath_files_are_long_by_their_size)
{
    char *root = make_root(), path[600];
    struct beneath_files f = {0};
    struct err err = {0};
    ASSERT(beneath_files_open(&f, root, "acme", "sql", 256 << 20, &err) == 0);
    EXPECT(!beneath_files_are_long(&f));
    beneath_files_fini(&f);
    snprintf(path, sizeof path, "%s/acme/sql/adapter_model.safetensors", root);
    EXPECT_EQ(truncate(path, 200 << 20), 0);
    ASSERT(beneath_files_open(&f, root, "acme", "sql", 256 << 20, &err) == 0);
    EXPECT(beneath_files_are_long(&f));
    beneath_files_fini(&f);
    remove_root(root);
}

/* What grows between the two steps is not read beyond what was set aside for it. */
TEST(beneath_files_reads_no_more_than_it_told)
{
    char *root = make_root(), path[600];
    struct beneath_files f = {0};
    struct loaded l = {0};
    struct err err = {0};
    ASSERT(beneath_files_open(&f, root, "acme", "chef.json", MAX_BYTES, &err) == 0);
    snprintf(path, sizeof path, "%s/acme/chef.json", root);
    EXPECT_EQ(truncate(path, 500), 0);
    EXPECT_EQ(beneath_files_read(&f, &l, &err), -1);
    EXPECT_EQ(err.code, ERR_TOO_LARGE);
    loaded_fini(&l);
    beneath_files_fini(&f);
    remove_root(root);
}
