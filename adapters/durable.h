/* Small steps on the file system for whoever must be able to say what is on disk.
 *
 * Thread: any. Folders are given as descriptors. -1 comes with ERR_IO and the system's
 * reason. What durable_write, durable_confirm (if it is the same) and
 * durable_folder returned 0 for is on disk, unless it is_volatile, which is never synced;
 * names need a durable_sync of their folder. */
#ifndef PREFIXD_DURABLE_H
#define PREFIXD_DURABLE_H

#include <stdbool.h>
#include <stddef.h>

#include "core/base/err.h"

/* Creates or truncates name and writes it; a crash may leave it short, so write it under a
 * temporary name and rename it. */
int durable_write(int dir, const char *name, const void *bytes, size_t len, bool is_volatile,
                  struct err *err);

/* Whether the regular file name holds exactly these bytes, which then are synced. */
int durable_confirm(int dir, const char *name, const void *bytes, size_t len, bool is_volatile,
                    bool *is_same, struct err *err);

/* Opens the folder name of dir, which is made if it is missing. */
int durable_folder(int dir, const char *name, bool is_volatile, struct err *err);
int durable_sync(int dir, struct err *err);

/* Removes a file, or a folder of files; not synced, and what cannot be removed stays. */
void durable_discard(int dir, const char *name);

/* Calls fn with every name in dir but "." and ".."; fn may remove it. With none if they
 * cannot be read to the last. */
int durable_each(int dir, void (*fn)(void *ud, const char *name), void *ud, struct err *err);

#endif
