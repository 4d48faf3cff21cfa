/* A copy of what the store says about a name, for as long as it is needed.
 *
 * Thread: one at a time. The strings of entry lie in the row itself, so a row is filled in
 * place and never copied.
 *
 *     struct row row;
 *     if (store_find(store, tenant, name, row_take, &row, &err) == 1) use(row.entry.version);
 */
#ifndef PREFIXD_ROW_H
#define PREFIXD_ROW_H

#include "adapters/adapters.h"

enum { ROW_KIND_SIZE = 32, ROW_HINT_SIZE = 520 };

struct row {
    struct store_entry entry;
    char name[ADAPTER_NAME_MAX + 1];
    char version[DIGEST_HEX + 1];
    char kind[ROW_KIND_SIZE];
    char base_hint[ROW_HINT_SIZE];
    char refused[ERR_MSG_SIZE];
};

/* Not one that is remembered as deleted. */
bool row_is_there(const struct row *row);

void row_take(void *row, const struct store_entry *e);

#endif
