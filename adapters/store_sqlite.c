/* The store as a database beside the files:
 *
 *     lock                       held by the daemon that has the store open
 *     registry.db (-wal, -shm)   tenants, keys, names, versions
 *     blobs/<digest>/<file>      the files of a version
 *
 * A blob is written and synced before the commit that makes it a version, and loses its
 * files inside a later change, when no version of any name is it. Both hold the database's
 * write lock while they look whether a blob is there, so that neither takes the other's
 * away.
 *
 * Thread: the writer connection belongs to the running change (and to boot), the reader to
 * the loop: reading waits for nobody's sync. Readers in other processes see a change with
 * their next statement; PRAGMA data_version tells them that there was one. */
#include "adapters/store.h"

#include <errno.h>
#include <fcntl.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "adapters/durable.h"
#include "adapters/name.h"
#include "adapters/pointers.h"
#include "adapters/store_schema.h"
#include "core/base/buf.h"
#include "core/base/check.h"
#include "core/base/log.h"
#include "core/base/mem.h"

#define DB_FILE "registry.db"
#define DAMAGED "?" /* the current version of a name that nobody can tell any more */
enum { BUSY_MS = 10000, LOCK_WAIT_MS = 2000, LOCK_PAUSE_MS = 10 };

struct store {
    int dir, lock; /* descriptors */
    char *path;    /* of the folder */
    bool is_temporary;
    int keep_versions;
    struct blobs blobs;
    sqlite3 *writer, *reader;
};

/* ---- statements ---------------------------------------------------------------------- */

static int failed(sqlite3 *db, struct err *err)
{
    return err_set(err, ERR_IO, "the registry in the state folder: %s",
                   sqlite3_errstr(sqlite3_extended_errcode(db)));
}

static int exec(sqlite3 *db, const char *sql, struct err *err)
{
    return sqlite3_exec(db, sql, NULL, NULL, NULL) == SQLITE_OK ? 0 : failed(db, err);
}

/* types has a letter for each parameter: s for a string, which must outlive the statement,
 * i for an int64_t. NULL + err. */
static sqlite3_stmt *vprepare(sqlite3 *db, struct err *err, const char *sql,
                              const char *types, va_list ap)
{
    sqlite3_stmt *st = NULL;
    if (sqlite3_prepare_v2(db, sql, -1, &st, NULL) != SQLITE_OK) {
        failed(db, err);
        return NULL;
    }
    for (int i = 1; types[i - 1]; i++) {
        if (types[i - 1] == 's')
            sqlite3_bind_text(st, i, va_arg(ap, const char *), -1, SQLITE_STATIC);
        else
            sqlite3_bind_int64(st, i, va_arg(ap, int64_t));
    }
    return st;
}

static sqlite3_stmt *prepare(sqlite3 *db, struct err *err, const char *sql,
                             const char *types, ...)
{
    va_list ap;
    va_start(ap, types);
    sqlite3_stmt *st = vprepare(db, err, sql, types, ap);
    va_end(ap);
    return st;
}

/* 1: there is a row; 0: no more. */
static int step(sqlite3 *db, sqlite3_stmt *st, struct err *err)
{
    int rc = sqlite3_step(st);
    return rc == SQLITE_ROW ? 1 : rc == SQLITE_DONE ? 0 : failed(db, err);
}

static int run(sqlite3 *db, struct err *err, const char *sql, const char *types, ...)
{
    va_list ap;
    va_start(ap, types);
    sqlite3_stmt *st = vprepare(db, err, sql, types, ap);
    va_end(ap);
    if (!st)
        return -1;
    int rc = step(db, st, err);
    sqlite3_finalize(st);
    return rc < 0 ? -1 : 0;
}

static const char *text(sqlite3_stmt *st, int column)
{
    const unsigned char *s = sqlite3_column_text(st, column);
    return s ? (const char *)s : "";
}

/* 1 if the query has a row, with its first column as a version or "". */
static int find_version(sqlite3 *db, char version[DIGEST_HEX + 1], struct err *err,
                        const char *sql, const char *name)
{
    sqlite3_stmt *st = prepare(db, err, sql, "s", name);
    if (!st)
        return -1;
    int rc = step(db, st, err);
    version[0] = '\0';
    if (rc == 1 && blobs_is_digest(text(st, 0)))
        memcpy(version, text(st, 0), DIGEST_HEX + 1);
    sqlite3_finalize(st);
    return rc;
}

