/* Parameters of lists and flags in the query of a path.
 *
 * Thread: loop. */
#ifndef PREFIXD_PAGING_H
#define PREFIXD_PAGING_H

#include "core/base/buf.h"
#include "core/base/err.h"

#include <stdbool.h>

enum { PAGING_MAX = 1000 };

struct http_req;

struct paging {
    int limit;         /* PAGING_MAX unless the client says less */
    const char *after; /* "" if not given; lives as long as the request */
};

/* ?limit=1..1000 and ?after=. */
int paging_parse(struct paging *p, const struct http_req *r, struct err *err);

/* ?name, ?name=1, ?name=true; =0 and =false; false if absent. */
int paging_flag(const struct http_req *r, const char *name, bool *on, struct err *err);

/* An answer that is a list: opened, then paging_next before each item, then closed. */
void paging_open_list(struct buf *json);
void paging_next(struct buf *json);
void paging_close_list(struct buf *json, bool has_more);

#endif
