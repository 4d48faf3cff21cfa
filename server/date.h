/* Dates and times as people write them, in UTC.
 *
 * Thread: any.
 *
 *     date_of("2027-01-31")              its first second
 *     date_of("2027-01-31T12:00:00Z")
 */
#ifndef PREFIXD_DATE_H
#define PREFIXD_DATE_H

#include <stdint.h>

/* Seconds since 1970; -1: it is neither, before 1970, or there is no such day or time. */
int64_t date_of(const char *text);

#endif
