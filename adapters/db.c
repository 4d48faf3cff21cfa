/* Statements and transactions of the registry's database. */
#include "adapters/db.h"

#include <stdarg.h>
#include <stdint.h>

#include "core/base/check.h"

int db_failed(sqlite3 *db, struct err *err)
{
    return err_set(err, ERR_IO, "the registry in the state folder: %s",
                   sqlite3_errstr(sqlite3_extended_errcode(db)));
}

int db_exec(sqlite3 *db, const char *sql, struct err *err)
{
    return sqlite3_exec(db, sql, NULL, NULL, NULL) == SQLITE_OK ? 0 : db_failed(db, err);
}

static void bind_one(sqlite3_stmt *st, int i, char type, va_list *ap)
{
    const void *bytes;
    switch (type) {
    case 's':
        sqlite3_bind_text(st, i, va_arg(*ap, const char *), -1, SQLITE_STATIC);
        break;
    case 'i':
        sqlite3_bind_int64(st, i, va_arg(*ap, int64_t));
        break;
    case 'd':
        sqlite3_bind_double(st, i, va_arg(*ap, double));
        break;
    case 'b':
        bytes = va_arg(*ap, const void *);
        sqlite3_bind_blob64(st, i, bytes, (sqlite3_uint64)va_arg(*ap, int64_t),
                            SQLITE_STATIC);
        break;
    default:
        CHECK(type == 'n');
    }
}

static void vbind(sqlite3_stmt *st, const char *types, va_list *ap)
{
    for (int i = 1; types[i - 1]; i++)
        bind_one(st, i, types[i - 1], ap);
}

/* NULL + err. */
static sqlite3_stmt *vprepare(sqlite3 *db, struct err *err, const char *sql,
                              const char *types, va_list *ap)
{
    sqlite3_stmt *st = NULL;
    if (sqlite3_prepare_v2(db, sql, -1, &st, NULL) != SQLITE_OK) {
        db_failed(db, err);
        return NULL;
    }
    vbind(st, types, ap);
    return st;
}

sqlite3_stmt *db_prepare(sqlite3 *db, struct err *err, const char *sql, const char *types,
                         ...)
{
    va_list ap;
    va_start(ap, types);
    sqlite3_stmt *st = vprepare(db, err, sql, types, &ap);
    va_end(ap);
    return st;
}

sqlite3_stmt *db_keep(sqlite3 *db, const char *sql, struct err *err)
{
    sqlite3_stmt *st = NULL;
    if (sqlite3_prepare_v3(db, sql, -1, SQLITE_PREPARE_PERSISTENT, &st, NULL) != SQLITE_OK)
        db_failed(db, err);
    return st;
}

void db_bind(sqlite3_stmt *st, const char *types, ...)
{
    va_list ap;
    CHECK(!sqlite3_stmt_busy(st));
    va_start(ap, types);
    vbind(st, types, &ap);
    va_end(ap);
}

int db_step(sqlite3 *db, sqlite3_stmt *st, struct err *err)
{
    int rc = sqlite3_step(st);
    return rc == SQLITE_ROW ? 1 : rc == SQLITE_DONE ? 0 : db_failed(db, err);
}

int db_run(sqlite3 *db, struct err *err, const char *sql, const char *types, ...)
{
    va_list ap;
    va_start(ap, types);
    sqlite3_stmt *st = vprepare(db, err, sql, types, &ap);
    va_end(ap);
    if (!st)
        return -1;
    int rc = db_step(db, st, err);
    sqlite3_finalize(st);
    return rc < 0 ? -1 : 0;
}

const char *db_text(sqlite3_stmt *st, int column)
{
    const unsigned char *s = sqlite3_column_text(st, column);
    return s ? (const char *)s : "";
}

int db_begin(sqlite3 *db, struct err *err)
{
    return db_exec(db, "BEGIN IMMEDIATE", err);
}

int db_end(sqlite3 *db, int rc, struct err *err)
{
    if (rc == 0)
        rc = db_exec(db, "COMMIT", err);
    if (rc < 0 && !sqlite3_get_autocommit(db))
        db_exec(db, "ROLLBACK", NULL);
    return rc;
}