/* 1 if there is such a name; "" if it is remembered as deleted. */
static int current_of(sqlite3 *db, const char *name, char version[DIGEST_HEX + 1],
                      struct err *err)
{
    return find_version(db, version, err,
                        "SELECT current FROM adapters WHERE tenant = 1 AND name = ?", name);
}

/* ---- changes ------------------------------------------------------------------------- */

static int begin(struct store *s, struct err *err)
{
    return exec(s->writer, "BEGIN IMMEDIATE", err);
}

static int end(struct store *s, int rc, struct err *err)
{
    if (rc == 0)
        rc = exec(s->writer, "COMMIT", err);
    if (rc < 0 && !sqlite3_get_autocommit(s->writer))
        exec(s->writer, "ROLLBACK", NULL);
    return rc;
}

/* The name's version, which only_if has seen, in current. */
static int check_current(struct store *s, const char *name,
                         const struct store_condition *only_if,
                         char current[DIGEST_HEX + 1], struct err *err)
{
    int rc = current_of(s->writer, name, current, err);
    if (rc < 0)
        return -1;
    return only_if ? only_if->allow(only_if->ud, rc ? current : NULL, err) : 0;
}

/* What was dropped by earlier changes and is no version of anything goes, but for one that
 * is about to be. If the change fails later the rows are back without files, and nothing
 * misses them. */
static int collect(struct store *s, const char *but, struct err *err)
{
    static const char unwanted[] =
        "SELECT digest FROM dropped WHERE digest <> ?"
        "  AND NOT EXISTS (SELECT 1 FROM versions WHERE versions.digest = dropped.digest)";
    static const char forget[] =
        "DELETE FROM blobs WHERE digest IN (SELECT digest FROM dropped) AND digest <> ?"
        "  AND NOT EXISTS (SELECT 1 FROM versions WHERE versions.digest = blobs.digest)";
    sqlite3_stmt *st = prepare(s->writer, err, unwanted, "s", but);
    int rc = st ? 1 : -1;
    while (rc == 1 && (rc = step(s->writer, st, err)) == 1)
        if (blobs_is_digest(text(st, 0)))
            blobs_discard(&s->blobs, text(st, 0));
    sqlite3_finalize(st);
    if (rc < 0 || run(s->writer, err, forget, "s", but) < 0)
        return -1;
    return exec(s->writer, "DELETE FROM dropped", err);
}

static int add_version(struct store *s, const struct store_entry *e, struct err *err)
{
    static const char add[] =
        "INSERT INTO versions (tenant, name, digest, kind, created, number)"
        "  SELECT 1, ?1, ?2, ?3, ?4, 1 + coalesce(max(number), 0)"
        "  FROM versions WHERE tenant = 1 AND name = ?1"
        "  ON CONFLICT DO UPDATE SET kind = excluded.kind, created = excluded.created,"
        "    number = excluded.number";
    static const char trim[] =
        "DELETE FROM versions WHERE tenant = 1 AND name = ?1 AND number <="
        "  (SELECT number FROM versions WHERE tenant = 1 AND name = ?1"
        "   ORDER BY number DESC LIMIT 1 OFFSET ?2)";
    if (run(s->writer, err, add, "sssi", e->name, e->version, e->kind ? e->kind : "",
            e->created) < 0)
        return -1;
    return run(s->writer, err, trim, "si", e->name, (int64_t)s->keep_versions);
}

static int point_at(struct store *s, const char *name, const char *version, struct err *err)
{
    return run(s->writer, err,
               "INSERT INTO adapters (tenant, name, current) VALUES (1, ?1, nullif(?2, ''))"
               "  ON CONFLICT DO UPDATE SET current = excluded.current",
               "ss", name, version);
}

static int record_put(struct store *s, const struct store_entry *e, const char *current,
                      struct err *err)
{
    if (run(s->writer, err,
            "INSERT INTO blobs VALUES (?1, ?2) ON CONFLICT DO UPDATE SET bytes = "
            "excluded.bytes",
            "si", e->version, blobs_bytes(&s->blobs, e->version)) < 0 ||
        point_at(s, e->name, e->version, err) < 0)
        return -1;
    return strcmp(current, e->version) == 0 ? 0 : add_version(s, e, err);
}

