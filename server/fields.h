/* A request's JSON object of a few known fields, texts and whole numbers.
 *
 * Thread: loop.
 *
 *     struct field f[] = {{.name = "name", .kind = FIELD_TEXT},
 *                         {.group = "limits", .name = "max_queued", .kind = FIELD_NUMBER}};
 *     if (fields_parse(x, f, 2, &err) < 0) -> 400; f[1].number from {"limits": {...}}
 */
#ifndef PREFIXD_FIELDS_H
#define PREFIXD_FIELDS_H

#include "core/base/err.h"

#include <stdbool.h>
#include <stdint.h>

enum field_kind { FIELD_TEXT, FIELD_NUMBER };

struct exchange;

struct field {
    const char *group; /* the object it stands in; NULL: the outermost */
    const char *name;
    enum field_kind kind;
    /* what came */
    bool is_given, is_null;
    const char *text; /* in the exchange's arena */
    int64_t number;   /* from 0 to 2^53 */
};

/* ERR_INVALID for anything else than these. */
int fields_parse(struct exchange *x, struct field *fields, int n, struct err *err);

#endif
