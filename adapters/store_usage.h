/* What tenants have used, in the registry. Threads and processes as in store.h.
 *
 * Rows are per hour, tenant, key and adapter, and are added to: whoever counts keeps what is new in memory
 * and adds it every second. */
#ifndef PREFIXD_STORE_USAGE_H
#define PREFIXD_STORE_USAGE_H

#include <stddef.h>
#include <stdint.h>

#include "adapters/store.h"

/* name; JSON key as well */
#define USAGE_COUNTERS(XX) XX(requests) XX(prompt_tokens) XX(cached_tokens) XX(virtual_tokens) XX(generated_tokens)

struct usage_counters {
#define XX(name) int64_t name;
    USAGE_COUNTERS(XX)
#undef XX
};

struct usage_row {
    int64_t hour;        /* Unix seconds of its start; 0 where it was not grouped by */
    int64_t tenant, key; /* ids; key 0: none, or a key of the key file */
    const char *adapter; /* name; "": the base */
    /* when reading, if grouped by tenant: "" if nobody knows it any more */
    const char *tenant_name;
    int64_t removed; /* Unix seconds of the tenant's end; 0: it is there */
    struct usage_counters n;
};

enum usage_group { /* bits */
    USAGE_BY_TENANT = 1,
    USAGE_BY_KEY = 2,
    USAGE_BY_ADAPTER = 4,
    USAGE_BY_HOUR = 8,
    USAGE_BY_DAY = 16, /* hour is the day's start, UTC */
};

struct usage_query {
    int64_t tenant;     /* 0: all */
    int64_t start, end; /* of hours that begin in [start, end); end 0: of all from start on */
    unsigned group_by;
    size_t limit;                  /* at most so many rows */
    const struct usage_row *after; /* the last row of the page before; NULL: from the first */
};

int store_add_usage(struct store *s, const struct usage_row *rows, size_t n, struct err *err);

/* Sums, in order of what it is grouped by. What it is not grouped by is 0 or "". */
int store_each_usage(struct store *s, const struct usage_query *q, bool *has_more,
                     void (*fn)(void *ud, const struct usage_row *r), void *ud,
                     struct err *err);

#endif
