/* Clearing away: blobs that are no version of anything any more, and what was compiled from
 * them.
 *
 * A blob that a put dropped keeps its files until a later change, for readers that come
 * late; what a delete dropped goes when it is done. Compiled files are only a cache: they go outside of transactions. While somebody
 * makes a backup (store_snapshot) no blob goes. */
#include "adapters/store.h"

#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "adapters/durable.h"
#include "adapters/pointers.h"
#include "adapters/state_files.h"
#include "adapters/store_parts.h"
#include "core/base/log.h"

enum { COLLECT_AT_ONCE = 64 };

#define IS_NO_VERSION(table)                                                               \
    "NOT EXISTS (SELECT 1 FROM versions v WHERE v.tenant = " table ".tenant"               \
    " AND v.digest = " table ".digest)"

int store_keep_sweep_statements(struct store *s, struct err *err)
{
    s->is_version = db_keep(
        s->writer, "SELECT 1 FROM versions WHERE tenant = ? AND digest = ? LIMIT 1", err);
    return s->is_version ? 0 : -1;
}

bool store_is_version(struct store *s, int64_t tenant, const char *digest)
{
    db_bind(s->is_version, "is", tenant, digest);
    bool is = db_step(s->writer, s->is_version, NULL) != 0;
    sqlite3_reset(s->is_version);
    return is;
}

/* gone, as orphans, holds names as blobs_name makes them, one behind the other with their
 * NULs. */
static void add_name(struct buf *gone, int64_t tenant, const char *digest)
{
    char name[BLOB_NAME_SIZE];
    blobs_name(name, tenant, digest);
    buf_add(gone, name, strlen(name) + 1);
}

static int find_dropped(struct store *s, int64_t tenant, const char *but, struct buf *gone,
                        struct err *err)
{
    sqlite3_stmt *st = db_prepare(
        s->writer, err,
        "SELECT tenant, digest FROM dropped WHERE NOT (tenant = ?1 AND digest = ?2)"
        "  AND " IS_NO_VERSION("dropped") " LIMIT ?3",
        "isi", tenant, but, (int64_t)COLLECT_AT_ONCE);
    int rc = st ? 1 : -1;
    while (rc == 1 && (rc = db_step(s->writer, st, err)) == 1)
        if (blobs_is_digest(db_text(st, 1)))
            add_name(gone, sqlite3_column_int64(st, 0), db_text(st, 1));
    sqlite3_finalize(st);
    return rc;
}

static int forget_blob(struct store *s, const char *name, struct err *err)
{
    char digest[DIGEST_HEX + 1];
    int64_t tenant;
    if (!blobs_parse_name(name, &tenant, digest, NULL))
        return 0;
    blobs_discard(&s->blobs, tenant, digest);
    if (db_run(s->writer, err, "DELETE FROM blobs WHERE tenant = ? AND digest = ?", "is",
               tenant, digest) < 0)
        return -1;
    return db_run(s->writer, err, "DELETE FROM dropped WHERE tenant = ? AND digest = ?",
                  "is", tenant, digest);
}

/* Or cannot be told. */
static bool has_row(struct store *s, int64_t tenant, const char *digest)
{
    sqlite3_stmt *st =
        db_prepare(s->writer, NULL, "SELECT 1 FROM blobs WHERE tenant = ? AND digest = ?",
                   "is", tenant, digest);
    bool has = !st || db_step(s->writer, st, NULL) != 0;
    sqlite3_finalize(st);
    return has;
}

static void discard_unless_known(struct store *s, int64_t tenant, const char *digest,
                                 struct buf *gone)
{
    if (has_row(s, tenant, digest))
        return;
    blobs_discard(&s->blobs, tenant, digest);
    add_name(gone, tenant, digest);
}

/* Another process may be about to make a version of one: it looks again, within its own
 * change, whether the files are there. */
static void discard_orphans(struct store *s, int64_t but_tenant, const char *but,
                            struct buf *gone)
{
    char digest[DIGEST_HEX + 1];
    int64_t tenant;
    for (size_t at = 0; at < s->orphans.len; at += strlen(s->orphans.data + at) + 1)
        if (blobs_parse_name(s->orphans.data + at, &tenant, digest, NULL) &&
            !(tenant == but_tenant && strcmp(digest, but) == 0))
            discard_unless_known(s, tenant, digest, gone);
    buf_free(&s->orphans);
}

/* If the change fails later the rows are back without files, and nothing misses them. */
int store_collect(struct store *s, int64_t tenant, const char *but, struct buf *gone,
                  struct err *err)
{
    size_t from = gone->len;
    if (flock(s->collect_lock, LOCK_EX | LOCK_NB) < 0)
        return 0;
    int rc = find_dropped(s, tenant, but, gone, err);
    for (size_t at = from; rc == 0 && at < gone->len; at += strlen(gone->data + at) + 1)
        rc = forget_blob(s, gone->data + at, err);
    discard_orphans(s, tenant, but, gone);
    flock(s->collect_lock, LOCK_UN);
    return rc;
}

