/* How many sequences of every domain wait: what the queue's bound is checked against.
 *
 * Guarded by its owner's lock. */
#ifndef PREFIXD_BACKLOG_H
#define PREFIXD_BACKLOG_H

#include <stdint.h>

struct backlog_entry {
    uint32_t domain;
    int n;
};

struct backlog {
    struct backlog_entry *entries;
    int n_entries, n_allocated;
};

void backlog_clear(struct backlog *b);
void backlog_fini(struct backlog *b);

int backlog_add(struct backlog *b, uint32_t domain, int n); /* gives n */
int backlog_of(const struct backlog *b, uint32_t domain);

#endif
