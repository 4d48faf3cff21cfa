/* The grammar of names. */
#include "adapters/name.h"

#include <string.h>

#include "adapters/adapters.h"

static bool is_alnum(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

bool name_is_valid(const char *name)
{
    size_t n = strnlen(name, ADAPTER_NAME_MAX + 1);
    if (n == 0 || n > ADAPTER_NAME_MAX || !is_alnum(name[0]))
        return false;
    for (size_t i = 1; i < n; i++)
        if (!is_alnum(name[i]) && !strchr("._-", name[i]))
            return false;
    return true;
}
