/* Where the files that an adapter was given as can be read again, when no store keeps them.
 *
 * Thread: kept_copy and kept_note any; kept_open any once made. What was sent is kept in
 * sealed memory files; what came from a folder is opened there again, and only if it is
 * still the same. */
#ifndef PREFIXD_KEPT_H
#define PREFIXD_KEPT_H

#include "adapters/adapters.h"
#include "adapters/file_read.h"

struct kept_file {
    char *name;
    int memory;              /* descriptor, -1: on disk */
    char *path;              /* on disk; NULL: in memory */
    struct file_stamp stamp;
};

struct kept { /* zeroed = empty */
    struct kept_file files[ADAPTER_MAX_FILES];
    int n_files;
};

/* Copies a file into memory. */
int kept_copy(struct kept *s, const struct adapter_file *f, struct err *err);

/* Notes a file of a folder by its path. */
void kept_note(struct kept *s, const char *name, const char *path,
                 const struct file_stamp *stamp);

/* A new read-only descriptor, or -1 with ERR_NOT_FOUND or ERR_CONFLICT. */
int kept_open(const struct kept *s, const char *name, struct err *err);

bool kept_is_on_disk(const struct kept *s);
void kept_swap(struct kept *a, struct kept *b);
void kept_fini(struct kept *s);

#endif
