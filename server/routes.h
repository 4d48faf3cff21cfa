/* Which handler answers which method and path.
 *
 * Thread: any; pure.
 *
 *     struct route_match m;
 *     if (routes_find(&m, "GET", "/v1/models/support", &err) < 0) -> 404, or 405 with
 * m.allow m.route->handle(x) with m.args[0] = "support"
 */
#ifndef PREFIXD_ROUTES_H
#define PREFIXD_ROUTES_H

#include "core/base/err.h"
#include "server/exchange.h"

#include <stdbool.h>

enum route_body {
    ROUTE_NO_BODY,
    ROUTE_JSON,   /* application/json, or anything curl -d sends that is JSON */
    ROUTE_UPLOAD, /* the files of an adapter: multipart/form-data or JSON */
};

struct route {
    const char *method, *pattern; /* {} is one segment, {*} the rest of the path */
    enum exchange_result (*handle)(struct exchange *x);
    enum route_body body;
    bool is_open;       /* needs no key */
    bool is_completion; /* handle is the first of the steps to the engine */
    bool is_change;     /* of adapters: not for keys that may only use them */
    bool is_admin;      /* for administrators alone */
};

enum { ROUTE_MAX_ARGS = 2, ROUTE_ARG_MAX = 256 };

struct route_match {
    const struct route *route;
    char args[ROUTE_MAX_ARGS][ROUTE_ARG_MAX];
    char allow[64]; /* methods of the path, also on -1 with ERR_METHOD */
};

/* HEAD finds what GET finds. */
int routes_find(struct route_match *m, const char *method, const char *path,
                struct err *err);

#endif
