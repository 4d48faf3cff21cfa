/* Reads whole regular files into private memory, with a limit.
 *
 * Thread: any. */
#ifndef PREFIXD_FILE_READ_H
#define PREFIXD_FILE_READ_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/stat.h>

#include "core/base/err.h"

/* What tells one state of a file from another. */
struct file_stamp {
    unsigned long long dev, ino;
    long long size, mtime_s;
    long mtime_ns;
};

/* The file name of folder dir (AT_FDCWD: of the working folder), opened read-only; refused
 * unless it is a regular file. ERR_NOT_FOUND if there is none. stamp may be NULL. */
int file_open(int dir, const char *name, struct file_stamp *stamp, struct err *err);

/* Its bytes, in heap memory (free), followed by a NUL that *len does not count; NULL +
 * err. */
void *file_read(int dir, const char *name, size_t most, size_t *len, struct file_stamp *stamp,
                struct err *err);

/* The same of an open file, from where it stands; the descriptor stays the caller's. */
void *file_read_fd(int fd, size_t most, size_t *len, struct err *err);

bool file_stamp_is_same(const struct file_stamp *a, const struct file_stamp *b);

#endif
