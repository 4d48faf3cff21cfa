/* Everything appears by one rename of what was written and synced under a name that begins
 * with a dot, and goes the same way. */
#include "adapters/blobs.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "adapters/durable.h"
#include "adapters/file_read.h"
#include "core/base/check.h"
#include "core/base/digest.h"

enum { NAME_SIZE = DIGEST_HEX + 8 };

int blobs_open(struct blobs *b, int dir, struct err *err)
{
    b->folder = durable_folder(dir, "blobs", err);
    return b->folder < 0 ? -1 : 0;
}

void blobs_close(struct blobs *b)
{
    if (b->folder >= 0)
        close(b->folder);
    b->folder = -1;
}

bool blobs_is_digest(const char *s)
{
    return strlen(s) == DIGEST_HEX && strspn(s, "0123456789abcdef") == DIGEST_HEX;
}

bool blobs_has(const struct blobs *b, const char *digest)
{
    return faccessat(b->folder, digest, F_OK, 0) == 0;
}

/* ---- reading ------------------------------------------------------------------------- */

static int open_blob(const struct blobs *b, const char *digest, struct err *err)
{
    int folder = openat(b->folder, digest, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    if (folder < 0)
        return err_set(err, ERR_NOT_FOUND, "this version is not stored");
    return folder;
}

int blobs_open_file(const struct blobs *b, const char *digest, const char *file,
                    struct err *err)
{
    int folder = open_blob(b, digest, err);
    if (folder < 0)
        return -1;
    int fd = file_open(folder, file, NULL, err);
    close(folder);
    return fd;
}

void *blobs_read_file(const struct blobs *b, const char *digest, const char *file,
                      size_t most, size_t *len, struct err *err)
{
    int folder = open_blob(b, digest, err);
    if (folder < 0)
        return NULL;
    void *bytes = file_read(folder, file, most, len, NULL, err);
    close(folder);
    return bytes;
}

struct total {
    int folder;
    int64_t bytes;
};

static void add_size(void *ud, const char *file)
{
    struct total *t = ud;
    struct stat st;
    if (fstatat(t->folder, file, &st, AT_SYMLINK_NOFOLLOW) == 0)
        t->bytes += st.st_size;
}

int64_t blobs_bytes(const struct blobs *b, const char *digest)
{
    struct total t = {.folder = open_blob(b, digest, NULL)};
    if (t.folder < 0)
        return 0;
    durable_each(t.folder, add_size, &t, NULL);
    close(t.folder);
    return t.bytes;
}

/* ---- writing ------------------------------------------------------------------------- */

static void count_file(void *ud, const char *file)
{
    (void)file;
    ++*(int *)ud;
}

/* What stands under a digest may have been damaged since, or lost by a file system that
 * did not sync: what is acknowledged is looked at, and synced again. */
static int confirm(const struct blobs *b, const char *digest, const struct blob_file *files,
                   int n_files, bool *is_whole, struct err *err)
{
    int n = 0, rc = 0, folder = open_blob(b, digest, NULL);
    *is_whole = folder >= 0 && durable_each(folder, count_file, &n, NULL) == 0 &&
                n == n_files;
    for (int i = 0; rc == 0 && *is_whole && i < n_files; i++)
        rc = durable_confirm(folder, files[i].name, files[i].bytes, files[i].len, is_whole,
                             err);
    if (rc == 0 && *is_whole)
        rc = durable_sync(folder, err);
    if (folder >= 0)
        close(folder);
    return rc;
}

static int write_files(int folder, const struct blob_file *files, int n_files,
                       struct err *err)
{
    for (int i = 0; i < n_files; i++)
        if (durable_write(folder, files[i].name, files[i].bytes, files[i].len, err) < 0)
            return -1;
    return durable_sync(folder, err);
}

/* The damaged blob of this digest, if there is one, goes when the whole one is there. */
static int write_blob(const struct blobs *b, const char *digest,
                      const struct blob_file *files, int n_files, struct err *err)
{
    char tmp[NAME_SIZE];
    snprintf(tmp, sizeof tmp, ".new-%s", digest);
    durable_discard(b->folder, tmp);
    int folder = durable_folder(b->folder, tmp, err);
    if (folder < 0)
        return -1;
    int rc = write_files(folder, files, n_files, err);
    close(folder);
    if (rc == 0) {
        blobs_discard(b, digest);
        rc = durable_rename(b->folder, tmp, digest, err);
    }
    if (rc < 0)
        durable_discard(b->folder, tmp);
    return rc;
}

int blobs_put(const struct blobs *b, const char *digest, const struct blob_file *files,
              int n_files, struct err *err)
{
    bool is_whole;
    CHECK(n_files > 0);
    if (confirm(b, digest, files, n_files, &is_whole, err) < 0)
        return -1;
    if (!is_whole && write_blob(b, digest, files, n_files, err) < 0)
        return -1;
    return durable_sync(b->folder, err);
}

void blobs_discard(const struct blobs *b, const char *digest)
{
    char old[NAME_SIZE];
    snprintf(old, sizeof old, ".old-%s", digest);
    durable_discard(b->folder, old);
    if (renameat(b->folder, digest, b->folder, old) == 0)
        durable_discard(b->folder, old);
}

struct sweep {
    const struct blobs *b;
    bool (*is_wanted)(void *ud, const char *digest);
    void *ud;
};

static void sweep_one(void *ud, const char *name)
{
    const struct sweep *s = ud;
    if (name[0] == '.')
        durable_discard(s->b->folder, name);
    else if (blobs_is_digest(name) && !s->is_wanted(s->ud, name))
        blobs_discard(s->b, name);
}

int blobs_sweep(const struct blobs *b, bool (*is_wanted)(void *ud, const char *digest),
                void *ud, struct err *err)
{
    struct sweep s = {b, is_wanted, ud};
    return durable_each(b->folder, sweep_one, &s, err);
}