/* A blob that was written for a change which is refused has no row to be collected by. */
static void discard_unless_known(struct store *s, const char *digest)
{
    char found[DIGEST_HEX + 1];
    if (find_version(s->writer, found, NULL, "SELECT digest FROM blobs WHERE digest = ?",
                     digest) == 0)
        blobs_discard(&s->blobs, digest);
}

static int check_locked(const struct store *s, struct err *err)
{
    return s->lock >= 0 ? 0 : err_set(err, ERR_CLOSING, "%s", err_text(ERR_CLOSING));
}

int store_put(struct store *s, const struct store_entry *e, const struct blob_file *files,
              int n_files, const struct store_condition *only_if, struct err *err)
{
    char current[DIGEST_HEX + 1];
    if (!name_is_valid(e->name) || !blobs_is_digest(e->version))
        return err_set(err, ERR_INTERNAL, "not a name or a version");
    if (check_locked(s, err) < 0 ||
        blobs_put(&s->blobs, e->version, files, n_files, err) < 0 || begin(s, err) < 0)
        return -1;
    int rc = check_current(s, e->name, only_if, current, err);
    if (rc < 0)
        discard_unless_known(s, e->version);
    if (rc == 0)
        rc = collect(s, e->version, err);
    if (rc == 0 && !blobs_has(&s->blobs, e->version)) /* collected meanwhile, elsewhere */
        rc = blobs_put(&s->blobs, e->version, files, n_files, err);
    if (rc == 0)
        rc = record_put(s, e, current, err);
    return end(s, rc, err);
}

static int need_version(sqlite3 *db, const char *name, const char *version,
                        int64_t *created, struct err *err)
{
    sqlite3_stmt *st = prepare(db, err,
                               "SELECT created FROM versions WHERE tenant = 1 AND name = ?"
                               "  AND digest = ?",
                               "ss", name, version);
    int rc = st ? step(db, st, err) : -1;
    *created = rc == 1 ? sqlite3_column_int64(st, 0) : 0;
    sqlite3_finalize(st);
    if (rc == 0)
        return err_set(err, ERR_NOT_FOUND, "the adapter has no such version");
    return rc < 0 ? -1 : 0;
}

int store_rollback(struct store *s, const char *name, const char *version,
                   const struct store_condition *only_if, struct err *err)
{
    char current[DIGEST_HEX + 1];
    int64_t created;
    if (check_locked(s, err) < 0 || begin(s, err) < 0)
        return -1;
    int rc = check_current(s, name, only_if, current, err);
    if (rc == 0)
        rc = need_version(s->writer, name, version, &created, err);
    if (rc == 0)
        rc = collect(s, version, err);
    if (rc == 0)
        rc = point_at(s, name, version, err);
    return end(s, rc, err);
}

int store_delete(struct store *s, const char *name, bool stays_deleted,
                 const struct store_condition *only_if, struct err *err)
{
    char current[DIGEST_HEX + 1];
    if (check_locked(s, err) < 0 || begin(s, err) < 0)
        return -1;
    int rc = check_current(s, name, only_if, current, err);
    if (rc == 0)
        rc = collect(s, "", err);
    if (rc == 0)
        rc = run(s->writer, err, "DELETE FROM versions WHERE tenant = 1 AND name = ?", "s",
                 name);
    if (rc == 0 && stays_deleted)
        rc = point_at(s, name, "", err);
    else if (rc == 0)
        rc = run(s->writer, err, "DELETE FROM adapters WHERE tenant = 1 AND name = ?", "s",
                 name);
    return end(s, rc, err);
}

/* ---- reading ------------------------------------------------------------------------- */