bool store_collect_now(struct store *s)
{
    struct buf gone = {0};
    if (store_begin(s, NULL) < 0)
        return false;
    int rc = store_end(s, store_collect(s, STORE_DEFAULT_TENANT, "", &gone, NULL), NULL);
    bool has_gone = rc == 0 && gone.len > 0;
    store_forget_compiled(s, &gone);
    return has_gone;
}

void store_note_orphan(struct store *s, int64_t tenant, const char *digest)
{
    pthread_mutex_lock(&s->lock);
    add_name(&s->orphans, tenant, digest);
    pthread_mutex_unlock(&s->lock);
}

/* The blob goes, in a change of its own, unless it has a row. */
void store_withdraw(struct store *s, int64_t tenant, const char *digest)
{
    struct buf gone = {0};
    if (store_begin(s, NULL) < 0) {
        store_note_orphan(s, tenant, digest);
        return;
    }
    discard_unless_known(s, tenant, digest, &gone);
    store_end(s, 0, NULL);
    store_forget_compiled(s, &gone);
}

/* ---- compiled files ------------------------------------------------------------------ */

static int open_compiled(const struct store *s)
{
    return openat(s->dir, STATE_COMPILED, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
}

struct forgetting {
    int folder;
    const struct buf *gone;
};

static void forget_if_gone(void *ud, const char *file)
{
    const struct forgetting *f = ud;
    for (size_t at = 0, n; at < f->gone->len; at += n + 1) {
        n = strlen(f->gone->data + at);
        if (strncmp(file, f->gone->data + at, n) == 0 && file[n] == '-') {
            durable_discard(f->folder, file);
            return;
        }
    }
}

void store_forget_compiled(struct store *s, struct buf *gone)
{
    struct forgetting f = {gone->len ? open_compiled(s) : -1, gone};
    if (f.folder >= 0) {
        durable_each(f.folder, forget_if_gone, &f, NULL);
        close(f.folder);
    }
    buf_free(gone);
}

/* ---- everything, at boot ------------------------------------------------------------- */

struct sweeping {
    struct store *s;
    int compiled;
};

static void sweep_compiled(void *ud, const char *file)
{
    const struct sweeping *w = ud;
    char digest[DIGEST_HEX + 1];
    const char *rest;
    int64_t tenant;
    if (!blobs_parse_name(file, &tenant, digest, &rest) || rest[0] != '-' ||
        !store_is_version(w->s, tenant, digest))
        durable_discard(w->compiled, file);
}

static bool is_version(void *ud, int64_t tenant, const char *digest)
{
    return store_is_version(ud, tenant, digest);
}

static bool is_anything(void *ud, int64_t tenant, const char *digest)
{
    (void)ud, (void)tenant, (void)digest;
    return true;
}

/* A pointer file that could not be taken over may mean any of the blobs. */
static int sweep_blobs(struct store *s, struct err *err)
{
    bool is_damaged = pointers_are_left(s->dir);
    bool is_held = flock(s->collect_lock, LOCK_EX | LOCK_NB) < 0;
    if (is_damaged)
        log_warn("adapters",
                 "state folder: adapters/ of an older daemon holds what could not be "
                 "taken over; no stored files are cleared away while it is there");
    int rc =
        blobs_sweep(&s->blobs, is_damaged || is_held ? is_anything : is_version, s, err);
    if (rc == 0 && !is_held)
        rc = db_exec(s->writer,
                     "DELETE FROM dropped; DELETE FROM blobs WHERE " IS_NO_VERSION("blobs"),
                     err);
    flock(s->collect_lock, LOCK_UN);
    return rc;
}

/* Whoever watches the adapters folder finds them again. */
static int sweep_refusals(struct store *s, struct err *err)
{
    return db_exec(s->writer,
                   "DELETE FROM adapters WHERE " STORE_IS_ONLY_REFUSED ";"
                   "UPDATE adapters SET refused = NULL WHERE refused IS NOT NULL",
                   err);
}

static int sweep(struct store *s, struct err *err)
{
    struct sweeping w = {s, open_compiled(s)};
    int rc = sweep_blobs(s, err);
    if (rc == 0)
        rc = sweep_refusals(s, err);
    if (w.compiled < 0)
        return rc;
    if (rc == 0)
        rc = durable_each(w.compiled, sweep_compiled, &w, err);
    close(w.compiled);
    return rc;
}

int store_sweep(struct store *s, struct err *err)
{
    return store_begin(s, err) < 0 ? -1 : store_end(s, sweep(s, err), err);
}
