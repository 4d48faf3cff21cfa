/* Tables for people: columns that line up, and times that can be read.
 *
 * Thread: any.
 *
 *     buf_printf(&rows, "NAME\tWEIGHT\n%s\t%d\n", name, weight);
 *     cli_table(out, rows.data);
 */
#ifndef PREFIXD_CLI_TABLE_H
#define PREFIXD_CLI_TABLE_H

#include <stdbool.h>
#include <stdint.h>

#include "core/base/buf.h"

enum { CLI_TABLE_TIME_MAX = 32 };

/* rows: lines of cells with tabs between, at most 16 in a line. */
void cli_table(struct buf *out, const char *rows);

/* A list that was gone through with rc: as a table, or in JSON, when rows are objects with
 * commas between. Frees rows; gives rc. */
int cli_table_list(struct buf *out, struct buf *rows, bool is_json, int rc);

/* "2027-01-31T00:00:00Z", or "-" for 0. */
const char *cli_table_time(char text[CLI_TABLE_TIME_MAX], int64_t seconds);

#endif
