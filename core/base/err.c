/* The table of refusals and how a message is written into one. */
#include "core/base/err.h"

#include <stdarg.h>
#include <stdio.h>

struct err_row {
    int status;
    const char *name, *type, *code, *text;
};

static const struct err_row rows[] = {
#define XX(name, status, type, code, text) {status, #name, type, code, text},
    ERR_MAP(XX)
#undef XX
};

static const struct err_row *row_of(enum err_code code)
{
    size_t n = sizeof rows / sizeof rows[0];
    return (size_t)code < n ? &rows[code] : &rows[ERR_INTERNAL];
}

int err_set(struct err *err, enum err_code code, const char *fmt, ...)
{
    if (!err)
        return -1;
    va_list ap;
    va_start(ap, fmt);
    err->code = code;
    err->param[0] = '\0';
    vsnprintf(err->msg, sizeof err->msg, fmt, ap);
    va_end(ap);
    return -1;
}

int err_param(struct err *err, enum err_code code, const char *param, const char *fmt, ...)
{
    if (!err)
        return -1;
    va_list ap;
    va_start(ap, fmt);
    err->code = code;
    snprintf(err->param, sizeof err->param, "%s", param);
    vsnprintf(err->msg, sizeof err->msg, fmt, ap);
    va_end(ap);
    return -1;
}

int err_http_status(enum err_code code)
{
    return row_of(code)->status;
}

const char *err_api_type(enum err_code code)
{
    return row_of(code)->type;
}

const char *err_api_code(enum err_code code)
{
    return row_of(code)->code;
}

const char *err_name(enum err_code code)
{
    return row_of(code)->name;
}

const char *err_text(enum err_code code)
{
    return row_of(code)->text;
}
