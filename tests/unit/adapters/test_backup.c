/* backup: what the copy of the registry speaks of is in the archive, or there is none. */
#include "adapters/backup.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/support/adapter_files.h"
#include "tests/test.h"
#include "tests/unit/adapters/stored.h"

struct place {
    char *dir;
    char file[512], blob[512];
    struct store *s;
    struct err err;
};

/* Name 0 of tenant 1 has version 0. */
static bool open_place(struct place *p)
{
    char version[DIGEST_HEX + 1];
    *p = (struct place){.dir = adapter_files_tmp_dir()};
    snprintf(p->file, sizeof p->file, "%s/backup.tar", p->dir);
    stored_version(0, version);
    snprintf(p->blob, sizeof p->blob, "%s/blobs/1-%s", p->dir, version);
    p->s = stored_open(p->dir, 2, &p->err);
    return p->s && stored_put(p->s, 1, 0, 0, &p->err) == 0;
}

static void close_place(struct place *p)
{
    store_close(p->s);
    adapter_files_remove_dir(p->dir);
    free(p->dir);
}

static void expect_no_backup(struct place *p)
{
    static const char *const ends[] = {"", ".partial", ".partial-registry"};
    p->err = (struct err){0};
    EXPECT_EQ(backup_write(p->s, p->file, NULL, &p->err), -1);
    EXPECT_EQ(p->err.code, ERR_IO);
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        char path[600];
        snprintf(path, sizeof path, "%s%s", p->file, ends[i]);
        EXPECT(access(path, F_OK) != 0);
    }
}

TEST(backup_fails_where_a_version_has_no_files)
{
    struct place p;
    struct backup_stats done;
    ASSERT(open_place(&p));
    EXPECT_EQ(backup_write(p.s, p.file, &done, &p.err), 0);
    EXPECT(done.n_blobs == 1 && unlink(p.file) == 0);
    adapter_files_remove_dir(p.blob);
    expect_no_backup(&p);
    EXPECT(strstr(p.err.msg, "\"a\" of the tenant \"default\"") != NULL);
    EXPECT(strstr(p.err.msg, "000000000000") != NULL);
    EXPECT_EQ(stored_put(p.s, 1, 0, 0, &p.err), 0); /* what it was */
    EXPECT_EQ(backup_write(p.s, p.file, &done, &p.err), 0);
    close_place(&p);
}

TEST(backup_fails_where_a_version_has_an_empty_folder)
{
    struct place p;
    ASSERT(open_place(&p));
    adapter_files_remove_dir(p.blob);
    ASSERT(mkdir(p.blob, 0700) == 0);
    expect_no_backup(&p);
    close_place(&p);
}

/* What is no version of anything is not anybody's any more. */
TEST(backup_has_the_files_of_versions_alone)
{
    struct place p;
    struct backup_stats done;
    char other[600], old[600];
    ASSERT(open_place(&p));
    snprintf(other, sizeof other, "%s", p.blob);
    memset(strrchr(other, '-') + 1, '9', DIGEST_HEX);
    ASSERT(mkdir(other, 0700) == 0);
    EXPECT_EQ(stored_put(p.s, 1, 1, 0, &p.err), 0); /* the same content */
    EXPECT_EQ(stored_put(p.s, 1, 1, 1, &p.err), 0);
    EXPECT_EQ(backup_write(p.s, p.file, &done, &p.err), 0);
    EXPECT_EQ(done.n_blobs, 2);
    snprintf(old, sizeof old, "%s/blobs/%s", p.dir, strrchr(p.blob, '-') + 1);
    ASSERT(rename(p.blob, old) == 0); /* as older daemons called it */
    EXPECT_EQ(backup_write(p.s, p.file, &done, &p.err), 0);
    EXPECT_EQ(done.n_blobs, 2);
    close_place(&p);
}
