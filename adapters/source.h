/* Where the files that an adapter was given as can be read again, when no store keeps them.
 *
 * Thread: source_keep and source_name any; source_open any once made. What was sent is kept in sealed
 * memory files; what came from a folder is opened there again, and only if it is still the same. */
#ifndef PREFIXD_SOURCE_H
#define PREFIXD_SOURCE_H

#include "adapters/adapters.h"
#include "adapters/file_read.h"

struct source_file {
    char *name;
    int memory;              /* descriptor, -1: on disk */
    char *path;              /* on disk; NULL: in memory */
    struct file_stamp stamp;
};

struct source { /* zeroed = empty */
    struct source_file files[ADAPTER_MAX_FILES];
    int n_files;
};

/* Copies a file into memory. */
int source_keep(struct source *s, const struct adapter_file *f, struct err *err);

/* Notes a file of a folder by its path. */
void source_name(struct source *s, const char *name, const char *path,
                 const struct file_stamp *stamp);

/* A new read-only descriptor, or -1 with ERR_NOT_FOUND or ERR_CONFLICT. */
int source_open(const struct source *s, const char *name, struct err *err);

void source_fini(struct source *s);

#endif
