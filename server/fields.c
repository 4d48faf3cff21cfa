/* Reading known fields with cJSON.
 *
 * Thread: loop, where alone cJSON may parse. */
#include "server/fields.h"

#include "core/base/json_check.h"
#include "server/exchange.h"
#include "server/http.h"
#include "server/upload.h"

#include <cJSON.h>
#include <string.h>

enum { MAX_BODY = 16 * 1024, MAX_FIELDS = 64 };

struct reading {
    struct exchange *x;
    struct field *fields;
    int n;
};

static bool is_group(const struct reading *r, const char *group)
{
    for (int i = 0; i < r->n; i++)
        if (r->fields[i].group && strcmp(r->fields[i].group, group) == 0)
            return true;
    return false;
}

static struct field *find(const struct reading *r, const char *group, const char *name)
{
    for (int i = 0; i < r->n; i++) {
        struct field *f = &r->fields[i];
        bool is_there = group ? f->group && strcmp(f->group, group) == 0 : !f->group;
        if (is_there && strcmp(f->name, name) == 0)
            return f;
    }
    return NULL;
}

static int take(const struct reading *r, struct field *f, const cJSON *v, struct err *err)
{
    f->is_given = true;
    f->is_null = cJSON_IsNull(v);
    if (f->is_null)
        return 0;
    if (f->kind == FIELD_NUMBER && !cJSON_IsNumber(v))
        return err_param(err, ERR_INVALID, f->name, "%s has to be a whole number", f->name);
    if (f->kind == FIELD_TEXT && !cJSON_IsString(v))
        return err_param(err, ERR_INVALID, f->name, "%s has to be a string", f->name);
    if (f->kind == FIELD_NUMBER)
        f->number = (int64_t)v->valuedouble;
    else
        f->text = arena_strdup(&r->x->arena, v->valuestring);
    return 0;
}

static int walk(const struct reading *r, const cJSON *object, const char *group,
                struct err *err)
{
    const cJSON *v;
    cJSON_ArrayForEach(v, object)
    {
        struct field *f = find(r, group, v->string);
        bool is_nested = !group && !f && is_group(r, v->string);
        if (is_nested && !cJSON_IsObject(v))
            return err_param(err, ERR_INVALID, v->string, "%.60s has to be an object",
                             v->string);
        if (!f && !is_nested)
            return err_param(err, ERR_INVALID, v->string,
                             "The field \"%.60s\" is not known", v->string);
        if ((f ? take(r, f, v, err) : walk(r, v, v->string, err)) < 0)
            return -1;
    }
    return 0;
}

int fields_parse(struct exchange *x, struct field *fields, int n, struct err *err)
{
    const struct json_limits lim = {.max_len = MAX_BODY,
                                    .max_depth = 2,
                                    .max_items = MAX_FIELDS,
                                    .integers_only = true};
    const struct reading r = {x, fields, n};
    const char *body;
    size_t len;
    if (upload_bytes(http_body(x->req), &body, &len, err) < 0 ||
        json_check(body, len, &lim, err) < 0)
        return -1;
    cJSON *root = cJSON_ParseWithLength(body, len);
    int rc = cJSON_IsObject(root)
                 ? walk(&r, root, NULL, err)
                 : err_set(err, ERR_INVALID, "The body has to be an object");
    cJSON_Delete(root);
    return rc;
}
