/* The table of everything that can be asked for. */
#include "server/routes.h"

#include "server/adapters_api.h"
#include "server/generation.h"
#include "server/models_api.h"
#include "server/requests_api.h"
#include "server/status_api.h"
#include "server/tokenize_api.h"
#include "server/versions_api.h"

#include <stdio.h>
#include <string.h>

static const struct route routes[] = {
    {"GET", "/health", status_api_health, ROUTE_NO_BODY, true, false},
    {"GET", "/ready", status_api_ready, ROUTE_NO_BODY, true, false},
    {"GET", "/version", status_api_version, ROUTE_NO_BODY, true, false},
    {"GET", "/metrics", status_api_metrics, ROUTE_NO_BODY, false, false},
    {"GET", "/admin/requests", requests_api_list, ROUTE_NO_BODY, false, false},
    {"GET", "/v1/models", models_api_list, ROUTE_NO_BODY, false, false},
    {"GET", "/v1/models/{*}", models_api_get, ROUTE_NO_BODY, false, false},
    {"POST", "/v1/completions", generation_parse, ROUTE_JSON, false, true},
    {"POST", "/tokenize", tokenize_api_tokenize, ROUTE_JSON, false, false},
    {"POST", "/detokenize", tokenize_api_detokenize, ROUTE_JSON, false, false},
    {"GET", "/v1/adapters", adapters_api_list, ROUTE_NO_BODY, false, false},
    {"GET", "/v1/adapters/{}", adapters_api_get, ROUTE_NO_BODY, false, false},
    {"PUT", "/v1/adapters/{}", adapters_api_put, ROUTE_UPLOAD, false, false},
    {"DELETE", "/v1/adapters/{}", adapters_api_delete, ROUTE_NO_BODY, false, false},
    {"GET", "/v1/adapters/{}/versions", versions_api_list, ROUTE_NO_BODY, false, false},
    {"POST", "/v1/adapters/{}/rollback", adapters_api_rollback, ROUTE_JSON, false, false},
    {"GET", "/v1/adapters/{}/files/{}", adapters_api_file, ROUTE_NO_BODY, false, false},
};

static bool keep_arg(struct route_match *m, int *n, const char *s, size_t len)
{
    if (len == 0 || len >= ROUTE_ARG_MAX || *n == ROUTE_MAX_ARGS)
        return false;
    memcpy(m->args[*n], s, len);
    m->args[(*n)++][len] = '\0';
    return true;
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
