/* Two shapes, and the calendar's own check of what they say. */
#include "server/date.h"

#include <stdbool.h>
#include <stdio.h>
#include <time.h>

/* In the shape 0 stands for a digit. */
static bool has_shape(const char *s, const char *shape)
{
    for (; *s && *shape; s++, shape++)
        if (*shape == '0' ? *s < '0' || *s > '9' : *s != *shape)
            return false;
    return !*s && !*shape;
}

/* What the calendar had to correct, as February 30 to March 2, does not exist. */
static bool is_same(const struct tm *a, const struct tm *b)
{
    return a->tm_year == b->tm_year && a->tm_mon == b->tm_mon && a->tm_mday == b->tm_mday &&
           a->tm_hour == b->tm_hour && a->tm_min == b->tm_min && a->tm_sec == b->tm_sec;
}

int64_t date_of(const char *text)
{
    struct tm given = {0};
    if (!has_shape(text, "0000-00-00") && !has_shape(text, "0000-00-00T00:00:00Z"))
        return -1;
    sscanf(text, "%4d-%2d-%2dT%2d:%2d:%2d", &given.tm_year, &given.tm_mon, &given.tm_mday,
           &given.tm_hour, &given.tm_min, &given.tm_sec);
    given.tm_year -= 1900;
    given.tm_mon--;
    struct tm t = given;
    int64_t at = timegm(&t);
    return at >= 0 && is_same(&t, &given) ? at : -1;
}
