/* Changes of names and their versions. A blob is written and synced before the change that
 * makes it a version; inside, with the database's write lock held, it is looked at again,
 * since another process may have collected it meanwhile. */
#include "adapters/store.h"

#include <string.h>

#include "adapters/name.h"
#include "adapters/store_parts.h"
#include "core/base/check.h"

struct current {
    bool is_known;   /* the name has a row, and is not only refused */
    bool is_refused; /* only that: it has no version */
    bool is_deleted; /* and is remembered as deleted */
    bool is_from_folder;
    bool is_over_folder; /* PUT where the adapters folder has, or had, one of this name */
    char version[DIGEST_HEX + 1]; /* "": deleted or damaged */
};

struct change {
    struct store *s;
    int64_t tenant;
    const char *name;
    struct current was;
    struct buf gone;
    struct err *err;
};

static int find_current(struct change *c)
{
    sqlite3_stmt *st = db_prepare(c->s->writer, c->err,
                                  "SELECT current, is_from_folder FROM adapters"
                                  "  WHERE tenant = ? AND name = ?",
                                  "is", c->tenant, c->name);
    int rc = st ? db_step(c->s->writer, st, c->err) : -1;
    c->was = (struct current){.is_known = rc == 1};
    if (rc == 1 && sqlite3_column_type(st, 0) == SQLITE_NULL &&
        sqlite3_column_int(st, 1) == STORE_FROM_FOLDER) {
        c->was = (struct current){.is_refused = true, .is_from_folder = true};
    } else if (rc == 1) {
        c->was.is_deleted = sqlite3_column_type(st, 0) == SQLITE_NULL;
        c->was.is_from_folder = sqlite3_column_int(st, 1) == STORE_FROM_FOLDER;
        c->was.is_over_folder = sqlite3_column_int(st, 1) == STORE_OVER_FOLDER;
        if (blobs_is_digest(db_text(st, 0)))
            memcpy(c->was.version, db_text(st, 0), DIGEST_HEX + 1);
    }
    sqlite3_finalize(st);
    return rc < 0 ? -1 : 0;
}

/* What the name is now, which only_if has seen. */
static int look(struct change *c, const struct store_condition *only_if)
{
    const struct current *was = &c->was;
    if (find_current(c) < 0)
        return -1;
    return only_if ? only_if->allow(only_if->ud, was->is_known ? was->version : NULL,
                                    was->is_from_folder, c->err)
                   : 0;
}

static int begin_with(struct change *c, const struct store_condition *only_if,
                      const char *version)
{
    if (look(c, only_if) < 0)
        return -1;
    return store_collect(c->s, c->tenant, version, &c->gone, c->err);
}

/* ---- put ----------------------------------------------------------------------------- */

static int need_tenant(const struct change *c)
{
    sqlite3_stmt *st = db_prepare(c->s->writer, c->err,
                                  "SELECT 1 FROM tenants WHERE id = ?", "i", c->tenant);
    int rc = st ? db_step(c->s->writer, st, c->err) : -1;
    sqlite3_finalize(st);
    return rc == 0  ? err_set(c->err, ERR_NOT_FOUND, "there is no such tenant")
           : rc < 0 ? -1
                    : 0;
}

static const char *or_empty(const char *s)
{
    return s ? s : "";
}

static int add_version(struct store *s, const struct store_entry *e, struct err *err)
{
    static const char add[] =
        "INSERT INTO versions (tenant, name, digest, kind, created, number)"
        "  SELECT ?1, ?2, ?3, ?4, ?5, 1 + coalesce(max(number), 0)"
        "  FROM versions WHERE tenant = ?1 AND name = ?2"
        "  ON CONFLICT DO UPDATE SET created = excluded.created, number = excluded.number,"
        "    kind = coalesce(nullif(excluded.kind, ''), kind)";
    static const char trim[] =
        "DELETE FROM versions WHERE tenant = ?1 AND name = ?2 AND number <="
        "  (SELECT number FROM versions WHERE tenant = ?1 AND name = ?2"
        "   ORDER BY number DESC LIMIT 1 OFFSET ?3)";
    if (db_run(s->writer, err, add, "isssi", e->tenant, e->name, e->version,
               or_empty(e->kind), e->created) < 0)
        return -1;
    return db_run(s->writer, err, trim, "isi", e->tenant, e->name,
                  (int64_t)s->keep_versions);
}

