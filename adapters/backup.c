/* A copy of the registry in one file: the snapshot first, then the blobs, which nobody
 * collects meanwhile. */
#include "adapters/backup.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "adapters/durable.h"
#include "adapters/state_files.h"
#include "core/base/buf.h"
#include "core/base/mem.h"

enum { CHUNK = 65536, BLOB_MAX_FILES = 16, PLACE_TRIES = 8 };

struct backup {
    const char *path;
    struct buf partial, snapshot; /* paths; the second goes at the end in every case */
    int fd, hold;                 /* fd -1: the place is another's */
    struct archive *tar;
    int blobs; /* descriptor of the folder */
    struct backup_stats stats;
    struct err *err;
};

/* Of the backup's own files; those of the state folder have durable.h's words. */
static int failed(struct backup *b, const char *what)
{
    return err_set(b->err, ERR_IO, "%s %.200s: %s", what, b->path, strerror(errno));
}

static int tar_failed(struct backup *b)
{
    errno = archive_errno(b->tar);
    return failed(b, "writing");
}

/* ---- the file ------------------------------------------------------------------------ */

/* Whether the open file is still what stands under its name: whoever held the lock before
 * has renamed or removed it otherwise. */
static bool is_in_place(int fd, const char *path)
{
    struct stat mine, there;
    return fstat(fd, &mine) == 0 && lstat(path, &there) == 0 &&
           mine.st_dev == there.st_dev && mine.st_ino == there.st_ino;
}

/* The lock keeps two backups to one path apart; it goes with the process, so a killed one
 * leaves no more than a file that the next one writes over. */
static int take_place(struct backup *b)
{
    const char *path = b->partial.data;
    for (int i = 0; i < PLACE_TRIES; i++) {
        b->fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
        if (b->fd < 0)
            return failed(b, "making");
        if (flock(b->fd, LOCK_EX | LOCK_NB) < 0)
            break;
        if (is_in_place(b->fd, path))
            return ftruncate(b->fd, 0) < 0 ? failed(b, "making") : 0;
        close(b->fd);
        b->fd = -1;
    }
    if (b->fd >= 0)
        close(b->fd);
    b->fd = -1;
    return err_set(b->err, ERR_CONFLICT, "another backup to %.200s is being written",
                   b->path);
}

static int sync_folder_of(struct backup *b)
{
    char *copy = xstrdup(b->path);
    int fd = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int rc = fd < 0 || fsync(fd) < 0 ? failed(b, "syncing the folder of") : 0;
    if (fd >= 0)
        close(fd);
    free(copy);
    return rc;
}

static int finish(struct backup *b)
{
    struct stat st;
    if (archive_write_close(b->tar) != ARCHIVE_OK)
        return tar_failed(b);
    if (fsync(b->fd) < 0 || fstat(b->fd, &st) < 0)
        return failed(b, "syncing");
    if (rename(b->partial.data, b->path) < 0)
        return failed(b, "renaming the finished backup to");
    b->stats.bytes = st.st_size;
    return sync_folder_of(b);
}

/* ---- entries ------------------------------------------------------------------------- */

static int add_header(struct backup *b, const char *name, const struct stat *st)
{
    struct archive_entry *e = archive_entry_new();
    if (!e)
        return err_set(b->err, ERR_NO_MEMORY, "not enough memory for a backup");
    archive_entry_copy_stat(e, st);
    archive_entry_set_pathname(e, name);
    int rc = archive_write_header(b->tar, e) == ARCHIVE_OK ? 0 : tar_failed(b);
    archive_entry_free(e);
    return rc;
}

/* Exactly the size that its header says. */
static int add_bytes(struct backup *b, int fd, int64_t len)
{
    char chunk[CHUNK];
    while (len > 0) {
        ssize_t n = read(fd, chunk, len < CHUNK ? (size_t)len : CHUNK);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return failed(b, "reading the state folder for");
        if (n == 0)
            return err_set(b->err, ERR_IO, "a file of the state folder became shorter");
        if (archive_write_data(b->tar, chunk, (size_t)n) != n)
            return tar_failed(b);
        len -= n;
    }
    return 0;
}

static int add_file(struct backup *b, const char *name, int fd)
{
    struct stat st;
    if (fstat(fd, &st) < 0)
        return failed(b, "reading the state folder for");
    if (!S_ISREG(st.st_mode))
        return err_set(b->err, ERR_IO, "%.80s of the state folder is no file", name);
    return add_header(b, name, &st) < 0 ? -1 : add_bytes(b, fd, st.st_size);
}

static int add_folder(struct backup *b, const char *name, int fd)
{
    struct stat st;
    if (fstat(fd, &st) < 0)
        return failed(b, "reading the state folder for");
    return add_header(b, name, &st);
}

