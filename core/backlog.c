/* How many sequences of every domain wait. */
#include "core/backlog.h"

#include "core/base/mem.h"

#include <stdlib.h>

static struct backlog_entry *find(const struct backlog *b, uint32_t domain)
{
    for (int i = 0; i < b->n_entries; i++)
        if (b->entries[i].domain == domain)
            return &b->entries[i];
    return NULL;
}

void backlog_clear(struct backlog *b)
{
    b->n_entries = 0;
}

void backlog_fini(struct backlog *b)
{
    free(b->entries);
    *b = (struct backlog){0};
}

int backlog_add(struct backlog *b, uint32_t domain, int n)
{
    struct backlog_entry *e = n ? find(b, domain) : NULL;
    if (e) {
        e->n += n;
    } else if (n) {
        if (b->n_entries == b->n_allocated) {
            b->n_allocated = b->n_allocated ? 2 * b->n_allocated : 16;
            b->entries = xrealloc(b->entries, (size_t)b->n_allocated * sizeof *b->entries);
        }
        b->entries[b->n_entries++] = (struct backlog_entry){domain, n};
    }
    return n;
}

int backlog_of(const struct backlog *b, uint32_t domain)
{
    const struct backlog_entry *e = find(b, domain);
    return e ? e->n : 0;
}
