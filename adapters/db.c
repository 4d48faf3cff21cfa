/* Statements and transactions of the registry's database. */
#include "adapters/db.h"

#include <stdarg.h>
#include <string.h>

int db_failed(sqlite3 *db, struct err *err)
{
    return err_set(err, ERR_IO, "the registry in the state folder: %s",
                   sqlite3_errstr(sqlite3_extended_errcode(db)));
}

int db_exec(sqlite3 *db, const char *sql, struct err *err)
{
    return sqlite3_exec(db, sql, NULL, NULL, NULL) == SQLITE_OK ? 0 : db_failed(db, err);
}

/* types has a letter for each parameter: s for a string, which must outlive the statement,
 * i for an int64_t. NULL + err. */
static sqlite3_stmt *vprepare(sqlite3 *db, struct err *err, const char *sql,
                              const char *types, va_list ap)
{
    sqlite3_stmt *st = NULL;
    if (sqlite3_prepare_v2(db, sql, -1, &st, NULL) != SQLITE_OK) {
        db_failed(db, err);
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

sqlite3_stmt *db_prepare(sqlite3 *db, struct err *err, const char *sql,
                             const char *types, ...)
{
    va_list ap;
    va_start(ap, types);
    sqlite3_stmt *st = vprepare(db, err, sql, types, ap);
    va_end(ap);
    return st;
}

/* 1: there is a row; 0: no more. */
int db_step(sqlite3 *db, sqlite3_stmt *st, struct err *err)
{
    int rc = sqlite3_step(st);
    return rc == SQLITE_ROW ? 1 : rc == SQLITE_DONE ? 0 : db_failed(db, err);
}

int db_run(sqlite3 *db, struct err *err, const char *sql, const char *types, ...)
{
    va_list ap;
    va_start(ap, types);
    sqlite3_stmt *st = vprepare(db, err, sql, types, ap);
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

/* 1 if the query has a row, with its first column as a version or "". */
int db_find_version(sqlite3 *db, char version[DIGEST_HEX + 1], struct err *err,
                        const char *sql, const char *name)
{
    sqlite3_stmt *st = db_prepare(db, err, sql, "s", name);
    if (!st)
        return -1;
    int rc = db_step(db, st, err);
    version[0] = '\0';
    if (rc == 1 && blobs_is_digest(db_text(st, 0)))
        memcpy(version, db_text(st, 0), DIGEST_HEX + 1);
    sqlite3_finalize(st);
    return rc;
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
