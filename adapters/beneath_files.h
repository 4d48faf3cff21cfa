/* The files of an adapter at a path that a client names, below his folder (beneath.h): a
 * folder as PEFT saves it, or a .json file that is a text adapter. No message holds a path.
 *
 * Thread: any; blocks for the disk. Opening and reading are two steps, so that memory can
 * be set aside in between.
 *
 *     struct beneath_files f = {0};
 *     struct loaded l = {0};
 *     if (beneath_files_open(&f, root, "acme", path, max_bytes, &err) == 0 &&
 *         there is room for f.size)
 *         rc = beneath_files_read(&f, &l, &err);
 *     beneath_files_fini(&f);
 */
#ifndef PREFIXD_BENEATH_FILES_H
#define PREFIXD_BENEATH_FILES_H

#include "adapters/loaded.h"

#include <stdbool.h>
#include <stddef.h>

struct beneath_files {
    struct beneath_file {
        const char *name; /* as of an adapter's file */
        int fd;
        size_t size;
    } files[ADAPTER_MAX_FILES];
    int n;
    size_t size; /* of all */
};

/* max_bytes: of the weights file. What is opened is what is read, whatever happens to
 * names. */
int beneath_files_open(struct beneath_files *f, const char *root, const char *tenant,
                       const char *path, size_t max_bytes, struct err *err);
bool beneath_files_are_long(const struct beneath_files *f); /* to read, as of a change */
int beneath_files_read(struct beneath_files *f, struct loaded *out, struct err *err);
void beneath_files_fini(struct beneath_files *f);

#endif
