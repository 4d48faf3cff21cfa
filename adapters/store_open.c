/* Opening and closing the store, and the brackets of a change. */
#include "adapters/store.h"

#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "adapters/durable.h"
#include "adapters/state_files.h"
#include "adapters/store_parts.h"
#include "core/base/check.h"
#include "core/base/mem.h"

enum { READER_BUSY_MS = 20, PAUSE_US = 1000 };

/* Short pauses of one length: SQLite's own grow to 100 ms, and nobody here writes for so
 * long. */
static int wait_for_writer(void *ud, int n_tries)
{
    (void)ud;
    usleep(PAUSE_US);
    return n_tries < STORE_BUSY_MS * 1000 / PAUSE_US;
}

/* Made with its mode beforehand: what SQLite puts beside it gets the same. Never opened
 * here: closing a descriptor would take away the locks that this process' other connections
 * have on the file. */
static int make_db_file(struct store *s, struct err *err)
{
    if (mknodat(s->dir, STATE_DB, S_IFREG | 0600, 0) == 0)
        return s->is_volatile ? 0 : durable_sync(s->dir, err);
    if (errno == EEXIST)
        return 0;
    return err_set(err, ERR_IO, "cannot make the registry of the state folder: %s",
                   strerror(errno));
}

static sqlite3 *open_db(const struct store *s, struct err *err)
{
    struct buf path = {0};
    sqlite3 *db = NULL;
    buf_printf(&path, "%s/" STATE_DB, s->path);
    int rc =
        sqlite3_open_v2(path.data, &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL);
    buf_free(&path);
    if (rc == SQLITE_OK)
        sqlite3_busy_handler(db, wait_for_writer, NULL);
    if (rc == SQLITE_OK &&
        db_exec(db,
                s->is_volatile ? "PRAGMA synchronous = OFF" : "PRAGMA synchronous = FULL",
                err) == 0 &&
        db_exec(db, "PRAGMA foreign_keys = ON; PRAGMA journal_mode = WAL;", err) == 0)
        return db;
    if (rc != SQLITE_OK)
        err_set(err, ERR_IO, "the registry in the state folder: %s", sqlite3_errstr(rc));
    sqlite3_close(db);
    return NULL;
}

/* The loop does not wait: what a reader meets but for a moment ends in an error. */
static int open_reader(struct store *s, struct err *err)
{
    s->reader = open_db(s, err);
    if (!s->reader || db_exec(s->reader, "PRAGMA query_only = ON", err) < 0)
        return -1;
    sqlite3_busy_timeout(s->reader, READER_BUSY_MS);
    s->data_version = db_keep(s->reader, "PRAGMA data_version", err);
    if (!s->data_version || store_keep_entry_statements(s, err) < 0)
        return -1;
    return store_keep_key_statements(s, err);
}

static int open_collect_lock(struct store *s, struct err *err)
{
    s->collect_lock =
        openat(s->dir, STATE_COLLECT_LOCK, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (s->collect_lock < 0)
        return err_set(err, ERR_IO, "cannot make a lock in the state folder: %s",
                       strerror(errno));
    return 0;
}

static int open_files(struct store *s, struct err *err)
{
    if (sodium_init() < 0)
        return err_set(err, ERR_INTERNAL, "libsodium does not work here");
    s->dir = durable_folder(AT_FDCWD, s->path, s->is_volatile, err);
    if (s->dir < 0 || open_collect_lock(s, err) < 0 ||
        blobs_open(&s->blobs, s->dir, s->is_volatile, err) < 0 || make_db_file(s, err) < 0)
        return -1;
    s->writer = open_db(s, err);
    return s->writer && store_known_version(s->writer, err) >= 0 ? 0 : -1;
}

struct store *store_open_as(const struct store_opts *opts, bool holds_lock, struct err *err)
{
    struct store *s = xcalloc(1, sizeof *s);
    thread_owner_set(&s->owner);
    s->dir = s->collect_lock = s->blobs.folder = -1;
    s->seen_version = -1;
    s->path = xstrdup(opts->dir);
    s->is_volatile = opts->is_volatile;
    s->keep_versions = opts->keep_versions > 0 ? opts->keep_versions : STORE_KEEP_VERSIONS;
    CHECK(pthread_mutex_init(&s->lock, NULL) == 0);
    if (open_files(s, err) == 0 && store_migrate(s, holds_lock, err) == 0 &&
        store_keep_sweep_statements(s, err) == 0 && open_reader(s, err) == 0)
        return s;
    store_close(s);
    return NULL;
}

struct store *store_open(const struct store_opts *opts, struct err *err)
{
    return store_open_as(opts, false, err);
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
    sqlite3_finalize(s->is_version);
    sqlite3_finalize(s->find);
    sqlite3_finalize(s->find_own);
    sqlite3_finalize(s->find_key);
    sqlite3_finalize(s->data_version);
    CHECK(sqlite3_close(s->reader) == SQLITE_OK);
    CHECK(sqlite3_close(s->writer) == SQLITE_OK);
    blobs_close(&s->blobs);
    close_if_open(s->collect_lock);
    close_if_open(s->dir);
    pthread_mutex_destroy(&s->lock);
    buf_free(&s->orphans);
    free(s->path);
    free(s);
}

/* ---- changes ------------------------------------------------------------------------- */

int store_begin(struct store *s, struct err *err)
{
    pthread_mutex_lock(&s->lock);
    if (db_begin(s->writer, err) == 0)
        return 0;
    pthread_mutex_unlock(&s->lock);
    return -1;
}

int store_end(struct store *s, int rc, struct err *err)
{
    rc = db_end(s->writer, rc, err);
    pthread_mutex_unlock(&s->lock);
    return rc;
}

/* Whatever is written takes the place of what the index does not have. Setting the version anew
 * writes a page though nothing changes. */
int store_settle(struct store *s, struct err *err)
{
    char sql[64];
    if (store_begin(s, err) < 0)
        return -1;
    int version = store_known_version(s->writer, err), rc = version < 0 ? -1 : 0;
    snprintf(sql, sizeof sql, "PRAGMA user_version = %d", version);
    if (rc == 0)
        rc = db_exec(s->writer, sql, err);
    return store_end(s, rc, err);
}

/* ---- asking -------------------------------------------------------------------------- */

bool store_has_changed(struct store *s)
{
    CHECK_ON_THREAD(s->owner);
    int64_t version = -1;
    if (db_step(s->reader, s->data_version, NULL) == 1)
        version = sqlite3_column_int64(s->data_version, 0);
    sqlite3_reset(s->data_version);
    bool has_changed = version < 0 || version != s->seen_version;
    s->seen_version = version;
    return has_changed;
}

const struct blobs *store_blobs(const struct store *s)
{
    return &s->blobs;
}

const char *store_path(const struct store *s)
{
    return s->path;
}

int store_folder(const struct store *s)
{
    return s->dir;
}
