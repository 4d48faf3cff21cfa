/* One table of everything that can be refused, and the struct that carries a refusal upwards.
 *
 * Thread: any. Functions return 0/-1 (or a pointer/NULL) and take `struct err *` last; on failure
 * err->code is set and err->msg says what was wrong and what is accepted. A message may reach a
 * tenant: it never holds a path of the server, a pointer or another tenant's name.
 *
 *     struct err err = {0};
 *     if (thing_open(name, &err) < 0) return err_http_status(err.code);
 */
#ifndef PREFIXD_ERR_H
#define PREFIXD_ERR_H

#include <stdbool.h>

/* code, HTTP status, API "type", API "code" (NULL prints null), default text. Types and codes are
 * those of the OpenAI API where it has one. */
#define ERR_MAP(XX)                                                                              \
    XX(NONE, 200, "", NULL, "no error")                                                          \
    XX(INVALID, 400, "invalid_request_error", NULL, "the request is not valid")                  \
    XX(CONTEXT, 400, "invalid_request_error", "context_length_exceeded", "context too long")     \
    XX(UNAUTHORIZED, 401, "invalid_request_error", "invalid_api_key", "a valid key is needed")   \
    XX(FORBIDDEN, 403, "permission_error", NULL, "not allowed")                                  \
    XX(SUSPENDED, 403, "permission_error", "tenant_suspended", "the tenant is suspended")        \
    XX(NOT_FOUND, 404, "invalid_request_error", "not_found", "no such thing")                    \
    XX(MODEL_NOT_FOUND, 404, "invalid_request_error", "model_not_found", "no such model")        \
    XX(ADAPTER_NOT_FOUND, 404, "invalid_request_error", "adapter_not_found", "no such adapter")  \
    XX(METHOD, 405, "invalid_request_error", "method_not_allowed", "method not allowed")         \
    XX(BODY_TIMEOUT, 408, "invalid_request_error", "request_timeout", "the body came too slowly") \
    XX(CONFLICT, 409, "invalid_request_error", "conflict", "in conflict with another change")    \
    XX(PRECONDITION, 412, "invalid_request_error", "precondition_failed", "a condition does not hold") \
    XX(TOO_LARGE, 413, "invalid_request_error", "request_too_large", "the body is too large")    \
    XX(MEDIA_TYPE, 415, "invalid_request_error", "unsupported_media_type", "wrong content type") \
    XX(ADAPTER, 422, "invalid_request_error", "adapter_incompatible", "the adapter is refused")  \
    XX(QUEUE_FULL, 429, "rate_limit_error", "rate_limit_exceeded", "too many requests")          \
    XX(CANCELLED, 499, "invalid_request_error", "cancelled", "the client went away")             \
    XX(INTERNAL, 500, "server_error", "internal_error", "internal error")                        \
    XX(IO, 500, "server_error", "io_error", "reading or writing failed")                         \
    XX(CLOSING, 503, "server_error", "unavailable", "the server is shutting down")               \
    XX(LOADING, 503, "server_error", "adapter_loading", "still loading")                         \
    XX(NO_MEMORY, 503, "server_error", "out_of_memory", "not enough memory for this now")        \
    XX(DEADLINE, 504, "server_error", "deadline_exceeded", "the request took too long")

enum err_code {
#define XX(name, status, type, code, text) ERR_##name,
    ERR_MAP(XX)
#undef XX
};

enum { ERR_MSG_SIZE = 300 };

struct err {
    enum err_code code;
    char param[48]; /* the request field at fault, "" if none */
    char msg[ERR_MSG_SIZE];
};

/* Fills err (which may be NULL) and returns -1, so that `return err_set(...)` reads well. */
int err_set(struct err *err, enum err_code code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* The same, naming the request field at fault. */
int err_param(struct err *err, enum err_code code, const char *param, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

int err_http_status(enum err_code code);
const char *err_api_type(enum err_code code);
const char *err_api_code(enum err_code code); /* NULL where the API has none */
const char *err_name(enum err_code code);     /* "QUEUE_FULL": for logs and metric labels */
const char *err_text(enum err_code code);

#endif
