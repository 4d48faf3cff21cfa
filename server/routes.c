/* The table of everything that can be asked for. */
#include "server/routes.h"

#include "server/adapters_api.h"
#include "server/admin_api.h"
#include "server/generation.h"
#include "server/lora_api.h"
#include "server/keys_api.h"
#include "server/models_api.h"
#include "server/requests_api.h"
#include "server/status_api.h"
#include "server/tokenize_api.h"
#include "server/usage_api.h"
#include "server/versions_api.h"

#include <stdio.h>
#include <string.h>

static const struct route routes[] = {
    {"GET", "/health", status_api_health, .body = ROUTE_NO_BODY, .is_open = true},
    {"GET", "/ready", status_api_ready, .body = ROUTE_NO_BODY, .is_open = true},
    {"GET", "/version", status_api_version, .body = ROUTE_NO_BODY, .is_open = true},
    {"GET", "/metrics", status_api_metrics, .body = ROUTE_NO_BODY, .is_admin = true},
    {"GET", "/v1/models", models_api_list, .body = ROUTE_NO_BODY},
    {"GET", "/v1/models/{*}", models_api_get, .body = ROUTE_NO_BODY},
    {"POST", "/v1/completions", generation_parse, .body = ROUTE_JSON, .is_completion = true},
    {"POST", "/v1/load_lora_adapter", lora_api_load, ROUTE_JSON, .is_change = true},
    {"POST", "/v1/unload_lora_adapter", lora_api_unload, ROUTE_JSON, .is_change = true},
    {"POST", "/tokenize", tokenize_api_tokenize, .body = ROUTE_JSON},
    {"POST", "/detokenize", tokenize_api_detokenize, .body = ROUTE_JSON},
    {"GET", "/v1/adapters", adapters_api_list, .body = ROUTE_NO_BODY},
    {"GET", "/v1/adapters/{}", adapters_api_get, .body = ROUTE_NO_BODY},
    {"PUT", "/v1/adapters/{}", adapters_api_put, .body = ROUTE_UPLOAD, .is_change = true},
    {"PATCH", "/v1/adapters/{}", adapters_api_patch, .body = ROUTE_JSON, .is_admin = true},
    {"DELETE", "/v1/adapters/{}", adapters_api_delete, .body = ROUTE_NO_BODY, .is_change = true},
    {"GET", "/v1/adapters/{}/versions", versions_api_list, .body = ROUTE_NO_BODY},
    {"POST", "/v1/adapters/{}/rollback", adapters_api_rollback, .body = ROUTE_JSON, .is_change = true},
    {"GET", "/v1/adapters/{}/files/{}", adapters_api_file, .body = ROUTE_NO_BODY},
    {"GET", "/v1/usage", usage_api_own, .body = ROUTE_NO_BODY},
    {"GET", "/admin/requests", requests_api_list, .body = ROUTE_NO_BODY, .is_admin = true},
    {"GET", "/admin/usage", usage_api_all, .body = ROUTE_NO_BODY, .is_admin = true},
    {"GET", "/admin/tenants", admin_api_list, .body = ROUTE_NO_BODY, .is_admin = true},
    {"POST", "/admin/tenants", admin_api_add, .body = ROUTE_JSON, .is_admin = true},
    {"GET", "/admin/tenants/{}", admin_api_get, .body = ROUTE_NO_BODY, .is_admin = true},
    {"PATCH", "/admin/tenants/{}", admin_api_set, .body = ROUTE_JSON, .is_admin = true},
    {"DELETE", "/admin/tenants/{}", admin_api_remove, .body = ROUTE_NO_BODY, .is_admin = true},
    {"POST", "/admin/tenants/{}/suspend", admin_api_suspend, .body = ROUTE_NO_BODY,
     .is_admin = true},
    {"POST", "/admin/tenants/{}/resume", admin_api_resume, .body = ROUTE_NO_BODY,
     .is_admin = true},
    {"GET", "/admin/keys", keys_api_list, .body = ROUTE_NO_BODY, .is_admin = true},
    {"POST", "/admin/keys", keys_api_add, .body = ROUTE_JSON, .is_admin = true},
    {"DELETE", "/admin/keys/{}", keys_api_revoke, .body = ROUTE_NO_BODY, .is_admin = true},
};

static bool keep_arg(struct route_match *m, int *n, const char *s, size_t len)
{
    if (len == 0 || len >= ROUTE_ARG_MAX || *n == ROUTE_MAX_ARGS)
        return false;
    memcpy(m->args[*n], s, len);
    m->args[(*n)++][len] = '\0';
    return true;
}

/* Before anything is kept of the path. */
static bool may_fit(const char *pattern, const char *path)
{
    return strncmp(pattern, path, strcspn(pattern, "{")) == 0;
}

static bool fits(const char *pattern, const char *path, struct route_match *m)
{
    int n = 0;
    while (*pattern) {
        if (strcmp(pattern, "{*}") == 0)
            return keep_arg(m, &n, path, strlen(path));
        if (strncmp(pattern, "{}", 2) == 0) {
            size_t len = strcspn(path, "/");
            if (!keep_arg(m, &n, path, len))
                return false;
            pattern += 2;
            path += len;
        } else if (*pattern++ != *path++) {
            return false;
        }
    }
    return *path == '\0';
}

static void allow(struct route_match *m, const char *method)
{
    size_t len = strlen(m->allow);
    snprintf(m->allow + len, sizeof m->allow - len, "%s%s%s", len ? ", " : "", method,
             strcmp(method, "GET") == 0 ? ", HEAD" : "");
}

int routes_find(struct route_match *m, const char *method, const char *path,
                struct err *err)
{
    const char *wanted = strcmp(method, "HEAD") == 0 ? "GET" : method;
    memset(m, 0, sizeof *m);
    for (size_t i = 0; i < sizeof routes / sizeof *routes; i++) {
        const struct route *r = &routes[i];
        if (!may_fit(r->pattern, path))
            continue;
        struct route_match args = {0};
        if (!fits(r->pattern, path, &args))
            continue;
        allow(m, r->method);
        if (strcmp(r->method, wanted) != 0)
            continue;
        m->route = r;
        memcpy(m->args, args.args, sizeof m->args);
    }
    if (m->route)
        return 0;
    if (m->allow[0])
        return err_set(err, ERR_METHOD, "%.16s is not allowed here; allowed: %s", method,
                       m->allow);
    return err_set(err, ERR_NOT_FOUND, "Nothing is at %.16s %.120s", method, path);
}
