/* Usage: counters of an hour are added to, never taken from. */
#include "adapters/store_usage.h"

#include "adapters/store_parts.h"

enum { HOUR = 3600, FIRST_COUNTER = 6 };

static int add_row(struct store *s, const struct usage_row *r, struct err *err)
{
    static const char sql[] =
        "INSERT INTO usage VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
        "  requests = requests + excluded.requests,"
        "  prompt_tokens = prompt_tokens + excluded.prompt_tokens,"
        "  cached_tokens = cached_tokens + excluded.cached_tokens,"
        "  virtual_tokens = virtual_tokens + excluded.virtual_tokens,"
        "  generated_tokens = generated_tokens + excluded.generated_tokens";
    const struct usage_counters *n = &r->n;
    return db_run(s->writer, err, sql, "iiisiiiii", r->hour - r->hour % HOUR, r->tenant,
                  r->key, r->adapter ? r->adapter : "", n->requests, n->prompt_tokens,
                  n->cached_tokens, n->virtual_tokens, n->generated_tokens);
}

int store_add_usage(struct store *s, const struct usage_row *rows, size_t n,
                    struct err *err)
{
    if (n == 0)
        return 0;
    if (store_begin(s, err) < 0)
        return -1;
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < n; i++)
        rc = add_row(s, &rows[i], err);
    return store_end(s, rc, err);
}

/* Columns that are not grouped by are constants, by which grouping changes nothing. Without
 * any of them there is one row, even of nothing. */
static void write_sql(struct buf *sql, unsigned group_by)
{
    const char *hour = group_by & USAGE_BY_HOUR  ? "u.hour"
                       : group_by & USAGE_BY_DAY ? "u.hour - u.hour % 86400"
                                                 : "0";
    const char *tenant = group_by & USAGE_BY_TENANT ? "u.tenant" : "0";
    const char *key = group_by & USAGE_BY_KEY ? "u.key" : "0";
    const char *adapter = group_by & USAGE_BY_ADAPTER ? "u.adapter" : "''";
    const char *name_and_end =
        group_by & USAGE_BY_TENANT
            ? "coalesce((SELECT name FROM tenants WHERE id = u.tenant),"
              "  (SELECT name FROM former_tenants WHERE id = u.tenant)),"
              "(SELECT removed FROM former_tenants WHERE id = u.tenant)"
            : "'', 0";
    buf_printf(sql, "SELECT %s AS h, %s AS t, %s AS k, %s AS a, %s", hour, tenant, key,
               adapter, name_and_end);
#define XX(name) buf_add_str(sql, ", coalesce(sum(u." #name "), 0)");
    USAGE_COUNTERS(XX)
#undef XX
    buf_printf(sql,
               " FROM usage u WHERE u.hour >= ?1 AND (?2 = 0 OR u.hour < ?2)"
               " AND (?3 = 0 OR u.tenant = ?3) AND (%s, %s, %s, %s) > (?4, ?5, ?6, ?7)",
               hour, tenant, key, adapter);
    if (group_by)
        buf_add_str(sql, " GROUP BY h, t, k, a ORDER BY h, t, k, a");
}

static void read_row(sqlite3_stmt *st, struct usage_row *r)
{
    int i = FIRST_COUNTER;
    *r = (struct usage_row){.hour = sqlite3_column_int64(st, 0),
                            .tenant = sqlite3_column_int64(st, 1),
                            .key = sqlite3_column_int64(st, 2),
                            .adapter = db_text(st, 3),
                            .tenant_name = db_text(st, 4),
                            .removed = sqlite3_column_int64(st, 5)};
#define XX(name) r->n.name = sqlite3_column_int64(st, i++);
    USAGE_COUNTERS(XX)
#undef XX
}

/* What comes before a page is not even looked at, as far as hours tell. */
static sqlite3_stmt *prepare(struct store *s, const struct usage_query *q, struct err *err)
{
    static const struct usage_row before_all = {.hour = -1, .adapter = ""};
    const struct usage_row *after = q->after ? q->after : &before_all;
    int64_t start = after->hour > q->start ? after->hour : q->start;
    struct buf sql = {0};
    write_sql(&sql, q->group_by);
    sqlite3_stmt *st = db_prepare(s->reader, err, sql.data, "iiiiiis", start, q->end,
                                  q->tenant, after->hour, after->tenant, after->key,
                                  after->adapter);
    buf_free(&sql);
    return st;
}

int store_each_usage(struct store *s, const struct usage_query *q, bool *has_more,
                     void (*fn)(void *ud, const struct usage_row *r), void *ud,
                     struct err *err)
{
    CHECK_ON_THREAD(s->owner);
    struct usage_row r;
    size_t n = 0;
    sqlite3_stmt *st = prepare(s, q, err);
    int rc = st ? 1 : -1;
    while (rc == 1 && (rc = db_step(s->reader, st, err)) == 1 && n++ < q->limit) {
        read_row(st, &r);
        fn(ud, &r);
    }
    sqlite3_finalize(st);
    if (has_more)
        *has_more = rc == 1;
    return rc < 0 ? -1 : 0;
}
