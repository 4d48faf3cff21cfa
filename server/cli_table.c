/* Columns as wide as their widest cell. */
#include "server/cli_table.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "core/base/check.h"

enum { MAX_COLUMNS = 16, GAP = 2 };

static void measure(int widths[MAX_COLUMNS], const char *rows)
{
    for (int column = 0; *rows;) {
        int len = (int)strcspn(rows, "\t\n");
        CHECK(column < MAX_COLUMNS);
        if (len > widths[column])
            widths[column] = len;
        rows += len;
        column = *rows == '\t' ? column + 1 : 0;
        rows += *rows != '\0';
    }
}

void cli_table(struct buf *out, const char *rows)
{
    int widths[MAX_COLUMNS] = {0};
    measure(widths, rows);
    for (int column = 0; *rows;) {
        int len = (int)strcspn(rows, "\t\n");
        bool is_last = rows[len] != '\t';
        buf_printf(out, "%-*.*s", is_last ? 0 : widths[column] + GAP, len, rows);
        if (is_last)
            buf_add_char(out, '\n');
        rows += len + (rows[len] != '\0');
        column = is_last ? 0 : column + 1;
    }
}

int cli_table_list(struct buf *out, struct buf *rows, bool is_json, int rc)
{
    if (rc == 0 && is_json)
        buf_printf(out, "[%s]\n", rows->data ? rows->data : "");
    else if (rc == 0)
        cli_table(out, rows->data);
    buf_free(rows);
    return rc;
}

const char *cli_table_time(char text[CLI_TABLE_TIME_MAX], int64_t seconds)
{
    struct tm tm;
    time_t t = (time_t)seconds;
    if (seconds == 0 || !gmtime_r(&t, &tm))
        snprintf(text, CLI_TABLE_TIME_MAX, "-");
    else
        strftime(text, CLI_TABLE_TIME_MAX, "%Y-%m-%dT%H:%M:%SZ", &tm);
    return text;
}
