/* Wording of refusals. */
#include "adapters/refuse.h"

#include <string.h>

#include "core/base/utf8.h"

enum { SHOWN = 60 };

int refuse_content(struct err *err, const char *what, const struct err *why)
{
    bool is_ours = why->code != ERR_INVALID && why->code != ERR_ADAPTER;
    return err_set(err, is_ours ? why->code : ERR_ADAPTER, "%s: %s", what, why->msg);
}

int refuse_shown(const char *s)
{
    return (int)utf8_valid_len(s, strnlen(s, SHOWN));
}
