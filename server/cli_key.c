/* Keys from the command line. */
#include "server/cli_key.h"

#include <inttypes.h>
#include <string.h>
#include <time.h>

#include <sodium.h>

#include "server/cli_table.h"
#include "server/cli_tenant.h"
#include "server/tenant_json.h"

enum { PAGE = 1000 };

/* ---- making -------------------------------------------------------------------------- */

/* Whose key, and of what scope: a tenant's, or with --admin nobody's. */
static int check_owner(const struct cli_args *a, struct store *s, struct err *err)
{
    struct tenant t;
    bool is_admin = a->given & CLI_ADMIN;
    if (is_admin && (a->operand || (a->given & CLI_SCOPE)))
        return err_set(
            err, ERR_INVALID,
            "key add: an administrator's key has no tenant and no scope; accepted: "
            "prefixd key add --admin --state DIR");
    if (!is_admin && !a->operand)
        return err_set(
            err, ERR_INVALID,
            "key add: TENANT is missing; accepted: prefixd key add TENANT --state DIR, or "
            "--admin for an administrator's key");
    return is_admin ? 0 : cli_tenant_find(s, a->operand, &t, err);
}

/* The key stands alone on its line, for a script to take. */
int cli_key_add(const struct cli_args *a, struct store *s, struct buf *out, struct err *err)
{
    char text[KEY_TEXT_MAX];
    struct tenant_key k;
    enum key_scope scope = a->given & CLI_ADMIN ? KEY_ADMIN : a->scope;
    if (check_owner(a, s, err) < 0 ||
        store_add_key(s, a->operand, scope, a->expires, text, &k, err) < 0)
        return -1;
    if (a->given & CLI_JSON)
        tenant_json_key(out, &k, text);
    else
        buf_add_str(out, text);
    buf_add_char(out, '\n');
    sodium_memzero(text, sizeof text);
    return 0;
}

/* ---- looking ------------------------------------------------------------------------- */

struct list {
    bool is_json;
    struct buf rows;
    size_t n;
    int64_t now, last;
};

static const char *state_of(const struct tenant_key *k, int64_t now)
{
    return k->revoked ? "revoked" : k->expires && k->expires <= now ? "expired" : "valid";
}

static void add_row(struct buf *rows, const struct tenant_key *k, int64_t now)
{
    char created[CLI_TABLE_TIME_MAX], expires[CLI_TABLE_TIME_MAX];
    buf_printf(rows, "key_%" PRId64 "\t%s\t%s\t%s\t%s\t%s\n", k->id,
               k->tenant[0] ? k->tenant : "-", key_scope_name(k->scope), state_of(k, now),
               cli_table_time(created, k->created), cli_table_time(expires, k->expires));
}

static void add_to_list(void *ud, const struct tenant_key *k)
{
    struct list *l = ud;
    if (l->is_json) {
        buf_add_str(&l->rows, l->n ? "," : "");
        tenant_json_key(&l->rows, k, NULL);
    } else {
        add_row(&l->rows, k, l->now);
    }
    l->n++;
    l->last = k->id;
}

static int fill_list(struct list *l, struct store *s, const char *tenant, struct err *err)
{
    bool has_more = true;
    while (has_more)
        if (store_each_key(s, tenant, l->last, PAGE, &has_more, add_to_list, l, err) < 0)
            return -1;
    return 0;
}

int cli_key_list(const struct cli_args *a, struct store *s, struct buf *out,
                 struct err *err)
{
    struct tenant t;
    struct list l = {.is_json = a->given & CLI_JSON, .now = time(NULL)};
    if (a->operand && cli_tenant_find(s, a->operand, &t, err) < 0)
        return -1;
    if (!l.is_json)
        buf_add_str(&l.rows, "ID\tTENANT\tSCOPE\tSTATE\tCREATED\tEXPIRES\n");
    return cli_table_list(out, &l.rows, l.is_json, fill_list(&l, s, a->operand, err));
}

/* ---- revoking ------------------------------------------------------------------------ */

static int id_of(const char *text, int64_t *out, struct err *err)
{
    *out = tenant_json_key_id(text);
    if (*out)
        return 0;
    return err_set(err, ERR_INVALID,
                   "key revoke: \"%.60s\" is no key's id; accepted: as prefixd key list shows "
                   "them, such as key_12",
                   text);
}

static void keep(void *ud, const struct tenant_key *k)
{
    *(struct tenant_key *)ud = *k;
}

/* What it has become. */
static int find(struct store *s, int64_t id, struct tenant_key *out, struct err *err)
{
    bool has_more;
    out->id = 0;
    if (store_each_key(s, NULL, id - 1, 1, &has_more, keep, out, err) < 0)
        return -1;
    return out->id == id ? 0 : err_set(err, ERR_NOT_FOUND, "key_%" PRId64 " is gone", id);
}

int cli_key_revoke(const struct cli_args *a, struct store *s, struct buf *out,
                   struct err *err)
{
    int64_t id = 0;
    struct tenant_key k;
    if (id_of(a->operand, &id, err) < 0)
        return -1;
    if (store_revoke_key(s, id, err) < 0)
        return err->code == ERR_NOT_FOUND ? err_set(err, ERR_NOT_FOUND,
                                                    "there is no key %.60s; accepted: "
                                                    "those that prefixd key list shows",
                                                    a->operand)
                                          : -1;
    if (find(s, id, &k, err) < 0)
        return -1;
    if (a->given & CLI_JSON)
        tenant_json_key(out, &k, NULL);
    else
        buf_printf(out, "%s is revoked", a->operand);
    buf_add_char(out, '\n');
    return 0;
}
