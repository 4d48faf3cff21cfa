/* beneath: paths that try to leave their folder, and what is no file. */
#include "adapters/beneath.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "tests/support/adapter_files.h"
#include "tests/test.h"

struct fixture {
    char *root;
    int home; /* root/acme */
};

static void at(const struct fixture *f, char path[512], const char *rel)
{
    snprintf(path, 512, "%s/%s", f->root, rel);
}

static void link_at(const struct fixture *f, const char *to, const char *rel)
{
    char path[512];
    at(f, path, rel);
    EXPECT_EQ(symlink(to, path), 0);
}

static bool fixture_open(struct fixture *f)
{
    struct err err = {0};
    f->root = adapter_files_tmp_dir();
    adapter_files_make_dir(f->root, "acme");
    adapter_files_make_dir(f->root, "acme/sql");
    adapter_files_make_dir(f->root, "acme/deep");
    adapter_files_make_dir(f->root, "acme/deep/er");
    adapter_files_write(f->root, "acme/sql/adapter_config.json", "{}", 2);
    adapter_files_make_dir(f->root, "acme2");
    adapter_files_write(f->root, "acme2/secret", "s", 1);
    adapter_files_write(f->root, "secret", "s", 1);
    f->home = beneath_open_home(f->root, "acme", &err);
    EXPECT(f->home >= 0);
    return f->home >= 0;
}

static void fixture_close(struct fixture *f)
{
    close(f->home);
    adapter_files_remove_dir(f->root);
    free(f->root);
}

/* 0 if it opens, else the code; the message must not tell where the folder is. */
static enum err_code open_code(const struct fixture *f, const char *path)
{
    struct err err = {0};
    int fd = beneath_open(f->home, path, &err);
    EXPECT((fd < 0) == (err.code != ERR_NONE));
    EXPECT(!strstr(err.msg, f->root) && !strchr(err.msg, '/'));
    if (fd >= 0)
        close(fd);
    return err.code;
}

TEST(beneath_opens_what_is_below)
{
    struct fixture f;
    char byte[3] = "";
    struct err err = {0};
    if (!fixture_open(&f))
        return;
    int fd = beneath_open(f.home, "sql/adapter_config.json", &err);
    EXPECT_EQ(read(fd, byte, 2), 2);
    EXPECT_STR(byte, "{}");
    EXPECT(fcntl(fd, F_GETFD) & FD_CLOEXEC);
    close(fd);
    EXPECT_EQ(open_code(&f, "sql"), ERR_NONE);
    EXPECT_EQ(open_code(&f, "./deep//er/"), ERR_NONE);
    EXPECT_EQ(open_code(&f, "deep/er/../../sql"), ERR_NONE); /* stays inside */
    EXPECT_EQ(open_code(&f, "nothing"), ERR_NOT_FOUND);
    EXPECT_EQ(open_code(&f, "sql/adapter_config.json/x"), ERR_NOT_FOUND);
    EXPECT_EQ(open_code(&f, ""), ERR_NOT_FOUND);
    fixture_close(&f);
}

TEST(beneath_never_leaves_its_folder)
{
    static const char *const out[] = {
        "..", "../acme2/secret",        "../secret",  "sql/../../secret", "/etc/passwd",
        "/",  "deep/er/../../../acme2", "../acme/sql"};
    struct fixture f;
    if (!fixture_open(&f))
        return;
    for (size_t i = 0; i < sizeof out / sizeof *out; i++)
        EXPECT_EQ(open_code(&f, out[i]), ERR_INVALID);
    EXPECT_EQ(open_code(&f, "../nothing/at/all"),
              ERR_INVALID); /* tells nothing about outside */
    fixture_close(&f);
}

TEST(beneath_follows_no_links)
{
    struct fixture f;
    if (!fixture_open(&f))
        return;
    link_at(&f, "../acme2", "acme/other");
    link_at(&f, "sql", "acme/inside");
    link_at(&f, "/etc/passwd", "acme/sql/file");
    link_at(&f, "nowhere", "acme/dangling");
    link_at(&f, "loop", "acme/loop");
    link_at(&f, "/proc/self/root", "acme/proc");
    EXPECT_EQ(open_code(&f, "other/secret"), ERR_INVALID);
    EXPECT_EQ(open_code(&f, "other"), ERR_INVALID);
    EXPECT_EQ(open_code(&f, "inside/adapter_config.json"), ERR_INVALID);
    EXPECT_EQ(open_code(&f, "sql/file"), ERR_INVALID);
    EXPECT_EQ(open_code(&f, "dangling"), ERR_INVALID);
    EXPECT_EQ(open_code(&f, "loop"), ERR_INVALID);
    EXPECT_EQ(open_code(&f, "proc/etc/passwd"), ERR_INVALID);
    fixture_close(&f);
}