/* Of all names of the tenant that have it: it is of the content. */
static int note_compiled(struct store *s, const struct store_entry *e, struct err *err)
{
    return db_run(s->writer, err,
                  "UPDATE versions SET kind = coalesce(nullif(?3, ''), kind),"
                  "  n_tokens = ?4, n_tasks = ?5, compile_ms = ?6,"
                  "  base_hint = coalesce(nullif(?7, ''), base_hint)"
                  "  WHERE tenant = ?1 AND digest = ?2",
                  "issiids", e->tenant, e->version, or_empty(e->kind), (int64_t)e->n_tokens,
                  (int64_t)e->n_tasks, e->compile_ms, or_empty(e->base_hint));
}

/* A name that the adapters folder once had is known to be one of its for good, deleted or
 * not, so that a delete of what was PUT over it is remembered too. */
int store_point_at(struct store *s, const struct store_entry *e, struct err *err)
{
    return db_run(s->writer, err,
                  "INSERT INTO adapters (tenant, name, current, is_from_folder)"
                  "  VALUES (?1, ?2, nullif(?3, ''), ?4) ON CONFLICT DO UPDATE SET"
                  "  current = excluded.current, refused = NULL, is_from_folder = CASE"
                  "    WHEN excluded.is_from_folder = ?5 THEN ?5"
                  "    WHEN is_from_folder <> 0 THEN ?6 ELSE 0 END",
                  "issiii", e->tenant, e->name, e->version,
                  (int64_t)(e->is_from_folder ? STORE_FROM_FOLDER : 0),
                  (int64_t)STORE_FROM_FOLDER, (int64_t)STORE_OVER_FOLDER);
}

/* What the files have on disk; before they are there, what they will have. */
static int64_t bytes_of(const struct store *s, const struct store_entry *e)
{
    int64_t bytes = blobs_bytes(&s->blobs, e->tenant, e->version);
    return bytes > 0 ? bytes : e->bytes;
}

int store_record_put(struct store *s, const struct store_entry *e, bool is_new,
                     struct err *err)
{
    if (db_run(s->writer, err,
               "INSERT INTO blobs VALUES (?1, ?2, ?3) ON CONFLICT DO UPDATE SET bytes = "
               "excluded.bytes",
               "isi", e->tenant, e->version, bytes_of(s, e)) < 0 ||
        store_point_at(s, e, err) < 0 || (is_new && add_version(s, e, err) < 0))
        return -1;
    return e->n_tokens > 0 ? note_compiled(s, e, err) : 0;
}

static int count(const struct change *c, const char *sql, int64_t *out)
{
    sqlite3_stmt *st = db_prepare(c->s->writer, c->err, sql, "i", c->tenant);
    int rc = st ? db_step(c->s->writer, st, c->err) : -1;
    *out = rc == 1 ? sqlite3_column_int64(st, 0) : 0;
    sqlite3_finalize(st);
    return rc == 1 ? 0 : -1;
}

static int check_names(const struct change *c, int64_t most)
{
    int64_t n;
    if (most <= 0 || (c->was.is_known && !c->was.is_deleted))
        return 0;
    if (count(c, "SELECT count(*) FROM adapters WHERE tenant = ? AND current IS NOT NULL",
              &n) < 0)
        return -1;
    if (n <= most)
        return 0;
    return err_set(c->err, ERR_FORBIDDEN,
                   "the limit of %lld adapters is reached: there are %lld", (long long)most,
                   (long long)n - 1);
}

/* What is dropped and not collected yet is nobody's any more. */
static int check_bytes(const struct change *c, int64_t most)
{
    static const char sql[] =
        "SELECT coalesce((SELECT sum(bytes) FROM blobs WHERE tenant = ?1), 0)"
        "  - coalesce((SELECT sum(b.bytes) FROM dropped d JOIN blobs b USING (tenant, "
        "digest)"
        "      WHERE d.tenant = ?1 AND NOT EXISTS (SELECT 1 FROM versions v"
        "        WHERE v.tenant = ?1 AND v.digest = d.digest)), 0)";
    int64_t n;
    if (most <= 0)
        return 0;
    if (count(c, sql, &n) < 0)
        return -1;
    if (n <= most)
        return 0;
    return err_set(c->err, ERR_TOO_LARGE,
                   "all kept versions together would be %lld bytes, and the limit is %lld",
                   (long long)n, (long long)most);
}

static int record_within(struct change *c, const struct store_entry *e,
                         const struct store_limits *limits)
{
    bool is_new = strcmp(c->was.version, e->version) != 0;
    if (store_record_put(c->s, e, is_new, c->err) < 0)
        return -1;
    if (!is_new || !limits)
        return 0;
    return check_names(c, limits->max_adapters) < 0 ? -1
                                                    : check_bytes(c, limits->max_bytes);
}

struct put {
    const struct store_entry *e;
    const struct blob_file *files;
    int n_files;
    const struct store_condition *only_if;
    const struct store_limits *limits;
};

