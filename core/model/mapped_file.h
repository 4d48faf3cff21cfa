/* A regular file mapped read-only.
 *
 * Thread: any. The operator's model files, trusted not to shrink while they are read at
 * boot; their contents are not trusted. A zeroed struct is a valid closed one. */
#ifndef PREFIXD_MAPPED_FILE_H
#define PREFIXD_MAPPED_FILE_H

#include "core/base/err.h"

#include <stddef.h>

struct mapped_file {
    const unsigned char *data;
    size_t len;
};

/* Messages name the file without its folders. */
int mapped_file_open(struct mapped_file *f, const char *path, struct err *err);
void mapped_file_close(struct mapped_file *f);

/* Takes whole pages of a range out of the mapping until they are read again. What lies outside
 * of the file is left alone. */
void mapped_file_forget(const struct mapped_file *f, const unsigned char *from, size_t len);

#endif
