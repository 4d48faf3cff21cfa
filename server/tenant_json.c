/* Tenants and keys as JSON objects. */
#include "server/tenant_json.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/json_out.h"

void tenant_json(struct buf *out, const struct tenant *t)
{
    buf_add_str(out, "{\"id\":");
    json_out_str(out, t->name);
    buf_printf(out,
               ",\"object\":\"tenant\",\"weight\":%" PRId64
               ",\"suspended\":%s,\"created\":%" PRId64 ",\"limits\":{",
               t->weight, t->is_suspended ? "true" : "false", t->created);
    const char *comma = "";
#define XX(name, by_default, doc)                                                          \
    buf_printf(out, "%s\"" #name "\":%" PRId64, comma, t->limits.name);                   \
    comma = ",";
    TENANT_LIMITS(XX)
#undef XX
    buf_add_str(out, "}}");
}

static void add_time(struct buf *out, const char *name, int64_t seconds)
{
    if (seconds)
        buf_printf(out, ",\"%s\":%" PRId64, name, seconds);
    else
        buf_printf(out, ",\"%s\":null", name);
}

/* 18 digits always fit. */
int64_t tenant_json_key_id(const char *id)
{
    size_t n = strncmp(id, "key_", 4) == 0 ? strspn(id + 4, "0123456789") : 0;
    if (n == 0 || n > 18 || id[4 + n] || id[4] == '0')
        return 0;
    return strtoll(id + 4, NULL, 10);
}

void tenant_json_key(struct buf *out, const struct tenant_key *k, const char *text)
{
    buf_printf(out,
               "{\"id\":\"key_%" PRId64 "\",\"object\":\"key\",\"tenant\":", k->id);
    json_out_str(out, k->tenant[0] ? k->tenant : NULL);
    buf_printf(out, ",\"scope\":\"%s\",\"created\":%" PRId64, key_scope_name(k->scope),
               k->created);
    add_time(out, "expires", k->expires);
    add_time(out, "revoked", k->revoked);
    if (text) {
        buf_add_str(out, ",\"key\":");
        json_out_str(out, text);
    }
    buf_add_char(out, '}');
}
