/* Reading names and versions. What requests ask for is prepared once, and reset after each
 * use. */
#include "adapters/store.h"

#include "adapters/name.h"
#include "adapters/store_parts.h"

/* of adapters a, in the order of read_entry */
#define ENTRY_WITH(refused)                                                                \
    "SELECT a.tenant, a.name AS name, a.current, a.is_public, a.is_pinned, "               \
    "a.is_from_folder,"                                                                    \
    "  v.kind, v.base_hint, v.created, v.n_tokens, v.n_tasks, v.compile_ms, b.bytes,"      \
    "  " refused ", a.refused_until"                                                       \
    "  FROM adapters a"                                                                    \
    "  LEFT JOIN versions v ON v.tenant = a.tenant AND v.name = a.name AND v.digest = "    \
    "a.current"                                                                            \
    "  LEFT JOIN blobs b ON b.tenant = a.tenant AND b.digest = a.current "
#define ENTRY ENTRY_WITH("a.refused")

/* Of another tenant's, what can be used; a refusal speaks of its owner's files and limits. */
#define PUBLIC_ENTRY                                                                       \
    ENTRY_WITH("NULL") "WHERE a.is_public AND a.current IS NOT NULL AND a.tenant <> ?1 "

#define OWN "WHERE a.tenant = ?1 AND a.name = ?2 "

/* A name that only is refused stands before a public one of this name until its files change,
 * but not if that passes by itself. */
#define STANDS(a)                                                                          \
    "(" a ".current IS NOT NULL OR (" a ".refused IS NOT NULL AND " a ".refused_until = 0)) "
#define GIVES_WAY "(a.current IS NULL AND a.refused IS NOT NULL AND a.refused_until <> 0) "

/* Strings are the statement's, until its next step. */
static void read_entry(sqlite3_stmt *st, struct store_entry *e)
{
    *e = (struct store_entry){
        .tenant = sqlite3_column_int64(st, 0),
        .name = db_text(st, 1),
        .version = db_text(st, 2),
        .is_public = sqlite3_column_int(st, 3),
        .is_pinned = sqlite3_column_int(st, 4),
        .is_from_folder = sqlite3_column_int(st, 5) == STORE_FROM_FOLDER,
        .kind = db_text(st, 6),
        .base_hint = (const char *)sqlite3_column_text(st, 7),
        .created = sqlite3_column_int64(st, 8),
        .n_tokens = sqlite3_column_int(st, 9),
        .n_tasks = sqlite3_column_int(st, 10),
        .compile_ms = sqlite3_column_double(st, 11),
        .bytes = sqlite3_column_int64(st, 12),
        .refused = (const char *)sqlite3_column_text(st, 13),
        .refused_until = sqlite3_column_int64(st, 14),
    };
    e->is_damaged = e->version[0] && !blobs_is_digest(e->version);
    if (e->is_damaged)
        e->version = "";
}

int store_keep_entry_statements(struct store *s, struct err *err)
{
    /* All parts are looked up always, whatever the first found. */
    static const char find[] = ENTRY OWN "AND " STANDS("a") "UNION ALL " PUBLIC_ENTRY
        "AND a.name = ?2 UNION ALL " ENTRY OWN "AND " GIVES_WAY;
    s->find = db_keep(s->reader, find, err);
    s->find_own = s->find ? db_keep(s->reader, ENTRY OWN, err) : NULL;
    return s->find_own ? 0 : -1;
}

/* Calls fn with the first row, and goes through all. */
static int find_with(struct store *s, sqlite3_stmt *st, int64_t tenant, const char *name,
                     void (*fn)(void *ud, const struct store_entry *e), void *ud,
                     struct err *err)
{
    struct store_entry e;
    db_bind(st, "is", tenant, name);
    int n = 0, rc;
    while ((rc = db_step(s->reader, st, err)) == 1) {
        if (n++ > 0)
            continue;
        read_entry(st, &e);
        fn(ud, &e);
    }
    sqlite3_reset(st);
    return rc < 0 ? -1 : n > 0;
}

int store_find(struct store *s, int64_t tenant, const char *name,
               void (*fn)(void *ud, const struct store_entry *e), void *ud, struct err *err)
{
    CHECK_ON_THREAD(s->owner);
    return find_with(s, s->find, tenant, name, fn, ud, err);
}

int store_find_own(struct store *s, int64_t tenant, const char *name,
                   void (*fn)(void *ud, const struct store_entry *e), void *ud,
                   struct err *err)
{
    CHECK_ON_THREAD(s->owner);
    return find_with(s, s->find_own, tenant, name, fn, ud, err);
}

