/* Opening the store: its folder, lock, tables, and what an older daemon left. */
#include "adapters/store.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "adapters/durable.h"
#include "adapters/pointers.h"
#include "adapters/store_parts.h"
#include "adapters/store_schema.h"
#include "core/base/buf.h"
#include "core/base/check.h"
#include "core/base/log.h"
#include "core/base/mem.h"

#define DB_FILE "registry.db"
#define DAMAGED "?" /* the current version of a name that nobody can tell any more */
enum { BUSY_MS = 10000, LOCK_WAIT_MS = 2000, LOCK_PAUSE_MS = 10 };

static int take_lock(struct store *s, struct err *err)
{
    s->lock = openat(s->dir, "lock", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (s->lock < 0)
        return err_set(err, ERR_IO, "cannot make the lock of the state folder: %s",
                       strerror(errno));
    for (int waited_ms = 0; flock(s->lock, LOCK_EX | LOCK_NB) < 0;
         waited_ms += LOCK_PAUSE_MS) {
        if (waited_ms >= LOCK_WAIT_MS)
            return err_set(err, ERR_CONFLICT,
                           "the state folder is in use by another process");
        usleep(LOCK_PAUSE_MS * 1000);
    }
    return 0;
}

void store_unlock(struct store *s)
{
    if (s->lock >= 0)
        close(s->lock);
    s->lock = -1;
}

/* Made with its mode beforehand: what SQLite puts beside it gets the same. */
static int make_db_file(struct store *s, struct err *err)
{
    int fd = openat(s->dir, DB_FILE, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return err_set(err, ERR_IO, "cannot make the registry of the state folder: %s",
                       strerror(errno));
    close(fd);
    return durable_sync(s->dir, err);
}

static sqlite3 *open_db(const struct store *s, struct err *err)
{
    struct buf path = {0};
    sqlite3 *db = NULL;
    buf_printf(&path, "%s/" DB_FILE, s->path);
    int rc = sqlite3_open_v2(path.data, &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX,
                             NULL);
    buf_free(&path);
    if (rc == SQLITE_OK)
        sqlite3_busy_timeout(db, BUSY_MS);
    if (rc == SQLITE_OK &&
        db_exec(db, "PRAGMA foreign_keys = ON; PRAGMA journal_mode = WAL;", err) == 0 &&
        db_exec(db, s->is_temporary ? "PRAGMA synchronous = OFF" : "PRAGMA synchronous = FULL",
             err) == 0)
        return db;
    if (rc != SQLITE_OK)
        err_set(err, ERR_IO, "the registry in the state folder: %s", sqlite3_errstr(rc));
    sqlite3_close(db);
    return NULL;
}

static int user_version(sqlite3 *db, struct err *err)
{
    sqlite3_stmt *st = db_prepare(db, err, "PRAGMA user_version", "");
    int rc = st ? db_step(db, st, err) : -1,
        version = rc == 1 ? sqlite3_column_int(st, 0) : -1;
    sqlite3_finalize(st);
    return version;
}

static int known_version(sqlite3 *db, struct err *err)
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
    const struct store_entry e = {
        .name = p->name, .version = p->version, .created = p->created};
    if (t->rc == 0)
        t->rc = p->version[0]
                    ? record_put(t->s, &e, "", t->err)
                    : point_at(t->s, p->name, p->is_damaged ? DAMAGED : "", t->err);
}

static int take_over(struct store *s, struct err *err)
{
    struct takeover t = {s, 0, err};
    return pointers_each(s->dir, take_over_one, &t, err) < 0 ? -1 : t.rc;
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

/* The tables as this daemon knows them; what an older one kept as files is taken over in
 * the same step that makes the first tables, so never twice. */
static int migrate(struct store *s, struct err *err)
{
    if (db_begin(s->writer, err) < 0)
        return -1;
    int version = known_version(s->writer, err), rc = version < 0 ? -1 : 0;
    if (rc == 0 && version < store_schema_version())
        rc = migrate_from(s, version, err);
    rc = db_end(s->writer, rc, err);
    if (rc == 0 && version == 0)
        pointers_remove(s->dir);
    return rc;
}

static bool is_referred(void *ud, const char *digest)
{
    char found[DIGEST_HEX + 1];
    struct store *s = ud;
    return db_find_version(s->writer, found, NULL,
                        "SELECT digest FROM versions WHERE digest = ? LIMIT 1",
                        digest) != 0;
}

static bool is_anything(void *ud, const char *digest)
{
    (void)ud, (void)digest;
    return true;
}

/* A pointer file that could not be taken over may mean any of the blobs. */
static int sweep(struct store *s, struct err *err)
{
    bool is_damaged = pointers_are_left(s->dir);
    if (is_damaged)
        log_warn("adapters",
                 "state folder: adapters/ of an older daemon holds what could not be "
                 "taken over; no stored files are cleared away while it is there");
    if (db_begin(s->writer, err) < 0)
        return -1;
    int rc = blobs_sweep(&s->blobs, is_damaged ? is_anything : is_referred, s, err);
    if (rc == 0)
        rc = db_exec(s->writer,
                  "DELETE FROM dropped; DELETE FROM blobs WHERE NOT EXISTS"
                  "  (SELECT 1 FROM versions WHERE versions.digest = blobs.digest)",
                  err);
    return db_end(s->writer, rc, err);
}

static int open_folder(struct store *s, const char *dir, struct err *err)
{
    struct buf made = {0};
    const char *tmp = getenv("TMPDIR");
    if (dir) {
        s->path = xstrdup(dir);
    } else {
        buf_printf(&made, "%s/prefixd-XXXXXX", tmp && tmp[0] ? tmp : "/tmp");
        s->is_temporary = mkdtemp(made.data) != NULL;
        s->path = buf_take(&made, NULL);
    }
    if (!dir && !s->is_temporary)
        return err_set(err, ERR_IO,
                       "cannot make a temporary folder for adapters (TMPDIR): %s",
                       strerror(errno));
    s->dir = durable_folder(AT_FDCWD, s->path, err);
    return s->dir < 0 ? -1 : 0;
}

static int open_files(struct store *s, const char *dir, struct err *err)
{
    if (open_folder(s, dir, err) < 0 || take_lock(s, err) < 0 ||
        blobs_open(&s->blobs, s->dir, err) < 0 || make_db_file(s, err) < 0)
        return -1;
    s->writer = open_db(s, err);
    return s->writer && known_version(s->writer, err) >= 0 ? 0 : -1;
}

static struct store *new_store(const char *dir, struct err *err)
{
    struct store *s = xcalloc(1, sizeof *s);
    s->dir = s->lock = s->blobs.folder = -1;
    if (open_files(s, dir, err) == 0)
        return s;
    store_close(s);
    return NULL;
}

int store_check(const char *dir, struct err *err)
{
    struct store *s = new_store(dir, err);
    store_close(s);
    return s ? 0 : -1;
}

static int open_reader(struct store *s, struct err *err)
{
    s->reader = open_db(s, err);
    return s->reader ? db_exec(s->reader, "PRAGMA query_only = ON", err) : -1;
}

struct store *store_open(const struct store_opts *opts, struct err *err)
{
    struct store *s = new_store(opts->dir, err);
    if (s)
        s->keep_versions = opts->keep_versions > 0 ? opts->keep_versions
                                                   : STORE_KEEP_VERSIONS;
    if (s && migrate(s, err) == 0 && sweep(s, err) == 0 && open_reader(s, err) == 0)
        return s;
    store_close(s);
    return NULL;
}

/* ---- closing ------------------------------------------------------------------------- */

static void discard_in(void *ud, const char *name)
{
    durable_discard(*(int *)ud, name);
}

static void remove_temporary(struct store *s)
{
    if (s->blobs.folder >= 0)
        durable_each(s->blobs.folder, discard_in, &s->blobs.folder, NULL);
    if (s->dir >= 0)
        durable_each(s->dir, discard_in, &s->dir, NULL);
    rmdir(s->path);
}

static void close_if_open(int fd)
{
    if (fd >= 0)
        close(fd);
}

void store_close(struct store *s)
{
    if (!s)
        return;
    sqlite3_close(s->reader);
    sqlite3_close(s->writer);
    if (s->is_temporary)
        remove_temporary(s);
    blobs_close(&s->blobs);
    close_if_open(s->lock);
    close_if_open(s->dir);
    free(s->path);
    free(s);
}
