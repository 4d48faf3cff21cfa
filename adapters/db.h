/* Statements and transactions of the registry's database, for the store's own files alone.
 *
 * Thread: that of the connection. A parameter's type is a letter: s for a string, which
 * must outlive the statement; i for an int64_t; d for a double; b for a blob, as const void
 * * and int64_t length; n for NULL.
 *
 *     sqlite3_stmt *st = db_prepare(db, err, "SELECT a FROM t WHERE name = ?", "s", name);
 *     while (st && db_step(db, st, err) == 1) use(db_text(st, 0));
 *     sqlite3_finalize(st);
 */
#ifndef PREFIXD_DB_H
#define PREFIXD_DB_H

#include <sqlite3.h>

#include "core/base/err.h"

int db_failed(sqlite3 *db, struct err *err); /* -1 with ERR_IO and SQLite's reason */
int db_exec(sqlite3 *db, const char *sql, struct err *err);
sqlite3_stmt *db_prepare(sqlite3 *db, struct err *err, const char *sql, const char *types,
                         ...);
int db_step(sqlite3 *db, sqlite3_stmt *st,
            struct err *err); /* 1: there is a row; 0: no more */
int db_run(sqlite3 *db, struct err *err, const char *sql, const char *types, ...);

/* One that is prepared once and kept: bound before each use, and reset after it, so that it
 * holds no read transaction. It cannot be used while it is in use. */
sqlite3_stmt *db_keep(sqlite3 *db, const char *sql, struct err *err);
void db_bind(sqlite3_stmt *st, const char *types, ...);

const char *db_text(sqlite3_stmt *st, int column); /* "" for NULL */

/* A change is one transaction, which nobody else's can come between: end commits if rc is
 * 0. */
int db_begin(sqlite3 *db, struct err *err);
int db_end(sqlite3 *db, int rc, struct err *err);

#endif
