/* A strict look at JSON bytes before cJSON parses them: cJSON cuts strings at NUL, lets bad UTF-8 pass,
 * keeps the first of duplicate keys and turns every number into a double.
 *
 * Thread: any. Refuses what RFC 8259 does not allow, and besides: bytes that are no UTF-8, U+0000 and
 * lone surrogates in strings, duplicate keys of one object (compared after unescaping), nesting beyond
 * max_depth, more than max_items values, anything after the value but white space, a byte order mark.
 * Linear in time (n log n per object); memory grows only with the keys of open objects.
 *
 *     struct json_limits lim = {.max_len = 1 << 20, .max_depth = 16, .max_items = 100000};
 *     if (json_check(body, len, &lim, err) < 0) return -1;
 *     cJSON *root = cJSON_ParseWithLength(body, len);
 */
#ifndef PREFIXD_JSON_CHECK_H
#define PREFIXD_JSON_CHECK_H

#include "core/base/err.h"

#include <stdbool.h>
#include <stddef.h>

struct json_limits {
    size_t max_len;     /* bytes */
    int max_depth;      /* nested arrays and objects */
    size_t max_items;   /* values in all */
    bool integers_only; /* numbers are plain non-negative decimals below 2^53: no sign, point, exponent */
};

/* 0 if fine; -1 with ERR_INVALID and the byte offset in the message. */
int json_check(const char *text, size_t len, const struct json_limits *lim, struct err *err);

#endif
