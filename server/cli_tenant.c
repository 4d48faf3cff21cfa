/* Tenants from the command line. */
#include "server/cli_tenant.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "core/base/json_out.h"
#include "server/cli_table.h"
#include "server/tenant_json.h"

enum { PAGE = 1000 };

/* ---- telling ------------------------------------------------------------------------- */

static void add_limit(struct buf *rows, const char *name, int64_t value, int64_t set)
{
    buf_printf(rows, "%s\t%" PRId64 "%s\n", name, value, set < 0 ? " (default)" : "");
}

static void tell(const struct cli_args *a, const struct tenant *t, struct buf *out)
{
    char time[CLI_TABLE_TIME_MAX];
    struct buf rows = {0};
    if (a->given & CLI_JSON) {
        tenant_json(out, t);
        buf_add_char(out, '\n');
        return;
    }
    buf_printf(&rows, "tenant\t%s\nweight\t%" PRId64 "\nstate\t%s\ncreated\t%s\n", t->name,
               t->weight, t->is_suspended ? "suspended" : "active",
               cli_table_time(time, t->created));
#define XX(name, by_default, doc) add_limit(&rows, #name, t->limits.name, t->set.name);
    TENANT_LIMITS(XX)
#undef XX
    cli_table(out, rows.data);
    buf_free(&rows);
}

struct list {
    bool is_json;
    struct buf rows;
    size_t n;
    char last[TENANT_NAME_MAX + 1];
};

static void add_set(struct buf *rows, const char **comma, const char *name, int64_t set)
{
    if (set < 0)
        return;
    buf_printf(rows, "%s%s=%" PRId64, *comma, name, set);
    *comma = " ";
}

static void add_row(struct buf *rows, const struct tenant *t)
{
    char time[CLI_TABLE_TIME_MAX];
    const char *comma = "";
    buf_printf(rows, "%s\t%" PRId64 "\t%s\t%s\t", t->name, t->weight,
               t->is_suspended ? "suspended" : "active", cli_table_time(time, t->created));
#define XX(name, by_default, doc) add_set(rows, &comma, #name, t->set.name);
    TENANT_LIMITS(XX)
#undef XX
    buf_add_str(rows, *comma ? "\n" : "defaults\n");
}

static void add_to_list(void *ud, const struct tenant *t)
{
    struct list *l = ud;
    if (l->is_json) {
        buf_add_str(&l->rows, l->n ? "," : "");
        tenant_json(&l->rows, t);
    } else {
        add_row(&l->rows, t);
    }
    l->n++;
    snprintf(l->last, sizeof l->last, "%s", t->name);
}

static int fill_list(struct list *l, struct store *s, struct err *err)
{
    bool has_more = true;
    while (has_more) {
        char after[TENANT_NAME_MAX + 1];
        memcpy(after, l->last, sizeof after);
        if (store_each_tenant(s, after, PAGE, &has_more, add_to_list, l, err) < 0)
            return -1;
    }
    return 0;
}

int cli_tenant_list(const struct cli_args *a, struct store *s, struct buf *out,
                    struct err *err)
{
    struct list l = {.is_json = a->given & CLI_JSON};
    if (!l.is_json)
        buf_add_str(&l.rows, "NAME\tWEIGHT\tSTATE\tCREATED\tLIMITS\n");
    return cli_table_list(out, &l.rows, l.is_json, fill_list(&l, s, err));
}

int cli_tenant_find(struct store *s, const char *name, struct tenant *out, struct err *err)
{
    if (store_find_tenant(s, name, out, err) == 0)
        return 0;
    if (err->code != ERR_NOT_FOUND)
        return -1;
    return err_set(
        err, ERR_NOT_FOUND,
        "there is no tenant \"%.64s\"; accepted: those that prefixd tenant list shows",
        name);
}

int cli_tenant_show(const struct cli_args *a, struct store *s, struct buf *out,
                    struct err *err)
{
    struct tenant t;
    if (cli_tenant_find(s, a->operand, &t, err) < 0)
        return -1;
    tell(a, &t, out);
    return 0;
}

/* ---- changing ------------------------------------------------------------------------ */

/* What was not given is the default of a tenant that is made. */
static struct tenant_limits limits_to_add(const struct cli_args *a)
{
    struct tenant_limits l = a->limits;
#define XX(name, by_default, doc)                                                          \
    if (l.name == INT64_MIN)                                                               \
        l.name = -1;
    TENANT_LIMITS(XX)
#undef XX
    return l;
}

int cli_tenant_add(const struct cli_args *a, struct store *s, struct buf *out,
                   struct err *err)
{
    struct tenant t;
    const struct tenant_limits limits = limits_to_add(a);
    if (store_add_tenant(s, a->operand, a->weight ? a->weight : 1, &limits, &t, err) < 0)
        return -1;
    tell(a, &t, out);
    return 0;
}

int cli_tenant_set(const struct cli_args *a, struct store *s, struct buf *out,
                   struct err *err)
{
    struct tenant t;
    if (!(a->given & (CLI_WEIGHT | CLI_LIMIT)))
        return err_set(
            err, ERR_INVALID,
            "tenant set: nothing to set; accepted: the options that prefixd tenant set "
            "--help lists");
    if (cli_tenant_find(s, a->operand, &t, err) < 0 ||
        store_set_tenant(s, a->operand, a->weight, &a->limits, &t, err) < 0)
        return -1;
    tell(a, &t, out);
    return 0;
}

static int suspend(const struct cli_args *a, struct store *s, bool is_suspended,
                   struct buf *out, struct err *err)
{
    struct tenant t;
    if (cli_tenant_find(s, a->operand, &t, err) < 0 ||
        store_suspend_tenant(s, a->operand, is_suspended, &t, err) < 0)
        return -1;
    tell(a, &t, out);
    return 0;
}

int cli_tenant_suspend(const struct cli_args *a, struct store *s, struct buf *out,
                       struct err *err)
{
    return suspend(a, s, true, out, err);
}

int cli_tenant_resume(const struct cli_args *a, struct store *s, struct buf *out,
                      struct err *err)
{
    return suspend(a, s, false, out, err);
}

int cli_tenant_remove(const struct cli_args *a, struct store *s, struct buf *out,
                      struct err *err)
{
    struct tenant t;
    if (cli_tenant_find(s, a->operand, &t, err) < 0 ||
        store_remove_tenant(s, a->operand, err) < 0)
        return -1;
    if (!(a->given & CLI_JSON)) {
        buf_printf(out, "%s is removed, with its keys and adapters\n", t.name);
        return 0;
    }
    buf_add_str(out, "{\"id\":");
    json_out_str(out, t.name);
    buf_add_str(out, ",\"object\":\"tenant\",\"deleted\":true}\n");
    return 0;
}
