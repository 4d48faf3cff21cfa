/* Names, versions and their files in the store: a blob is written and synced before the commit that
 * makes it a version, and loses its files inside a later change, when no version of any name is it.
 * Both hold the database's write lock while they look whether a blob is there, so that neither takes
 * the other's away. */
#include "adapters/store.h"

#include <string.h>

#include "adapters/name.h"
#include "adapters/store_parts.h"

/* 1 if there is such a name; "" if it is remembered as deleted. */
static int current_of(sqlite3 *db, const char *name, char version[DIGEST_HEX + 1],
                      struct err *err)
{
    return db_find_version(db, version, err,
                        "SELECT current FROM adapters WHERE tenant = 1 AND name = ?", name);
}

/* ---- changes ------------------------------------------------------------------------- */

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
    sqlite3_stmt *st = db_prepare(s->writer, err, unwanted, "s", but);
    int rc = st ? 1 : -1;
    while (rc == 1 && (rc = db_step(s->writer, st, err)) == 1)
        if (blobs_is_digest(db_text(st, 0)))
            blobs_discard(&s->blobs, db_text(st, 0));
    sqlite3_finalize(st);
    if (rc < 0 || db_run(s->writer, err, forget, "s", but) < 0)
        return -1;
    return db_exec(s->writer, "DELETE FROM dropped", err);
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
    if (db_run(s->writer, err, add, "sssi", e->name, e->version, e->kind ? e->kind : "",
            e->created) < 0)
        return -1;
    return db_run(s->writer, err, trim, "si", e->name, (int64_t)s->keep_versions);
}

static int point_at(struct store *s, const char *name, const char *version, struct err *err)
{
    return db_run(s->writer, err,
               "INSERT INTO adapters (tenant, name, current) VALUES (1, ?1, nullif(?2, ''))"
               "  ON CONFLICT DO UPDATE SET current = excluded.current",
               "ss", name, version);
}

static int record_put(struct store *s, const struct store_entry *e, const char *current,
                      struct err *err)
{
    if (db_run(s->writer, err,
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
    if (db_find_version(s->writer, found, NULL, "SELECT digest FROM blobs WHERE digest = ?",
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
        blobs_put(&s->blobs, e->version, files, n_files, err) < 0 || db_begin(s->writer, err) < 0)
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
    return db_end(s->writer, rc, err);
}

static int need_version(sqlite3 *db, const char *name, const char *version,
                        int64_t *created, struct err *err)
{
    sqlite3_stmt *st = db_prepare(db, err,
                               "SELECT created FROM versions WHERE tenant = 1 AND name = ?"
                               "  AND digest = ?",
                               "ss", name, version);
    int rc = st ? db_step(db, st, err) : -1;
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
    if (check_locked(s, err) < 0 || db_begin(s->writer, err) < 0)
        return -1;
    int rc = check_current(s, name, only_if, current, err);
    if (rc == 0)
        rc = need_version(s->writer, name, version, &created, err);
    if (rc == 0)
        rc = collect(s, version, err);
    if (rc == 0)
        rc = point_at(s, name, version, err);
    return db_end(s->writer, rc, err);
}

int store_delete(struct store *s, const char *name, bool stays_deleted,
                 const struct store_condition *only_if, struct err *err)
{
    char current[DIGEST_HEX + 1];
    if (check_locked(s, err) < 0 || db_begin(s->writer, err) < 0)
        return -1;
    int rc = check_current(s, name, only_if, current, err);
    if (rc == 0)
        rc = collect(s, "", err);
    if (rc == 0)
        rc = db_run(s->writer, err, "DELETE FROM versions WHERE tenant = 1 AND name = ?", "s",
                 name);
    if (rc == 0 && stays_deleted)
        rc = point_at(s, name, "", err);
    else if (rc == 0)
        rc = db_run(s->writer, err, "DELETE FROM adapters WHERE tenant = 1 AND name = ?", "s",
                 name);
    return db_end(s->writer, rc, err);
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
    sqlite3_stmt *st = db_prepare(s->reader, err, sql, "");
    int rc = st ? 1 : -1;
    while (rc == 1 && (rc = db_step(s->reader, st, err)) == 1) {
        struct store_entry e = {.name = db_text(st, 0),
                                .version = db_text(st, 1),
                                .kind = db_text(st, 2),
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
    sqlite3_stmt *st = db_prepare(s->reader, err,
                               "SELECT digest, kind, created, number FROM versions"
                               "  WHERE tenant = 1 AND name = ? ORDER BY number DESC",
                               "s", name);
    int rc = st ? 1 : -1;
    while (rc == 1 && (rc = db_step(s->reader, st, err)) == 1) {
        const struct store_version v = {db_text(st, 0), db_text(st, 1),
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