/* Finishes st. At most limit rows; *has_more (may be NULL) if there is another. */
static int each_entry(struct store *s, sqlite3_stmt *st, size_t limit, bool *has_more,
                      void (*fn)(void *ud, const struct store_entry *e), void *ud,
                      struct err *err)
{
    struct store_entry e;
    size_t n = 0;
    int rc = st ? 1 : -1;
    while (rc == 1 && (rc = db_step(s->reader, st, err)) == 1 && n < limit) {
        read_entry(st, &e);
        if (!name_is_valid(e.name))
            continue;
        n++;
        fn(ud, &e);
    }
    sqlite3_finalize(st);
    if (has_more)
        *has_more = rc == 1;
    return rc < 0 ? -1 : 0;
}

int store_each(struct store *s, int64_t tenant, const char *after, size_t limit,
               bool *has_more, void (*fn)(void *ud, const struct store_entry *e), void *ud,
               struct err *err)
{
    CHECK_ON_THREAD(s->owner);
    static const char sql[] = ENTRY
        "WHERE a.tenant = ?1 AND a.name > ?2 AND (" STANDS("a") "OR (" GIVES_WAY
        "  AND NOT EXISTS (SELECT 1 FROM adapters p WHERE p.is_public AND p.name = a.name"
        "    AND p.tenant <> ?1 AND p.current IS NOT NULL))) UNION ALL " PUBLIC_ENTRY
        "  AND a.name > ?2 AND NOT EXISTS (SELECT 1 FROM adapters o"
        "    WHERE o.tenant = ?1 AND o.name = a.name AND " STANDS("o") ") ORDER BY name";
    sqlite3_stmt *st = db_prepare(s->reader, err, sql, "is", tenant, after);
    return each_entry(s, st, limit, has_more, fn, ud, err);
}

int store_each_all(struct store *s, void (*fn)(void *ud, const struct store_entry *e),
                   void *ud, struct err *err)
{
    CHECK_ON_THREAD(s->owner);
    sqlite3_stmt *st = db_prepare(s->reader, err, ENTRY "ORDER BY a.tenant, a.name", "");
    return each_entry(s, st, SIZE_MAX, NULL, fn, ud, err);
}

/* ---- versions ------------------------------------------------------------------------ */

#define VERSION                                                                            \
    "SELECT v.digest, v.kind, v.created, v.number, b.bytes, v.n_tokens, v.n_tasks"         \
    "  FROM versions v LEFT JOIN blobs b ON b.tenant = v.tenant AND b.digest = v.digest"   \
    "  WHERE v.tenant = ?1 AND v.name = ?2 "

/* Finishes st; how many there were. */
static int each_version(struct store *s, sqlite3_stmt *st,
                        void (*fn)(void *ud, const struct store_version *v), void *ud,
                        struct err *err)
{
    int n = 0, rc = st ? 1 : -1;
    while (rc == 1 && (rc = db_step(s->reader, st, err)) == 1) {
        const struct store_version v = {.digest = db_text(st, 0),
                                        .kind = db_text(st, 1),
                                        .created = sqlite3_column_int64(st, 2),
                                        .number = sqlite3_column_int64(st, 3),
                                        .bytes = sqlite3_column_int64(st, 4),
                                        .n_tokens = sqlite3_column_int(st, 5),
                                        .n_tasks = sqlite3_column_int(st, 6)};
        if (!blobs_is_digest(v.digest))
            continue;
        n++;
        fn(ud, &v);
    }
    sqlite3_finalize(st);
    return rc < 0 ? -1 : n;
}

int store_each_version(struct store *s, int64_t tenant, const char *name,
                       void (*fn)(void *ud, const struct store_version *v), void *ud,
                       struct err *err)
{
    CHECK_ON_THREAD(s->owner);
    sqlite3_stmt *st =
        db_prepare(s->reader, err, VERSION "ORDER BY v.number DESC", "is", tenant, name);
    return each_version(s, st, fn, ud, err) < 0 ? -1 : 0;
}

int store_find_version(struct store *s, int64_t tenant, const char *name,
                       const char *version,
                       void (*fn)(void *ud, const struct store_version *v), void *ud,
                       struct err *err)
{
    CHECK_ON_THREAD(s->owner);
    sqlite3_stmt *st = db_prepare(s->reader, err, VERSION "AND v.digest = ?3", "iss",
                                  tenant, name, version);
    return each_version(s, st, fn, ud, err);
}
