/* Everything appears by one rename of what was written and synced under a name that begins
 * with a dot, and goes the same way. */
#define _GNU_SOURCE
#include "adapters/blobs.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "adapters/durable.h"
#include "adapters/file_read.h"
#include "adapters/state_files.h"
#include "core/base/check.h"

/* of what is half-done: ".new-<thread>-<blob>" */
enum { NAME_SIZE = BLOB_NAME_SIZE + 32, OLD_TENANT = 1 };

int blobs_open(struct blobs *b, int dir, bool is_volatile, struct err *err)
{
    b->is_volatile = is_volatile;
    b->folder = durable_folder(dir, STATE_BLOBS, is_volatile, err);
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

void blobs_name(char out[BLOB_NAME_SIZE], int64_t tenant, const char *digest)
{
    CHECK(tenant > 0);
    snprintf(out, BLOB_NAME_SIZE, "%" PRId64 "-%.*s", tenant, DIGEST_HEX, digest);
}

bool blobs_parse_name(const char *name, int64_t *tenant, char digest[DIGEST_HEX + 1],
                      const char **rest)
{
    size_t n = strspn(name, "0123456789");
    if (n == 0 || n > 18 || name[0] == '0' || name[n] != '-' ||
        strlen(name + n + 1) < DIGEST_HEX)
        return false;
    *tenant = strtoll(name, NULL, 10);
    memcpy(digest, name + n + 1, DIGEST_HEX);
    digest[DIGEST_HEX] = '\0';
    if (rest)
        *rest = name + n + 1 + DIGEST_HEX;
    return blobs_is_digest(digest) && (rest || !name[n + 1 + DIGEST_HEX]);
}

bool blobs_has(const struct blobs *b, int64_t tenant, const char *digest)
{
    char name[BLOB_NAME_SIZE];
    blobs_name(name, tenant, digest);
    return faccessat(b->folder, name, F_OK, 0) == 0 ||
           (tenant == OLD_TENANT && faccessat(b->folder, digest, F_OK, 0) == 0);
}

/* ---- reading ------------------------------------------------------------------------- */

static int open_folder(const struct blobs *b, const char *name)
{
    return openat(b->folder, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
}

/* Until blobs_sweep has renamed it, one of an older daemon is under its digest alone. */
static int open_blob(const struct blobs *b, int64_t tenant, const char *digest,
                     struct err *err)
{
    char name[BLOB_NAME_SIZE];
    blobs_name(name, tenant, digest);
    int folder = open_folder(b, name);
    if (folder < 0 && tenant == OLD_TENANT)
        folder = open_folder(b, digest);
    if (folder < 0)
        return err_set(err, ERR_NOT_FOUND, "this version is not stored");
    return folder;
}

int blobs_open_file(const struct blobs *b, int64_t tenant, const char *digest,
                    const char *file, struct err *err)
{
    int folder = open_blob(b, tenant, digest, err);
    if (folder < 0)
        return -1;
    int fd = file_open(folder, file, NULL, err);
    close(folder);
    return fd;
}

void *blobs_read_file(const struct blobs *b, int64_t tenant, const char *digest,
                      const char *file, size_t most, size_t *len, struct err *err)
{
    int folder = open_blob(b, tenant, digest, err);
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

int64_t blobs_bytes(const struct blobs *b, int64_t tenant, const char *digest)
{
    struct total t = {.folder = open_blob(b, tenant, digest, NULL)};
    if (t.folder < 0)
        return 0;
    durable_each(t.folder, add_size, &t, NULL);
    close(t.folder);
    return t.bytes;
}

/* ---- writing ------------------------------------------------------------------------- */

static int sync_folder(const struct blobs *b, int folder, struct err *err)
{
    return b->is_volatile ? 0 : durable_sync(folder, err);
}

static void count_file(void *ud, const char *file)
{
    (void)file;
    ++*(int *)ud;
}

/* What stands under a digest may have been damaged since, or lost by a file system that
 * did not sync: what is acknowledged is looked at, and synced again. */
static int confirm(const struct blobs *b, int64_t tenant, const char *digest,
                   const struct blob_file *files, int n_files, bool *is_whole,
                   struct err *err)
{
    int n = 0, rc = 0, folder = open_blob(b, tenant, digest, NULL);
    *is_whole =
        folder >= 0 && durable_each(folder, count_file, &n, NULL) == 0 && n == n_files;
    for (int i = 0; rc == 0 && *is_whole && i < n_files; i++)
        rc = durable_confirm(folder, files[i].name, files[i].bytes, files[i].len,
                             b->is_volatile, is_whole, err);
    if (rc == 0 && *is_whole)
        rc = sync_folder(b, folder, err);
    if (folder >= 0)
        close(folder);
    return rc;
}

static int write_files(const struct blobs *b, int folder, const struct blob_file *files,
                       int n_files, struct err *err)
{
    for (int i = 0; i < n_files; i++)
        if (durable_write(folder, files[i].name, files[i].bytes, files[i].len, b->is_volatile,
                          err) < 0)
            return -1;
    return sync_folder(b, folder, err);
}

/* Threads and processes may write the same blob at once, each under a name of its own. */
static void temporary_name(char out[NAME_SIZE], const char *prefix, const char *name)
{
    snprintf(out, NAME_SIZE, ".%s-%d-%s", prefix, (int)gettid(), name);
}

static void discard_name(const struct blobs *b, const char *name)
{
    char old[NAME_SIZE];
    temporary_name(old, "old", name);
    durable_discard(b->folder, old);
    if (renameat(b->folder, name, b->folder, old) == 0)
        durable_discard(b->folder, old);
}

void blobs_discard(const struct blobs *b, int64_t tenant, const char *digest)
{
    char name[BLOB_NAME_SIZE];
    blobs_name(name, tenant, digest);
    discard_name(b, name);
    if (tenant == OLD_TENANT)
        discard_name(b, digest);
}

/* 0: what was tmp is now name; 1: something is there. */
static int appear(const struct blobs *b, const char *tmp, const char *name, struct err *err)
{
    if (renameat2(b->folder, tmp, b->folder, name, RENAME_NOREPLACE) == 0)
        return 0;
    if (errno == EEXIST)
        return 1;
    if (errno == EINVAL || errno == ENOSYS) /* a file system without it */
        return renameat(b->folder, tmp, b->folder, name) == 0 ? 0 : 1;
    return err_set(err, ERR_IO, "renaming failed in the state folder: %s", strerror(errno));
}

/* A damaged blob changes places with the whole one, so there always is one. */
static bool replace(const struct blobs *b, const char *tmp, const char *name)
{
    if (renameat2(b->folder, tmp, b->folder, name, RENAME_EXCHANGE) == 0)
        return true;
    if (errno != ENOENT)
        discard_name(b, name);
    return false;
}

struct source {
    int64_t tenant;
    const char *digest;
    const struct blob_file *files;
    int n_files;
};

/* Others may put or discard the same blob meanwhile, so it takes as many steps as needed. */
static int put_in_place(const struct blobs *b, const char *tmp, const char *name,
                        const struct source *src, struct err *err)
{
    bool is_whole = false;
    for (int tries = 0; tries < 100; tries++) {
        int rc = appear(b, tmp, name, err);
        if (rc <= 0)
            return rc;
        if (confirm(b, src->tenant, src->digest, src->files, src->n_files, &is_whole, err) <
            0)
            return -1;
        if (is_whole || replace(b, tmp, name))
            return 0;
    }
    return err_set(err, ERR_IO, "something in the state folder is in the way of a version");
}

static int write_blob(const struct blobs *b, const struct source *src, struct err *err)
{
    char name[BLOB_NAME_SIZE], tmp[NAME_SIZE];
    blobs_name(name, src->tenant, src->digest);
    temporary_name(tmp, "new", name);
    durable_discard(b->folder, tmp);
    int folder = durable_folder(b->folder, tmp, b->is_volatile, err);
    if (folder < 0)
        return -1;
    int rc = write_files(b, folder, src->files, src->n_files, err);
    close(folder);
    if (rc == 0)
        rc = put_in_place(b, tmp, name, src, err);
    durable_discard(b->folder, tmp);
    return rc;
}

int blobs_put(const struct blobs *b, int64_t tenant, const char *digest,
              const struct blob_file *files, int n_files, struct err *err)
{
    const struct source src = {tenant, digest, files, n_files};
    bool is_whole;
    CHECK(n_files > 0);
    if (confirm(b, tenant, digest, files, n_files, &is_whole, err) < 0)
        return -1;
    if (!is_whole && write_blob(b, &src, err) < 0)
        return -1;
    return sync_folder(b, b->folder, err);
}

/* ---- at boot ------------------------------------------------------------------------ */

struct sweep {
    const struct blobs *b;
    bool (*is_wanted)(void *ud, int64_t tenant, const char *digest);
    void *ud;
};

/* A blob under the new name was put again since, and is the better one. */
static void rename_old(const struct blobs *b, const char *digest)
{
    char name[BLOB_NAME_SIZE];
    blobs_name(name, OLD_TENANT, digest);
    if (renameat(b->folder, digest, b->folder, name) < 0 && errno != ENOENT)
        discard_name(b, digest);
}

static void sweep_one(void *ud, const char *name)
{
    const struct sweep *s = ud;
    int64_t tenant;
    char digest[DIGEST_HEX + 1];
    if (name[0] == '.')
        durable_discard(s->b->folder, name);
    else if (blobs_parse_name(name, &tenant, digest, NULL) &&
             !s->is_wanted(s->ud, tenant, digest))
        discard_name(s->b, name);
    else if (blobs_is_digest(name) && s->is_wanted(s->ud, OLD_TENANT, name))
        rename_old(s->b, name);
    else if (blobs_is_digest(name))
        discard_name(s->b, name);
}

int blobs_sweep(const struct blobs *b,
                bool (*is_wanted)(void *ud, int64_t tenant, const char *digest), void *ud,
                struct err *err)
{
    struct sweep s = {b, is_wanted, ud};
    return durable_each(b->folder, sweep_one, &s, err) < 0 ? -1
                                                           : sync_folder(b, b->folder, err);
}
