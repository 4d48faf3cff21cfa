/* Bringing the tables of a state folder to what this daemon knows, and taking over what the
 * oldest ones kept as files. */
#include "adapters/store.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "adapters/pointers.h"
#include "adapters/state_files.h"
#include "adapters/store_parts.h"
#include "adapters/store_schema.h"

enum { LOCK_PAUSE_MS = 10 };

int store_lock_folder(int dir, int wait_ms, struct err *err)
{
    int fd = openat(dir, STATE_LOCK, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return err_set(err, ERR_IO, "cannot make the lock of the state folder: %s",
                       strerror(errno));
    for (int waited_ms = 0; flock(fd, LOCK_EX | LOCK_NB) < 0; waited_ms += LOCK_PAUSE_MS) {
        if (waited_ms >= wait_ms) {
            close(fd);
            return err_set(err, ERR_CONFLICT,
                           "the state folder is in use by another process");
        }
        usleep(LOCK_PAUSE_MS * 1000);
    }
    return fd;
}

static int user_version(sqlite3 *db, struct err *err)
{
    sqlite3_stmt *st = db_prepare(db, err, "PRAGMA user_version", "");
    int rc = st ? db_step(db, st, err) : -1;
    int version = rc == 1 ? sqlite3_column_int(st, 0) : -1;
    sqlite3_finalize(st);
    return version;
}

int store_known_version(sqlite3 *db, struct err *err)
{
    int version = user_version(db, err);
    if (version <= store_schema_version())
        return version;
    return err_set(
        err, ERR_CONFLICT,
        "the state folder belongs to a newer prefixd: its registry has version %d, "
        "this one knows %d",
        version, store_schema_version());
}

struct takeover {
    struct store *s;
    int rc;
    struct err *err;
};

static void take_over_one(void *ud, const struct pointer *p)
{
    struct takeover *t = ud;
    const struct store_entry e = {.tenant = STORE_DEFAULT_TENANT,
                                  .name = p->name,
                                  .version = p->is_damaged ? STORE_DAMAGED : p->version,
                                  .created = p->created};
    if (t->rc == 0)
        t->rc = p->version[0] ? store_record_put(t->s, &e, true, t->err)
                              : store_point_at(t->s, &e, t->err);
}

static int take_over(struct store *s, struct err *err)
{
    struct takeover t = {s, 0, err};
    if (pointers_each(s->dir, take_over_one, &t, err) < 0 || t.rc < 0)
        return -1;
    return db_run(s->writer, err,
                  "UPDATE adapters SET is_from_folder = ? WHERE current IS NULL", "i",
                  (int64_t)STORE_OVER_FOLDER);
}

static int migrate_from(struct store *s, int version, struct err *err)
{
    char sql[64];
    int rc = 0;
    for (int i = version; i < store_schema_version() && rc == 0; i++)
        rc = db_exec(s->writer, store_schema_step(i), err);
    if (version == 0 && rc == 0)
        rc = take_over(s, err);
    snprintf(sql, sizeof sql, "PRAGMA user_version = %d", store_schema_version());
    return rc < 0 ? -1 : db_exec(s->writer, sql, err);
}

/* What an older daemon kept as files is taken over in the same step that makes the first
 * tables, so never twice. */
static int migrate(struct store *s, struct err *err)
{
    if (store_begin(s, err) < 0)
        return -1;
    int version = store_known_version(s->writer, err), rc = version < 0 ? -1 : 0;
    if (rc == 0 && version < store_schema_version())
        rc = migrate_from(s, version, err);
    rc = store_end(s, rc, err);
    if (rc == 0 && version == 0)
        pointers_remove(s->dir);
    return rc;
}

/* An older daemon that runs would not understand what its tables become: it holds the lock.
 * A newer one that has it migrates them itself. */
int store_migrate(struct store *s, bool holds_lock, struct err *err)
{
    int lock = -1, version;
    for (int waited_ms = 0; !holds_lock; waited_ms += LOCK_PAUSE_MS) {
        version = store_known_version(s->writer, err);
        if (version < 0 || version == store_schema_version())
            return version < 0 ? -1 : 0;
        lock = store_lock_folder(s->dir, 0, err);
        if (lock >= 0)
            break;
        if (waited_ms >= STORE_LOCK_WAIT_MS)
            return -1;
        usleep(LOCK_PAUSE_MS * 1000);
    }
    int rc = migrate(s, err);
    if (lock >= 0)
        close(lock);
    return rc;
}