static int put(struct change *c, const struct put *p)
{
    const struct store_entry *e = p->e;
    if (need_tenant(c) < 0 || begin_with(c, p->only_if, e->version) < 0)
        return -1;
    if (!blobs_has(&c->s->blobs, e->tenant, e->version) &&
        blobs_put(&c->s->blobs, e->tenant, e->version, p->files, p->n_files, c->err) < 0)
        return -1;
    return record_within(c, e, p->limits);
}

static int check_entry(const struct store_entry *e, struct err *err)
{
    if (name_is_valid(e->name) && blobs_is_digest(e->version) && e->tenant > 0)
        return 0;
    return err_set(err, ERR_INTERNAL, "not a name or a version");
}

int store_write(struct store *s, int64_t tenant, const char *version,
                const struct blob_file *files, int n_files, struct err *err)
{
    CHECK(tenant > 0 && blobs_is_digest(version));
    if (blobs_put(&s->blobs, tenant, version, files, n_files, err) == 0)
        return 0;
    store_note_orphan(s, tenant, version);
    return -1;
}

int store_commit(struct store *s, const struct store_entry *e, const struct blob_file *files,
                 int n_files, const struct store_condition *only_if,
                 const struct store_limits *limits, struct err *err)
{
    struct change c = {.s = s, .tenant = e->tenant, .name = e->name, .err = err};
    const struct put p = {e, files, n_files, only_if, limits};
    if (check_entry(e, err) < 0)
        return -1;
    if (store_begin(s, err) < 0) {
        store_note_orphan(s, e->tenant, e->version);
        return -1;
    }
    int rc = store_end(s, put(&c, &p), err);
    if (rc < 0) /* it has no row to be collected by */
        store_withdraw(s, e->tenant, e->version);
    store_forget_compiled(s, &c.gone);
    return rc;
}

int store_put(struct store *s, const struct store_entry *e, const struct blob_file *files,
              int n_files, const struct store_condition *only_if,
              const struct store_limits *limits, struct err *err)
{
    if (check_entry(e, err) < 0 ||
        store_write(s, e->tenant, e->version, files, n_files, err) < 0)
        return -1;
    return store_commit(s, e, files, n_files, only_if, limits, err);
}

/* The put itself, without its files, taken back: so the two never differ. */
int store_check_put(struct store *s, const struct store_entry *e,
                    const struct store_condition *only_if,
                    const struct store_limits *limits, struct err *err)
{
    struct change c = {.s = s, .tenant = e->tenant, .name = e->name, .err = err};
    if (check_entry(e, err) < 0 || store_begin(s, err) < 0)
        return -1;
    int rc = need_tenant(&c);
    if (rc == 0)
        rc = look(&c, only_if);
    if (rc == 0)
        rc = record_within(&c, e, limits);
    store_end(s, -1, NULL);
    return rc;
}

/* ---- rollback and delete ------------------------------------------------------------- */

static int need_version(const struct change *c, const char *version)
{
    sqlite3_stmt *st =
        db_prepare(c->s->writer, c->err,
                   "SELECT 1 FROM versions WHERE tenant = ? AND name = ? AND digest = ?",
                   "iss", c->tenant, c->name, version);
    int rc = st ? db_step(c->s->writer, st, c->err) : -1;
    sqlite3_finalize(st);
    if (rc == 0)
        return err_set(c->err, ERR_NOT_FOUND, "the adapter has no such version");
    return rc < 0 ? -1 : 0;
}

int store_rollback(struct store *s, int64_t tenant, const char *name, const char *version,
                   const struct store_condition *only_if, struct err *err)
{
    struct change c = {.s = s, .tenant = tenant, .name = name, .err = err};
    const struct store_entry e = {.tenant = tenant, .name = name, .version = version};
    if (store_begin(s, err) < 0)
        return -1;
    int rc = begin_with(&c, only_if, version);
    if (rc == 0)
        rc = need_version(&c, version);
    if (rc == 0)
        rc = store_point_at(s, &e, err);
    rc = store_end(s, rc, err);
    store_forget_compiled(s, &c.gone);
    return rc;
}