/* Neither blocks: nobody writes to the FIFO. */
TEST(beneath_refuses_what_is_no_file)
{
    struct fixture f;
    char path[512];
    struct sockaddr_un sock = {.sun_family = AF_UNIX};
    if (!fixture_open(&f))
        return;
    at(&f, path, "acme/fifo");
    EXPECT_EQ(mkfifo(path, 0600), 0);
    EXPECT_EQ(open_code(&f, "fifo"), ERR_INVALID);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    snprintf(sock.sun_path, sizeof sock.sun_path, "%.90s/acme/sock", f.root);
    EXPECT_EQ(bind(fd, (struct sockaddr *)&sock, sizeof sock), 0);
    EXPECT(open_code(&f, "sock") != ERR_NONE);
    close(fd);
    fixture_close(&f);
}

TEST(beneath_home_is_a_folder_and_no_link)
{
    struct fixture f;
    struct err err = {0};
    if (!fixture_open(&f))
        return;
    link_at(&f, "acme", "alias");
    EXPECT_EQ(beneath_open_home(f.root, "nobody", &err), -1);
    EXPECT_EQ(err.code, ERR_NOT_FOUND);
    EXPECT_EQ(beneath_open_home(f.root, "secret", &err), -1);
    EXPECT_EQ(err.code, ERR_NOT_FOUND);
    EXPECT_EQ(beneath_open_home(f.root, "alias", &err), -1);
    EXPECT(err.code == ERR_INVALID || err.code == ERR_NOT_FOUND);
    EXPECT_EQ(beneath_open_home(f.root, "..", &err), -1);
    EXPECT_EQ(beneath_open_home("/nowhere/at/all", "acme", &err), -1);
    EXPECT_EQ(err.code, ERR_NOT_FOUND);
    fixture_close(&f);
}

static void expect_relative(const char *root, const char *path, const char *wanted)
{
    struct err err = {0};
    char *rel = beneath_relative(root, "acme", path, &err);
    if (wanted) {
        EXPECT_STR(rel, wanted);
    } else {
        EXPECT(rel == NULL);
        EXPECT_EQ(err.code, ERR_INVALID);
        EXPECT(!strchr(err.msg, '/'));
    }
    free(rel);
}

TEST(beneath_takes_absolute_paths_of_that_very_folder)
{
    expect_relative("/srv/a", "sql", "sql");
    expect_relative("/srv/a", "../sql", "../sql"); /* for the kernel to refuse */
    expect_relative("/srv/a", "/srv/a/acme/sql", "sql");
    expect_relative("/srv/a/", "/srv/a//acme//x/y", "x/y");
    expect_relative("/srv/a", "/srv/a/acme/../acme2/x", "../acme2/x");
    expect_relative("/", "/acme/x", NULL); /* a root of everything is none */
    static const char *const out[] = {"/srv/a/acme",
                                      "/srv/a/acme/",
                                      "/srv/a/acme2/x",
                                      "/srv/a/x",
                                      "/srv/ab/acme/x",
                                      "/etc/passwd",
                                      "/",
                                      "",
                                      "/srv/a"};
    for (size_t i = 0; i < sizeof out / sizeof *out; i++)
        expect_relative("/srv/a", out[i], NULL);
    char longest[BENEATH_MAX_PATH + 2];
    memset(longest, 'a', sizeof longest);
    longest[sizeof longest - 1] = '\0';
    expect_relative("/srv/a", longest, NULL);
}

TEST(beneath_knows_the_folder_by_its_real_path_too)
{
    struct fixture f;
    char alias[512], path[1024];
    if (!fixture_open(&f))
        return;
    link_at(&f, ".", "alias");
    at(&f, alias, "alias");
    char *real = realpath(f.root, NULL);
    snprintf(path, sizeof path, "%s/acme/sql", real);
    expect_relative(alias, path, "sql");
    snprintf(path, sizeof path, "%s/acme/sql", alias);
    expect_relative(alias, path, "sql");
    free(real);
    fixture_close(&f);
}
