/* Admission of a request by its headers. */
#include "server/admit.h"

#include "core/base/utf8.h"
#include "server/http.h"
#include "server/routes.h"
#include "server/server.h"
#include "server/tenants.h"
#include "server/upload.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { MAX_ASKED_HEADERS = 1024 };

static bool is_id(const char *s)
{
    size_t n = 0;
    while (s && s[n] > ' ' && s[n] < 0x7f && s[n] != '"' && s[n] != '\'')
        n++;
    return n > 0 && n <= EXCHANGE_ID_MAX && s[n] == '\0';
}

static void name_request(struct exchange *x)
{
    const char *given = http_header(x->req, "X-Request-Id");
    if (is_id(given))
        strcpy(x->request_id, given);
    else
        ids_next(&x->server->ids, x->request_id, IDS_MAX);
}

/* ---- who asks ------------------------------------------------------------------------ */

/* While there is no key, whoever reaches the loopback address is an administrator: not the
 * page that a browser there shows. */
static int check_admin(const struct exchange *x, struct err *err)
{
    const struct caller *c = &x->caller;
    if (!c->is_admin)
        return err_set(err, ERR_FORBIDDEN, "This needs an administrator's key");
    if (!c->has_key && http_header(x->req, "Origin"))
        return err_set(err, ERR_FORBIDDEN,
                       "Web pages may not do this while the server has no key");
    return 0;
}

/* Where the query's tenant says what is asked for, not as who. */
static bool is_about_tenants(const struct route *route)
{
    return strncmp(route->pattern, "/admin/", 7) == 0;
}

static int check_tenant(struct exchange *x, struct err *err)
{
    const char *name = http_query(x->req, "tenant");
    if (name)
        return tenants_act_as(x->server->tenants, &x->caller, name, err);
    if (x->caller.is_suspended && !x->caller.has_key)
        return err_set(err, ERR_SUSPENDED, "This tenant is suspended");
    return 0;
}

static int check_caller(struct exchange *x, struct err *err)
{
    const struct route *route = x->match->route;
    if (route && route->is_open)
        return 0;
    const char *key = http_header(x->req, "Authorization");
    if (tenants_identify(x->server->tenants, key, &x->caller, err) < 0)
        return -1;
    if (!route)
        return 0;
    if (route->is_admin && check_admin(x, err) < 0)
        return -1;
    if (route->is_change && x->caller.scope == KEY_INFER)
        return err_set(err, ERR_FORBIDDEN, "This key may use adapters, not change them");
    return is_about_tenants(route) ? 0 : check_tenant(x, err);
}

/* %00 and %2F were left as they are by the decoding of the path; only a base's name may
 * have a slash. */
static int check_path(const struct exchange *x, struct err *err)
{
    const char *path = http_path(x->req);
    bool is_model = strncmp(path, "/v1/models/", 11) == 0;
    if (utf8_valid_len(path, strlen(path)) != strlen(path))
        return err_set(err, ERR_INVALID, "The path is not UTF-8");
    for (const char *p = strchr(path, '%'); p; p = strchr(p + 1, '%'))
        if (strncmp(p, "%00", 3) == 0 || (!is_model && strncasecmp(p, "%2f", 3) == 0))
            return err_set(err, ERR_INVALID, "The path holds %.3s, which no name may hold",
                           p);
    return 0;
}

/* ---- the body ------------------------------------------------------------------------ */

static bool has_type(const char *given, const char *type)
{
    size_t n = strlen(type);
    return strncasecmp(given, type, n) == 0 && strchr("; \t", given[n]);
}

/* curl -d says form-urlencoded of whatever it sends, and curl -T nothing at all: the body
 * decides. */
static bool may_be_json(const char *type)
{
    return !type || has_type(type, "application/json") ||
           has_type(type, "application/x-www-form-urlencoded");
}