int store_each(const struct store *s, void (*fn)(void *ud, const struct store_entry *e),
               void *ud, struct err *err)
{
    static const char sql[] =
        "SELECT a.name, a.current, v.kind, v.created FROM adapters a"
        "  LEFT JOIN versions v ON v.tenant = a.tenant AND v.name = a.name AND"
        "    v.digest = a.current"
        "  WHERE a.tenant = 1 ORDER BY a.name";
    sqlite3_stmt *st = prepare(s->reader, err, sql, "");
    int rc = st ? 1 : -1;
    while (rc == 1 && (rc = step(s->reader, st, err)) == 1) {
        struct store_entry e = {.name = text(st, 0),
                                .version = text(st, 1),
                                .kind = text(st, 2),
                                .created = sqlite3_column_int64(st, 3)};
        e.is_damaged = e.version[0] && !blobs_is_digest(e.version);
        if (e.is_damaged)
            e.version = "";
        if (name_is_valid(e.name))
            fn(ud, &e);
    }
    sqlite3_finalize(st);
    return rc;
}

bool store_has(const struct store *s, const char *name, bool *is_deleted)
{
    char version[DIGEST_HEX + 1];
    bool has = current_of(s->reader, name, version, NULL) == 1;
    *is_deleted = has && !version[0];
    return has;
}

int store_each_version(const struct store *s, const char *name,
                       void (*fn)(void *ud, const struct store_version *v), void *ud,
                       struct err *err)
{
    sqlite3_stmt *st = prepare(s->reader, err,
                               "SELECT digest, kind, created, number FROM versions"
                               "  WHERE tenant = 1 AND name = ? ORDER BY number DESC",
                               "s", name);
    int rc = st ? 1 : -1;
    while (rc == 1 && (rc = step(s->reader, st, err)) == 1) {
        const struct store_version v = {text(st, 0), text(st, 1),
                                        sqlite3_column_int64(st, 2),
                                        sqlite3_column_int64(st, 3)};
        if (blobs_is_digest(v.digest))
            fn(ud, &v);
    }
    sqlite3_finalize(st);
    return rc;
}

int store_find_version(const struct store *s, const char *name, const char *version,
                       int64_t *created, struct err *err)
{
    return need_version(s->reader, name, version, created, err);
}

const struct blobs *store_blobs(const struct store *s)
{
    return &s->blobs;
}

/* ---- opening ------------------------------------------------------------------------- */

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
        exec(db, "PRAGMA foreign_keys = ON; PRAGMA journal_mode = WAL;", err) == 0 &&
        exec(db, s->is_temporary ? "PRAGMA synchronous = OFF" : "PRAGMA synchronous = FULL",
             err) == 0)
        return db;
    if (rc != SQLITE_OK)
        err_set(err, ERR_IO, "the registry in the state folder: %s", sqlite3_errstr(rc));
    sqlite3_close(db);
    return NULL;
}

static int user_version(sqlite3 *db, struct err *err)
{
    sqlite3_stmt *st = prepare(db, err, "PRAGMA user_version", "");
    int rc = st ? step(db, st, err) : -1,
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
        rc = exec(s->writer, store_schema_step(i), err);
    if (version == 0 && rc == 0)
        rc = take_over(s, err);
    snprintf(sql, sizeof sql, "PRAGMA user_version = %d", store_schema_version());
    return rc < 0 ? -1 : exec(s->writer, sql, err);
}

/* The tables as this daemon knows them; what an older one kept as files is taken over in
 * the same step that makes the first tables, so never twice. */
static int migrate(struct store *s, struct err *err)
{
    if (begin(s, err) < 0)
        return -1;
    int version = known_version(s->writer, err), rc = version < 0 ? -1 : 0;
    if (rc == 0 && version < store_schema_version())
        rc = migrate_from(s, version, err);
    rc = end(s, rc, err);
    if (rc == 0 && version == 0)
        pointers_remove(s->dir);
    return rc;
}

static bool is_referred(void *ud, const char *digest)
{
    char found[DIGEST_HEX + 1];
    struct store *s = ud;
    return find_version(s->writer, found, NULL,
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
    if (begin(s, err) < 0)
        return -1;
    int rc = blobs_sweep(&s->blobs, is_damaged ? is_anything : is_referred, s, err);
    if (rc == 0)
        rc = exec(s->writer,
                  "DELETE FROM dropped; DELETE FROM blobs WHERE NOT EXISTS"
                  "  (SELECT 1 FROM versions WHERE versions.digest = blobs.digest)",
                  err);
    return end(s, rc, err);
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
    return s->reader ? exec(s->reader, "PRAGMA query_only = ON", err) : -1;
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
