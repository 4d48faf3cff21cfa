/* Which strings may name an adapter.
 *
 * Thread: any. */
#ifndef PREFIXD_NAME_H
#define PREFIXD_NAME_H

#include <stdbool.h>

/* [A-Za-z0-9][A-Za-z0-9._-]{0,63}: safe as a file name, in a URL and in a log line. */
bool name_is_valid(const char *name);

#endif
