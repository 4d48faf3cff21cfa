/* Reading limit, after and flags. */
#include "server/paging.h"

#include "server/http.h"

#include <string.h>

static int parse_limit(const char *s, struct err *err)
{
    size_t n = strspn(s, "0123456789");
    int limit = 0;
    for (size_t i = 0; i < n && limit <= PAGING_MAX; i++)
        limit = limit * 10 + (s[i] - '0');
    if (n > 0 && !s[n] && limit >= 1 && limit <= PAGING_MAX)
        return limit;
    return err_param(err, ERR_INVALID, "limit", "limit has to be a number from 1 to %d",
                     PAGING_MAX);
}

int paging_parse(struct paging *p, const struct http_req *r, struct err *err)
{
    const char *limit = http_query(r, "limit"), *after = http_query(r, "after");
    *p = (struct paging){.limit = PAGING_MAX, .after = after ? after : ""};
    if (limit)
        p->limit = parse_limit(limit, err);
    return p->limit < 0 ? -1 : 0;
}

int paging_flag(const struct http_req *r, const char *name, bool *on, struct err *err)
{
    const char *s = http_query(r, name);
    *on = s && (!*s || strcmp(s, "1") == 0 || strcmp(s, "true") == 0);
    if (!s || *on || strcmp(s, "0") == 0 || strcmp(s, "false") == 0)
        return 0;
    return err_param(err, ERR_INVALID, name, "%s has to be 1 or 0", name);
}

void paging_open_list(struct buf *json)
{
    buf_add_str(json, "{\"object\":\"list\",\"data\":[");
}

void paging_next(struct buf *json)
{
    if (json->data[json->len - 1] != '[')
        buf_add_char(json, ',');
}

void paging_close_list(struct buf *json, bool has_more)
{
    buf_printf(json, "],\"has_more\":%s}", has_more ? "true" : "false");
}
