/* Usage asked for over a time, summed up by what the query groups it by.
 *
 * Thread: loop; sum_up on the pool, with a connection of its own: rows of years may have to
 * be read, and the loop waits for nobody. */
#include "server/usage_api.h"

#include "adapters/store_tenants.h"
#include "adapters/store_usage.h"
#include "core/base/json_out.h"
#include "server/date.h"
#include "server/http.h"
#include "server/offload.h"
#include "server/paging.h"
#include "server/server.h"
#include "server/usage.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { HOUR = 3600, MAX_DIGITS = 15, NEXT_MAX = 160 };

struct usage_question {
    const char *state_dir;
    struct usage_query query;
    bool has_start, has_end;
    struct usage_row after; /* of query */
    int n;
    char next[NEXT_MAX]; /* after which row the next page begins */
    struct buf json;     /* the answer */
};

/* ---- what is asked ------------------------------------------------------------------- */

static int parse_time(const struct exchange *x, const char *name, bool *is_given,
                      int64_t *out, struct err *err)
{
    const char *s = http_query(x->req, name);
    size_t n = s ? strspn(s, "0123456789") : 0;
    *is_given = s != NULL;
    *out = 0;
    if (!s)
        return 0;
    if (n > 0 && n <= MAX_DIGITS && !s[n])
        *out = strtoll(s, NULL, 10);
    else
        *out = date_of(s);
    if (*out >= 0)
        return 0;
    return err_param(err, ERR_INVALID, name,
                     "%s has to be Unix seconds, or YYYY-MM-DD or YYYY-MM-DDTHH:MM:SSZ",
                     name);
}

/* Counters are of whole hours: those that the time touches. */
static int parse_span(const struct exchange *x, struct usage_question *q, struct err *err)
{
    int64_t start, end;
    if (parse_time(x, "start", &q->has_start, &start, err) < 0 ||
        parse_time(x, "end", &q->has_end, &end, err) < 0)
        return -1;
    if (q->has_end && end <= start)
        return err_param(err, ERR_INVALID, "end", "end has to be later than start");
    q->query.start = start - start % HOUR;
    q->query.end = (end + HOUR - 1) / HOUR * HOUR;
    return 0;
}

static const struct {
    const char *name;
    unsigned bit;
} groups[] = {
    {"adapter", USAGE_BY_ADAPTER}, {"key", USAGE_BY_KEY},       {"hour", USAGE_BY_HOUR},
    {"day", USAGE_BY_DAY},         {"tenant", USAGE_BY_TENANT},
};

static unsigned group_of(const char *s, size_t len)
{
    for (size_t i = 0; i < sizeof groups / sizeof *groups; i++)
        if (strlen(groups[i].name) == len && strncmp(groups[i].name, s, len) == 0)
            return groups[i].bit;
    return 0;
}

static int parse_groups(const struct exchange *x, bool is_admin, unsigned *out,
                        struct err *err)
{
    const char *s = http_query(x->req, "group_by");
    bool is_good = true;
    *out = 0;
    while (s && *s && is_good) {
        size_t len = strcspn(s, ",");
        unsigned bit = group_of(s, len);
        is_good = bit && (is_admin || bit != USAGE_BY_TENANT);
        *out |= bit;
        s += len + (s[len] == ',');
    }
    unsigned both = USAGE_BY_HOUR | USAGE_BY_DAY;
    if (is_good && (*out & both) != both)
        return 0;
    return err_param(err, ERR_INVALID, "group_by",
                     "group_by takes %sadapter, key, and one of hour and day, with commas",
                     is_admin ? "tenant, " : "");
}

/* As write_next writes it: HOUR.TENANT.KEY.ADAPTER. */
static bool read_place(const char *s, struct usage_row *out)
{
    int64_t *const parts[] = {&out->hour, &out->tenant, &out->key};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        size_t n = strspn(s, "0123456789");
        if (n == 0 || n > MAX_DIGITS || s[n] != '.')
            return false;
        *parts[i] = strtoll(s, NULL, 10);
        s += n + 1;
    }
    out->adapter = s;
    return true;
}

/* Sums that are grouped by nothing are one row, after which there is none. */
static int parse_page(struct exchange *x, struct usage_question *q, struct err *err)
{
    struct paging page;
    if (paging_parse(&page, x->req, err) < 0)
        return -1;
    q->query.limit = (size_t)page.limit;
    if (!http_query(x->req, "after"))
        return 0;
    if (!q->query.group_by || !read_place(arena_strdup(&x->arena, page.after), &q->after))
        return err_param(err, ERR_INVALID, "after",
                         "after has to be \"next\" of the page before");
    q->query.after = &q->after;
    return 0;
}

static int parse(struct exchange *x, struct usage_question *q, bool is_admin,
                 struct err *err)
{
    if (parse_span(x, q, err) < 0 ||
        parse_groups(x, is_admin, &q->query.group_by, err) < 0)
        return -1;
    return parse_page(x, q, err);
}

