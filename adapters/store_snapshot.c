/* A copy of the database at one moment, beside others that write. */
#include "adapters/store.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "adapters/state_files.h"
#include "adapters/store_parts.h"

/* Shared with other backups; who collects blobs finds it taken (store_sweep.c). */
static int take_hold(const struct store *s, struct err *err)
{
    int fd =
        openat(s->dir, STATE_COLLECT_LOCK, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return err_set(err, ERR_IO, "cannot open a lock in the state folder: %s",
                       strerror(errno));
    while (flock(fd, LOCK_SH) < 0)
        if (errno != EINTR) {
            close(fd);
            return err_set(err, ERR_IO, "cannot hold the state folder: %s",
                           strerror(errno));
        }
    return fd;
}

/* VACUUM INTO fills an empty file, which is made here with its mode. */
static int make_empty(const char *path, struct err *err)
{
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0)
        return err_set(err, ERR_IO, "cannot make the copy of the registry: %s",
                       strerror(errno));
    return fd;
}

static sqlite3 *open_db(const char *path, int flags, struct err *err)
{
    sqlite3 *db = NULL;
    int rc = sqlite3_open_v2(path, &db, flags | SQLITE_OPEN_NOMUTEX, NULL);
    if (rc == SQLITE_OK) {
        sqlite3_busy_timeout(db, STORE_BUSY_MS);
        return db;
    }
    err_set(err, ERR_IO, "the registry in the state folder: %s", sqlite3_errstr(rc));
    sqlite3_close(db);
    return NULL;
}

static int copy_db(const struct store *s, const char *path, struct err *err)
{
    struct buf from = {0};
    buf_printf(&from, "%s/" STATE_DB, s->path);
    sqlite3 *db = open_db(from.data, SQLITE_OPEN_READWRITE, err);
    int rc = db ? db_run(db, err, "VACUUM INTO ?", "s", path) : -1;
    sqlite3_close(db);
    buf_free(&from);
    return rc;
}

static int copy_durably(const struct store *s, const char *path, struct err *err)
{
    int fd = make_empty(path, err);
    if (fd < 0)
        return -1;
    int rc = copy_db(s, path, err);
    if (rc == 0 && fsync(fd) < 0)
        rc = err_set(err, ERR_IO, "cannot sync the copy of the registry: %s",
                     strerror(errno));
    close(fd);
    if (rc < 0)
        unlink(path);
    return rc;
}

int store_snapshot(struct store *s, const char *path, int *hold, struct err *err)
{
    *hold = take_hold(s, err);
    if (*hold < 0)
        return -1;
    if (copy_durably(s, path, err) == 0)
        return 0;
    close(*hold);
    *hold = -1;
    return -1;
}

int store_snapshot_each(const char *path,
                        int (*fn)(void *ud, const struct store_snapshot_blob *b), void *ud,
                        struct err *err)
{
    sqlite3 *db = open_db(path, SQLITE_OPEN_READONLY, err);
    sqlite3_stmt *st =
        db ? db_prepare(db, err,
                        "SELECT v.tenant, v.digest, t.name, min(v.name) FROM versions v"
                        "  LEFT JOIN tenants t ON t.id = v.tenant GROUP BY v.tenant, v.digest",
                        "")
           : NULL;
    int rc = st ? 0 : -1;
    while (rc == 0 && (rc = db_step(db, st, err)) == 1)
        rc = fn(ud, &(struct store_snapshot_blob){.tenant = sqlite3_column_int64(st, 0),
                                                  .digest = db_text(st, 1),
                                                  .tenant_name = db_text(st, 2),
                                                  .adapter = db_text(st, 3)});
    sqlite3_finalize(st);
    sqlite3_close(db);
    return rc;
}