static int check_type(const struct route *route, const char *type, bool *is_form,
                      struct err *err)
{
    *is_form = route->body == ROUTE_UPLOAD && type && has_type(type, "multipart/form-data");
    if (*is_form || may_be_json(type))
        return 0;
    return err_set(err, ERR_MEDIA_TYPE,
                   "Content-Type %.80s is not accepted here; accepted: %s", type,
                   route->body == ROUTE_UPLOAD ? "multipart/form-data, application/json"
                                               : "application/json");
}

/* What two readers could take for two different lengths is how requests are smuggled. */
static int check_framing(const struct exchange *x, struct err *err)
{
    if (http_has_two_values(x->req, "Content-Length"))
        return err_set(err, ERR_INVALID, "Content-Length was given twice, differently");
    if (http_header(x->req, "Content-Length") && http_header(x->req, "Transfer-Encoding"))
        return err_set(err, ERR_INVALID,
                       "Content-Length and Transfer-Encoding exclude each other");
    return 0;
}

static int accept_body(struct exchange *x, struct err *err)
{
    const struct route *route = x->match->route;
    struct server *s = x->server;
    bool is_upload = route->body == ROUTE_UPLOAD;
    struct upload_opts opts = {
        .budget = is_upload ? &s->uploads : &s->bodies,
        .tenant = x->caller.tenant,
        .max = (size_t)(is_upload ? s->cfg->max_upload : s->cfg->max_body),
    };
    if (route->body == ROUTE_NO_BODY)
        return 0;
    if (check_type(route, http_header(x->req, "Content-Type"), &opts.is_form, err) < 0)
        return -1;
    const char *length = http_header(x->req, "Content-Length");
    unsigned long long n = length ? strtoull(length, NULL, 10) : 0;
    if (n > opts.max)
        return err_set(err, ERR_TOO_LARGE,
                       "The body of %llu bytes is larger than the limit of %zu", n,
                       opts.max);
    opts.expected = (size_t)n;
    return http_accept_body(x->req, &opts, err);
}

/* ---- the whole ----------------------------------------------------------------------- */

/* What the browser means to send, if it is names of headers and nothing else. */
static const char *allowed_headers(const struct exchange *x)
{
    static const char usual[] = "Authorization, Content-Type, X-Request-Id";
    const char *asked = http_header(x->req, "Access-Control-Request-Headers");
    if (!asked || !*asked || strlen(asked) > MAX_ASKED_HEADERS)
        return usual;
    size_t n = strspn(asked, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
                             "0123456789-_, ");
    return asked[n] ? usual : asked;
}

static enum exchange_result answer_options(struct exchange *x)
{
    struct buf none = {0};
    http_add_header(x->req, "Allow", x->match->allow);
    if (x->server->cfg->cors_origin[0]) {
        http_add_header(x->req, "Access-Control-Allow-Methods", x->match->allow);
        http_add_header(x->req, "Access-Control-Allow-Headers", allowed_headers(x));
        http_add_header(x->req, "Access-Control-Max-Age", "600");
    }
    return exchange_reply(x, 204, NULL, &none);
}

int admit_check_state(const struct exchange *x, struct err *err)
{
    bool is_look = strcmp(x->method, "GET") == 0 || strcmp(x->method, "HEAD") == 0;
    if (!server_is_draining(x->server) || is_look)
        return 0;
    return err_set(err, ERR_CLOSING, "The server is shutting down");
}

enum exchange_result admit_run(struct exchange *x)
{
    struct err err = {0}, no_route = {0};
    name_request(x);
    x->match = arena_alloc(&x->arena, sizeof *x->match);
    int found = routes_find(x->match, x->method, x->path, &no_route);
    bool is_options = strcmp(x->method, "OPTIONS") == 0 && x->match->allow[0];
    if (is_options)
        return answer_options(x);
    if (check_framing(x, &err) < 0) {
        http_refuse_body(x->req);
        return exchange_fail(x, &err);
    }
    if (check_path(x, &err) < 0 || check_caller(x, &err) < 0)
        return exchange_fail(x, &err);
    if (found < 0)
        return exchange_fail(x, &no_route);
    if (admit_check_state(x, &err) < 0 || accept_body(x, &err) < 0)
        return exchange_fail(x, &err);
    return EXCHANGE_MORE;
}