/* ---- the answer ---------------------------------------------------------------------- */

static void add_groups(struct buf *out, unsigned by, const struct usage_row *r)
{
    if (by & USAGE_BY_TENANT) {
        buf_add_str(out, ",\"tenant\":");
        json_out_str(out, r->tenant_name[0] ? r->tenant_name : NULL);
        if (r->removed)
            buf_printf(out, ",\"removed\":%" PRId64, r->removed);
    }
    if (by & USAGE_BY_KEY && r->key)
        buf_printf(out, ",\"key\":\"key_%" PRId64 "\"", r->key);
    else if (by & USAGE_BY_KEY)
        buf_add_str(out, ",\"key\":null");
    if (by & USAGE_BY_ADAPTER) {
        buf_add_str(out, ",\"adapter\":");
        json_out_str(out, r->adapter[0] ? r->adapter : NULL);
    }
    if (by & (USAGE_BY_HOUR | USAGE_BY_DAY))
        buf_printf(out, ",\"start\":%" PRId64, r->hour);
}

static void write_next(char out[NEXT_MAX], const struct usage_row *r)
{
    snprintf(out, NEXT_MAX, "%" PRId64 ".%" PRId64 ".%" PRId64 ".%s", r->hour, r->tenant,
             r->key, r->adapter);
}

static void add_row(void *ud, const struct usage_row *r)
{
    struct usage_question *q = ud;
    if (q->n++)
        buf_add_char(&q->json, ',');
    buf_add_str(&q->json, "{\"object\":\"usage\"");
    add_groups(&q->json, q->query.group_by, r);
#define XX(name) buf_printf(&q->json, ",\"" #name "\":%" PRId64, r->n.name);
    USAGE_COUNTERS(XX)
#undef XX
    buf_add_char(&q->json, '}');
    write_next(q->next, r);
}

static void add_time(struct buf *out, const char *name, bool is_given, int64_t at)
{
    if (is_given)
        buf_printf(out, "\"%s\":%" PRId64 ",", name, at);
    else
        buf_printf(out, "\"%s\":null,", name);
}

/* What the sums are of, and how to go on. */
static void close_list(struct usage_question *q, bool has_more)
{
    buf_add_str(&q->json, "],");
    add_time(&q->json, "start", q->has_start, q->query.start);
    add_time(&q->json, "end", q->has_end, q->query.end);
    buf_printf(&q->json, "\"has_more\":%s,\"next\":", has_more ? "true" : "false");
    json_out_str(&q->json, has_more ? q->next : NULL);
    buf_add_char(&q->json, '}');
}

static int sum_up(void *ud, struct err *err)
{
    struct usage_question *q = ud;
    bool has_more = false;
    struct store *s = store_open(&(struct store_opts){.dir = q->state_dir}, err);
    if (!s)
        return -1;
    paging_open_list(&q->json);
    int rc = store_each_usage(s, &q->query, &has_more, add_row, q, err);
    store_close(s);
    close_list(q, has_more);
    if (rc < 0)
        buf_free(&q->json);
    return rc;
}

static enum exchange_result answer(struct exchange *x, void *ud)
{
    struct usage_question *q = ud;
    return exchange_reply_json(x, 200, &q->json);
}

static void end_question(struct exchange *x)
{
    const struct usage_question *q = x->extra;
    usage_end_question(x->server->usage, q->query.tenant);
}

static enum exchange_result ask(struct exchange *x, int64_t tenant, bool is_admin)
{
    struct err err = {0};
    struct usage_question *q = arena_alloc(&x->arena, sizeof *q);
    q->state_dir = store_path(x->server->parts.store);
    q->query.tenant = tenant;
    if (parse(x, q, is_admin, &err) < 0 ||
        usage_begin_question(x->server->usage, tenant, &err) < 0)
        return exchange_fail(x, &err);
    x->extra = q;
    x->fini_extra = end_question;
    return offload_run(x, LOOP_REGISTRY, sum_up, answer, q);
}

enum exchange_result usage_api_own(struct exchange *x)
{
    return ask(x, x->caller.tenant, false);
}

/* Of one that is there, else of the last that was. */
static int find_tenant(struct store *s, const char *name, int64_t *id, struct err *err)
{
    struct tenant t;
    int rc = store_find_tenant(s, name, &t, err);
    if (rc == 0)
        *id = t.id;
    else if (err->code == ERR_NOT_FOUND)
        rc = store_find_former_tenant(s, name, id, err);
    return rc;
}

enum exchange_result usage_api_all(struct exchange *x)
{
    const char *name = http_query(x->req, "tenant");
    struct err err = {0};
    int64_t tenant = 0;
    if (name && find_tenant(x->server->parts.store, name, &tenant, &err) < 0)
        return exchange_fail(x, &err);
    return ask(x, tenant, true);
}
