/* Lists of entity tags, and whether they hold. */
#include "adapters/when.h"

#include <string.h>

static const char *skip(const char *s, const char *what)
{
    return s + strspn(s, what);
}

/* The end of the tag at s, NULL if there is none. */
static const char *tag_end(const char *s)
{
    if (strncmp(s, "W/", 2) == 0)
        s += 2;
    if (*s != '"')
        return NULL;
    s = strchr(s + 1, '"');
    return s ? s + 1 : NULL;
}

/* 1 if the tag from s to end is version. */
static bool is_tag_of(const char *s, const char *end, const char *version, bool takes_weak)
{
    if (*s == 'W') {
        if (!takes_weak)
            return false;
        s += 2;
    }
    size_t n = strlen(version);
    return (size_t)(end - s) == n + 2 && memcmp(s + 1, version, n) == 0;
}

/* 1 if the list names current, 0 if not, -1 if it is no list of tags. */
static int names(const char *list, const char *current, bool takes_weak)
{
    int found = 0, n = 0;
    const char *s = skip(list, " \t,");
    if (*s == '*')
        return *skip(s + 1, " \t") ? -1 : current != NULL;
    for (; *s; n++) {
        const char *end = tag_end(s);
        if (!end)
            return -1;
        found |= current && is_tag_of(s, end, current, takes_weak);
        s = skip(end, " \t");
        if (*s && *s != ',')
            return -1;
        s = skip(s, " \t,");
    }
    return n ? found : -1;
}

static int malformed(const char *header, struct err *err)
{
    return err_param(
        err, ERR_INVALID, header,
        "%s has to be * or a list of versions in double quotes, as ETag gives them",
        header);
}

int when_check(const struct adapter_when *when, const char *current, struct err *err)
{
    int matches = when->if_match ? names(when->if_match, current, false) : 1;
    int is_excluded = when->if_none_match ? names(when->if_none_match, current, true) : 0;
    if (matches < 0)
        return malformed("If-Match", err);
    if (is_excluded < 0)
        return malformed("If-None-Match", err);
    if (matches && !is_excluded)
        return 0;
    if (!current)
        return err_set(err, ERR_PRECONDITION, "there is no such adapter now");
    return err_set(err, ERR_PRECONDITION, "the adapter's version is now \"%s\"", current);
}