static int remove_name(struct change *c, bool stays_deleted)
{
    if ((!c->was.is_known || c->was.is_deleted) && !c->was.is_refused)
        return err_set(c->err, ERR_ADAPTER_NOT_FOUND, "%s",
                       err_text(ERR_ADAPTER_NOT_FOUND));
    if (db_run(c->s->writer, c->err, "DELETE FROM versions WHERE tenant = ? AND name = ?",
               "is", c->tenant, c->name) < 0)
        return -1;
    return db_run(c->s->writer, c->err,
                  stays_deleted || c->was.is_over_folder
                      ? "UPDATE adapters SET current = NULL, refused = NULL, is_public = 0,"
                        "  is_pinned = 0, is_from_folder = 2 * (is_from_folder <> 0)"
                        "  WHERE tenant = ? AND name = ?"
                      : "DELETE FROM adapters WHERE tenant = ? AND name = ?",
                  "is", c->tenant, c->name);
}

int store_delete(struct store *s, int64_t tenant, const char *name, bool stays_deleted,
                 const struct store_condition *only_if, struct err *err)
{
    struct change c = {.s = s, .tenant = tenant, .name = name, .err = err};
    if (store_begin(s, err) < 0)
        return -1;
    int rc = begin_with(&c, only_if, "");
    if (rc == 0)
        rc = remove_name(&c, stays_deleted);
    rc = store_end(s, rc, err);
    if (rc == 0) /* who still wants to read it learns that the name is gone */
        store_collect_now(s);
    store_forget_compiled(s, &c.gone);
    return rc;
}

/* ---- what is told about them --------------------------------------------------------- */

static int check_public(const struct change *c)
{
    sqlite3_stmt *st =
        db_prepare(c->s->writer, c->err,
                   "SELECT 1 FROM adapters WHERE is_public AND name = ?1 AND tenant <> ?2",
                   "si", c->name, c->tenant);
    int rc = st ? db_step(c->s->writer, st, c->err) : -1;
    sqlite3_finalize(st);
    if (rc == 1)
        return err_set(c->err, ERR_CONFLICT,
                       "another tenant's adapter is public under this name");
    return rc;
}

static int set_flags(struct change *c, int is_public, int is_pinned)
{
    if (find_current(c) < 0)
        return -1;
    if (!c->was.is_known || c->was.is_deleted)
        return err_set(c->err, ERR_ADAPTER_NOT_FOUND, "%s",
                       err_text(ERR_ADAPTER_NOT_FOUND));
    if (is_public > 0 && check_public(c) < 0)
        return -1;
    return db_run(
        c->s->writer, c->err,
        "UPDATE adapters SET is_public = iif(?3 < 0, is_public, ?3 > 0),"
        "  is_pinned = iif(?4 < 0, is_pinned, ?4 > 0) WHERE tenant = ?1 AND name = ?2",
        "isii", c->tenant, c->name, (int64_t)is_public, (int64_t)is_pinned);
}

static int note_refusal(struct store *s, int64_t tenant, const char *name, const char *why,
                        int64_t until, struct err *err)
{
    if (why)
        return db_run(s->writer, err,
                      "INSERT INTO adapters (tenant, name, is_from_folder, refused, refused_until)"
                      "  VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT DO UPDATE SET"
                      "  refused = excluded.refused, refused_until = excluded.refused_until"
                      "  WHERE is_from_folder = ?3",
                      "isisi", tenant, name, (int64_t)STORE_FROM_FOLDER, why, until);
    if (db_run(s->writer, err,
               "DELETE FROM adapters WHERE tenant = ? AND name = ? AND " STORE_IS_ONLY_REFUSED,
               "is", tenant, name) < 0)
        return -1;
    return db_run(s->writer, err,
                  "UPDATE adapters SET refused = NULL WHERE tenant = ? AND name = ?", "is",
                  tenant, name);
}

int store_note_refusal(struct store *s, int64_t tenant, const char *name, const char *why,
                       int64_t until, struct err *err)
{
    if (!name_is_valid(name))
        return err_set(err, ERR_INTERNAL, "not a name");
    if (store_begin(s, err) < 0)
        return -1;
    return store_end(s, note_refusal(s, tenant, name, why, until, err), err);
}

int store_set_flags(struct store *s, int64_t tenant, const char *name, int is_public,
                    int is_pinned, struct err *err)
{
    struct change c = {.s = s, .tenant = tenant, .name = name, .err = err};
    if (store_begin(s, err) < 0)
        return -1;
    return store_end(s, set_flags(&c, is_public, is_pinned), err);
}

int store_note_compiled(struct store *s, int64_t tenant, const char *version,
                        const char *kind, int n_tokens, int n_tasks, double compile_ms,
                        struct err *err)
{
    const struct store_entry e = {.tenant = tenant,
                                  .version = version,
                                  .kind = kind,
                                  .n_tokens = n_tokens,
                                  .n_tasks = n_tasks,
                                  .compile_ms = compile_ms};
    if (store_begin(s, err) < 0)
        return -1;
    return store_end(s, note_compiled(s, &e, err), err);
}
