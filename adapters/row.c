/* Copying an entry of the store. */
#include "adapters/row.h"

#include <stdio.h>

void row_take(void *row, const struct store_entry *e)
{
    struct row *r = row;
    r->entry = *e;
    snprintf(r->name, sizeof r->name, "%s", e->name);
    snprintf(r->version, sizeof r->version, "%s", e->version);
    snprintf(r->kind, sizeof r->kind, "%s", e->kind ? e->kind : "");
    snprintf(r->base_hint, sizeof r->base_hint, "%s", e->base_hint ? e->base_hint : "");
    r->entry.name = r->name;
    r->entry.version = r->version;
    r->entry.kind = r->kind;
    r->entry.base_hint = r->base_hint[0] ? r->base_hint : NULL;
    snprintf(r->refused, sizeof r->refused, "%s", e->refused ? e->refused : "");
    r->entry.refused = e->refused ? r->refused : NULL;
}

bool row_is_there(const struct row *row)
{
    return row->version[0] || row->entry.is_damaged || row->entry.refused;
}
