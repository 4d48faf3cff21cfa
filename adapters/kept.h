/* Where the files of an adapter that came from a folder can be read again: they are opened
 * there, and only if they are still the same.
 *
 * Thread: kept_note any; kept_open any once made. */
#ifndef PREFIXD_KEPT_H
#define PREFIXD_KEPT_H

#include "adapters/adapters.h"
#include "adapters/file_read.h"

struct kept_file {
    char *name;
    char *path;
    struct file_stamp stamp;
};

struct kept { /* zeroed = empty */
    struct kept_file files[ADAPTER_MAX_FILES];
    int n_files;
};

/* Notes a file of a folder by its path. */
void kept_note(struct kept *s, const char *name, const char *path,
               const struct file_stamp *stamp);

/* A new read-only descriptor, or -1 with ERR_NOT_FOUND or ERR_CONFLICT. */
int kept_open(const struct kept *s, const char *name, struct err *err);

void kept_fini(struct kept *s);

#endif
