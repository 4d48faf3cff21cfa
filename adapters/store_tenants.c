/* Tenants: who they are and what they may have. */
#include "adapters/store_tenants.h"

#include <inttypes.h>
#include <string.h>
#include <time.h>

#include "adapters/name.h"
#include "adapters/store_parts.h"

enum { N_LIMITS = 7, FIRST_LIMIT = 5 };

struct limit {
    const char *name;
    int64_t by_default;
    size_t at; /* in struct tenant_limits */
};

static const struct limit limits[N_LIMITS] = {
#define XX(name, by_default, doc) {#name, by_default, offsetof(struct tenant_limits, name)},
    TENANT_LIMITS(XX)
#undef XX
};

static int64_t *limit_in(struct tenant_limits *l, int i)
{
    return (int64_t *)(void *)((char *)l + limits[i].at);
}

int64_t tenant_least_limit(const char *name)
{
    return strcmp(name, "max_queued") == 0 ? 0 : 1;
}

int tenant_check_name(const char *name, struct err *err)
{
    if (name_is_valid(name))
        return 0;
    return err_param(
        err, ERR_INVALID, "name",
        "a tenant's name is 1 to %d of A-Z a-z 0-9 . _ - and begins with a letter or "
        "a digit",
        TENANT_NAME_MAX);
}

static int check_weight(int64_t weight, struct err *err)
{
    if (weight >= 0 && weight <= TENANT_MAX_WEIGHT) /* 0: as it is */
        return 0;
    return err_param(err, ERR_INVALID, "weight", "weight must be " TENANT_WEIGHTS);
}

static int check_limits(const struct tenant_limits *set, struct err *err)
{
    struct tenant_limits l = *set;
    for (int i = 0; i < N_LIMITS; i++) {
        int64_t n = *limit_in(&l, i), least = tenant_least_limit(limits[i].name);
        if (n != -1 && n != INT64_MIN && (n < least || n > TENANT_MAX_LIMIT))
            return err_param(err, ERR_INVALID, limits[i].name,
                             "%s must be a whole number from %" PRId64 " to %" PRId64,
                             limits[i].name, least, TENANT_MAX_LIMIT);
    }
    return 0;
}

/* ---- rows ---------------------------------------------------------------------------- */

static void copy_name(char out[TENANT_NAME_MAX + 1], const char *name)
{
    size_t n = strnlen(name, TENANT_NAME_MAX);
    memcpy(out, name, n);
    out[n] = '\0';
}

void store_read_tenant(sqlite3_stmt *st, int first, struct tenant *out)
{
    memset(out, 0, sizeof *out);
    out->id = sqlite3_column_int64(st, first);
    copy_name(out->name, db_text(st, first + 1));
    out->created = sqlite3_column_int64(st, first + 2);
    out->weight = sqlite3_column_int64(st, first + 3);
    out->is_suspended = sqlite3_column_int(st, first + 4);
    for (int i = 0; i < N_LIMITS; i++) {
        int column = first + FIRST_LIMIT + i;
        bool is_set = sqlite3_column_type(st, column) != SQLITE_NULL;
        int64_t n = sqlite3_column_int64(st, column);
        *limit_in(&out->set, i) = is_set ? n : -1;
        *limit_in(&out->limits, i) = is_set ? n : limits[i].by_default;
    }
}

static int no_tenant(struct err *err)
{
    return err_set(err, ERR_NOT_FOUND, "there is no such tenant");
}

/* Finishes st. */
static int read_one(sqlite3 *db, sqlite3_stmt *st, struct tenant *out, struct err *err)
{
    int rc = st ? db_step(db, st, err) : -1;
    if (rc == 1)
        store_read_tenant(st, 0, out);
    sqlite3_finalize(st);
    return rc == 0 ? no_tenant(err) : rc < 0 ? -1 : 0;
}

int store_get_tenant(sqlite3 *db, const char *name, struct tenant *out, struct err *err)
{
    sqlite3_stmt *st = db_prepare(
        db, err, "SELECT " STORE_TENANT_COLUMNS " FROM tenants t WHERE t.name = ?", "s",
        name);
    return read_one(db, st, out, err);
}

int store_find_tenant(struct store *s, const char *name, struct tenant *out,
                      struct err *err)
{
    CHECK_ON_THREAD(s->owner);
    return store_get_tenant(s->reader, name, out, err);
}

int store_find_tenant_by_id(struct store *s, int64_t id, struct tenant *out,
                            struct err *err)
{
    CHECK_ON_THREAD(s->owner);
    sqlite3_stmt *st = db_prepare(
        s->reader, err, "SELECT " STORE_TENANT_COLUMNS " FROM tenants t WHERE t.id = ?",
        "i", id);
    return read_one(s->reader, st, out, err);
}

int store_find_former_tenant(struct store *s, const char *name, int64_t *id,
                             struct err *err)
{
    CHECK_ON_THREAD(s->owner);
    sqlite3_stmt *st = db_prepare(
        s->reader, err, "SELECT max(id) FROM former_tenants WHERE name = ? HAVING count(*)",
        "s", name);
    int rc = st ? db_step(s->reader, st, err) : -1;
    if (rc == 1)
        *id = sqlite3_column_int64(st, 0);
    sqlite3_finalize(st);
    return rc == 0 ? no_tenant(err) : rc < 0 ? -1 : 0;
}