static int add_registry(struct backup *b, struct store *s)
{
    unlink(b->snapshot.data); /* of a backup that was killed */
    if (store_snapshot(s, b->snapshot.data, &b->hold, b->err) < 0)
        return -1;
    int fd = open(b->snapshot.data, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return failed(b, "reading the copy of the registry for");
    int rc = add_file(b, STATE_DB, fd);
    close(fd);
    return rc;
}

/* ---- blobs --------------------------------------------------------------------------- */

struct blob { /* its files, all open before the first is written: it comes whole or not at
                 all */
    int folder;
    char *names[BLOB_MAX_FILES];
    int fds[BLOB_MAX_FILES];
    int n;
    bool is_gone, is_odd;
};

static void open_blob_file(void *ud, const char *name)
{
    struct blob *blob = ud;
    if (blob->n == BLOB_MAX_FILES) {
        blob->is_odd = true;
        return;
    }
    int fd = openat(blob->folder, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0) {
        blob->is_gone = true;
        return;
    }
    blob->fds[blob->n] = fd;
    blob->names[blob->n++] = xstrdup(name);
}

static void close_blob(struct blob *blob)
{
    for (int i = 0; i < blob->n; i++) {
        close(blob->fds[i]);
        free(blob->names[i]);
    }
    if (blob->folder >= 0)
        close(blob->folder);
}

static int open_blob(struct backup *b, struct blob *blob, const char *name)
{
    *blob = (struct blob){0};
    blob->folder = openat(b->blobs, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    if (blob->folder >= 0 && durable_each(blob->folder, open_blob_file, blob, b->err) < 0)
        return -1;
    blob->is_gone = blob->is_gone || blob->n == 0;
    if (blob->is_odd)
        return err_set(b->err, ERR_IO, STATE_BLOBS "/%.80s of the state folder has too many files",
                       name);
    return 0;
}

static int add_blob_files(struct backup *b, const struct blob *blob, const char *name)
{
    struct buf path = {0};
    buf_printf(&path, STATE_BLOBS "/%s", name);
    int rc = add_folder(b, path.data, blob->folder);
    for (int i = 0; rc == 0 && i < blob->n; i++) {
        buf_clear(&path);
        buf_printf(&path, STATE_BLOBS "/%s/%s", name, blob->names[i]);
        rc = add_file(b, path.data, blob->fds[i]);
    }
    buf_free(&path);
    return rc;
}

/* 1, or 0 if it is not there. */
static int add_if_there(struct backup *b, const char *name)
{
    struct blob blob;
    int rc = open_blob(b, &blob, name);
    if (rc == 0 && !blob.is_gone)
        rc = add_blob_files(b, &blob, name) < 0 ? -1 : 1;
    close_blob(&blob);
    return rc;
}

/* One that is being replaced because it was damaged vanishes for a moment and is looked at
 * again; but what the snapshot speaks of does not go for good. */
static int add_blob(void *ud, const struct store_snapshot_blob *v)
{
    struct backup *b = ud;
    char name[BLOB_NAME_SIZE];
    blobs_name(name, v->tenant, v->digest);
    for (int i = 0; i < PLACE_TRIES; i++) {
        int rc = add_if_there(b, name);
        if (rc == 0 && v->tenant == STORE_DEFAULT_TENANT)
            rc = add_if_there(b, v->digest); /* as older daemons called it */
        b->stats.n_blobs += rc == 1;
        if (rc != 0)
            return rc < 0 ? -1 : 0;
        usleep(1000);
    }
    return err_set(b->err, ERR_IO,
                   "the files of version %.12s of the adapter \"%.64s\" of the tenant \"%.64s\" "
                   "are missing: without them there is no whole backup",
                   v->digest, v->adapter, v->tenant_name);
}

static int add_blobs(struct backup *b, struct store *s)
{
    b->blobs = openat(store_folder(s), STATE_BLOBS, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (b->blobs < 0)
        return failed(b, "reading the state folder for");
    if (add_folder(b, STATE_BLOBS, b->blobs) < 0)
        return -1;
    return store_snapshot_each(b->snapshot.data, add_blob, b, b->err);
}

/* ---- all of it ----------------------------------------------------------------------- */

static int open_tar(struct backup *b)
{
    b->tar = archive_write_new();
    if (!b->tar)
        return err_set(b->err, ERR_NO_MEMORY, "not enough memory for a backup");
    if (archive_write_set_format_pax_restricted(b->tar) != ARCHIVE_OK ||
        archive_write_open_fd(b->tar, b->fd) != ARCHIVE_OK)
        return tar_failed(b);
    return 0;
}

static void give_back(struct backup *b, int rc)
{
    if (rc < 0 && b->fd >= 0)
        unlink(b->partial.data);
    if (b->fd >= 0)
        unlink(b->snapshot.data);
    archive_write_free(b->tar);
    const int fds[] = {b->hold, b->blobs, b->fd};
    for (size_t i = 0; i < sizeof fds / sizeof *fds; i++)
        if (fds[i] >= 0)
            close(fds[i]);
    buf_free(&b->partial);
    buf_free(&b->snapshot);
}

int backup_write(struct store *s, const char *path, struct backup_stats *out,
                 struct err *err)
{
    struct backup b = {.path = path, .fd = -1, .hold = -1, .blobs = -1, .err = err};
    buf_printf(&b.partial, "%s.partial", path);
    buf_printf(&b.snapshot, "%s.partial-registry", path);
    int rc = take_place(&b) < 0 || open_tar(&b) < 0 || add_registry(&b, s) < 0 ||
                     add_blobs(&b, s) < 0 || finish(&b) < 0
                 ? -1
                 : 0;
    give_back(&b, rc);
    if (rc == 0 && out)
        *out = b.stats;
    return rc;
}
