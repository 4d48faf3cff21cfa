/* A copy of the registry in one file, taken while daemons serve.
 *
 * Thread: any; blocks for the disk. The file is a pax archive which, unpacked into an empty
 * folder, is a state folder: registry.db as it was at one moment, and blobs/ with what that
 * moment's versions are made of: all of it, or there is no backup. It holds hashes of keys
 * and everybody's adapters, so it is readable by its owner alone.
 *
 *     struct backup_stats done;
 *     if (backup_write(store, "/backups/monday.tar", &done, &err) < 0) return -1;
 */
#ifndef PREFIXD_BACKUP_H
#define PREFIXD_BACKUP_H

#include <stdint.h>

#include "adapters/store.h"
#include "core/base/err.h"

struct backup_stats {
    int64_t n_blobs;
    int64_t bytes; /* of the archive */
};

/* Written as "<path>.partial", synced and renamed: path is the whole backup or what it was
 * before. While it runs no process collects blobs. out may be NULL. ERR_CONFLICT if another
 * backup is being written to path. Messages name files: for the operator alone. */
int backup_write(struct store *s, const char *path, struct backup_stats *out,
                 struct err *err);

#endif
