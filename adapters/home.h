/* The state folder's owner: one daemon at a time, from its first process on.
 *
 * Thread: boot. The first process opens a home before it forks: it takes the folder's lock, migrates what is
 * there, takes over what older daemons left and clears away what is half-done. Workers inherit the lock (one open
 * file, shared), so the folder stays owned while any of them may change it, and is free as soon as all have left.
 *
 *     struct home *h = home_open(dir, &err);    first process; dir NULL: a temporary folder
 *     ... fork; workers: store_open(home_dir(h)) ...
 *     home_leave(h);      this process will change nothing any more
 *     home_free(h);       in the process that opened it removes a temporary folder
 */
#ifndef PREFIXD_HOME_H
#define PREFIXD_HOME_H

#include <stdbool.h>

#include "core/base/err.h"

struct home;

bool home_is_made(const char *dir); /* there is a state folder, of this or an older daemon */

/* ERR_CONFLICT if another daemon has the folder and keeps it for a while longer. */
struct home *home_open(const char *dir, struct err *err);
const char *home_dir(const struct home *h);
bool home_is_durable(const struct home *h); /* not a temporary folder */
void home_leave(struct home *h);
void home_free(struct home *h); /* accepts NULL */

#endif
