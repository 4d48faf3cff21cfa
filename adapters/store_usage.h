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
    const char *tenant_name; /* when reading: "" where it is gone or was not grouped by */
    struct usage_counters n;
};

enum usage_group { /* bits */
    USAGE_BY_TENANT = 1,
    USAGE_BY_KEY = 2,
    USAGE_BY_ADAPTER = 4,
    USAGE_BY_HOUR = 8,
    USAGE_BY_DAY = 16, /* hour is the day's start, UTC */
};

int store_add_usage(struct store *s, const struct usage_row *rows, size_t n, struct err *err);

/* Sums of hours that begin in [start, end), end 0: all; tenant 0: all tenants. In order of what it is grouped by.
 * What it is not grouped by is 0 or "". At most limit rows; *has_more. */
int store_each_usage(struct store *s, int64_t tenant, int64_t start, int64_t end, unsigned group_by,
                     size_t limit, bool *has_more, void (*fn)(void *ud, const struct usage_row *r),
                     void *ud, struct err *err);

#endif