int store_each_tenant(struct store *s, const char *after, size_t limit, bool *has_more,
                      void (*fn)(void *ud, const struct tenant *t), void *ud,
                      struct err *err)
{
    CHECK_ON_THREAD(s->owner);
    sqlite3_stmt *st = db_prepare(s->reader, err,
                                  "SELECT " STORE_TENANT_COLUMNS
                                  " FROM tenants t WHERE t.name > ? ORDER BY t.name",
                                  "s", after);
    struct tenant t;
    size_t n = 0;
    int rc = st ? 1 : -1;
    while (rc == 1 && (rc = db_step(s->reader, st, err)) == 1 && n++ < limit) {
        store_read_tenant(st, 0, &t);
        fn(ud, &t);
    }
    sqlite3_finalize(st);
    if (has_more)
        *has_more = rc == 1;
    return rc < 0 ? -1 : 0;
}

/* ---- changes ------------------------------------------------------------------------- */

static int set_limit(struct store *s, const struct tenant *t, int i, int64_t n,
                     struct err *err)
{
    struct buf sql = {0};
    if (n == INT64_MIN)
        return 0;
    buf_printf(&sql, "UPDATE tenants SET %s = nullif(?, -1) WHERE id = ?", limits[i].name);
    int rc = db_run(s->writer, err, sql.data, "ii", n, t->id);
    buf_free(&sql);
    return rc;
}

static int set_all(struct store *s, const char *name, int64_t weight,
                   const struct tenant_limits *set, struct tenant *out, struct err *err)
{
    struct tenant_limits l;
    int rc = store_get_tenant(s->writer, name, out, err);
    if (rc == 0 && weight > 0)
        rc = db_run(s->writer, err, "UPDATE tenants SET weight = ? WHERE id = ?", "ii",
                    weight, out->id);
    if (set)
        l = *set;
    for (int i = 0; rc == 0 && set && i < N_LIMITS; i++)
        rc = set_limit(s, out, i, *limit_in(&l, i), err);
    return rc < 0 ? -1 : store_get_tenant(s->writer, name, out, err);
}

static int add(struct store *s, const char *name, struct err *err)
{
    struct tenant t;
    struct err none = {0};
    if (store_get_tenant(s->writer, name, &t, &none) == 0)
        return err_set(err, ERR_CONFLICT, "there is a tenant \"%s\" already", name);
    if (none.code != ERR_NOT_FOUND)
        return err_set(err, none.code, "%s", none.msg);
    return db_run(s->writer, err, "INSERT INTO tenants (name, created) VALUES (?, ?)", "si",
                  name, (int64_t)time(NULL));
}

int store_add_tenant(struct store *s, const char *name, int64_t weight,
                     const struct tenant_limits *set, struct tenant *out, struct err *err)
{
    struct tenant t;
    if (tenant_check_name(name, err) < 0 || check_weight(weight, err) < 0 ||
        (set && check_limits(set, err) < 0) || store_begin(s, err) < 0)
        return -1;
    int rc = add(s, name, err);
    if (rc == 0)
        rc = set_all(s, name, weight, set, out ? out : &t, err);
    return store_end(s, rc, err);
}

int store_set_tenant(struct store *s, const char *name, int64_t weight,
                     const struct tenant_limits *set, struct tenant *out, struct err *err)
{
    struct tenant t;
    if (check_weight(weight, err) < 0 || (set && check_limits(set, err) < 0) ||
        store_begin(s, err) < 0)
        return -1;
    return store_end(s, set_all(s, name, weight, set, out ? out : &t, err), err);
}

int store_suspend_tenant(struct store *s, const char *name, bool is_suspended,
                         struct tenant *out, struct err *err)
{
    struct tenant t;
    if (store_begin(s, err) < 0)
        return -1;
    int rc = db_run(s->writer, err, "UPDATE tenants SET is_suspended = ? WHERE name = ?",
                    "is", (int64_t)is_suspended, name);
    if (rc == 0)
        rc = store_get_tenant(s->writer, name, out ? out : &t, err);
    return store_end(s, rc, err);
}

/* ---- removing ------------------------------------------------------------------------ */

static int remove_rows(struct store *s, const char *name, struct err *err)
{
    static const char *const sql[] = {
        "DELETE FROM versions WHERE tenant = ?", "DELETE FROM adapters WHERE tenant = ?",
        "DELETE FROM keys WHERE tenant = ?", "DELETE FROM tenants WHERE id = ?"};
    struct tenant t;
    int rc = store_get_tenant(s->writer, name, &t, err);
    if (rc == 0)
        rc = db_run(s->writer, err, "INSERT INTO former_tenants VALUES (?, ?, ?)", "isi",
                    t.id, t.name, (int64_t)time(NULL));
    for (size_t i = 0; rc == 0 && i < sizeof sql / sizeof sql[0]; i++)
        rc = db_run(s->writer, err, sql[i], "i", t.id);
    return rc;
}

/* A part of them in each change, so that others can come between. */
static void collect_all(struct store *s)
{
    while (store_collect_now(s))
        ;
}

int store_remove_tenant(struct store *s, const char *name, struct err *err)
{
    if (strcmp(name, STORE_DEFAULT_TENANT_NAME) == 0)
        return err_set(err, ERR_INVALID, "the tenant \"%s\" cannot be removed", name);
    if (store_begin(s, err) < 0)
        return -1;
    int rc = store_end(s, remove_rows(s, name, err), err);
    if (rc == 0)
        collect_all(s);
    return rc;
}
