/* The folders below a watched one that the kernel has to tell movements of: one watch for
 * each.
 *
 * Thread: loop. A folder that was removed takes its watch with it, and another of its name
 * may stand there at once; so whoever told a movement is watched anew before the next look.
 *
 *     struct watch_dirs *d = watch_dirs_new(loop, "/srv/adapters", on_moved, ud);
 *     watch_dirs_renew(d);                   before a scan
 *     if (watch_dirs_follow(d, &scan)) ...   after it; true: new ones, so look once more
 */
#ifndef PREFIXD_WATCH_DIRS_H
#define PREFIXD_WATCH_DIRS_H

#include "adapters/folder.h"

#include <stdbool.h>

struct loop;
struct watch_dirs;

struct watch_dirs *watch_dirs_new(struct loop *l, const char *root,
                                  void (*on_moved)(void *ud), void *ud);
void watch_dirs_free(struct watch_dirs *d); /* before the loop; accepts NULL */

void watch_dirs_renew(struct watch_dirs *d);
bool watch_dirs_follow(struct watch_dirs *d, const struct folder *seen);
bool watch_dirs_are_blind(const struct watch_dirs *d); /* some are not watched */

#endif
