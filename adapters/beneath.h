/* Opening what a client names by a path, below a folder that it can never leave: the kernel
 * refuses "..", absolute paths and symbolic links that would (openat2). No message holds a
 * path.
 *
 * Thread: any; blocks for the disk.
 *
 *     int home = beneath_open_home("/srv/a", "acme", &err);     the operator's words
 *     char *path = beneath_relative("/srv/a", "acme", "/srv/a/acme/sql", &err);
 *     int fd = beneath_open(home, path, &err);                  the client's
 */
#ifndef PREFIXD_BENEATH_H
#define PREFIXD_BENEATH_H

#include "core/base/err.h"

enum { BENEATH_MAX_PATH = 1024 };

/* A descriptor of the folder name below root. ERR_NOT_FOUND. */
int beneath_open_home(const char *root, const char *name, struct err *err);

/* The path below root/name, on the heap: a relative one as it is, an absolute one only if
 * it begins with that very folder. ERR_INVALID. */
char *beneath_relative(const char *root, const char *name, const char *path,
                       struct err *err);

/* A read-only descriptor of a folder or a regular file below the folder home; nothing else
 * is opened. ERR_NOT_FOUND if there is nothing, ERR_INVALID if the path leads out or over a
 * link or is of another kind, ERR_FORBIDDEN where the kernel cannot promise that. */
int beneath_open(int home, const char *path, struct err *err);

#endif
