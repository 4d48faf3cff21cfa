/* Opening, checking and reading of one regular file. */
#include "adapters/file_read.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/mem.h"

/* The same descriptor is opened, checked and read, so that no other file can slip in
 * between. O_NONBLOCK keeps a FIFO from blocking the open before it can be refused. */
int file_open(int dir, const char *name, struct file_stamp *stamp, struct err *err)
{
    struct stat st;
    int fd = openat(dir, name, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0)
        return err_set(err, errno == ENOENT || errno == ENOTDIR ? ERR_NOT_FOUND : ERR_IO,
                       "cannot open the file: %s", strerror(errno));
    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) {
        close(fd);
        return err_set(err, ERR_ADAPTER, "not a regular file");
    }
    if (stamp)
        *stamp = (struct file_stamp){
            .dev = st.st_dev, .ino = st.st_ino, .size = st.st_size,
            .mtime_s = st.st_mtim.tv_sec, .mtime_ns = st.st_mtim.tv_nsec};
    return fd;
}

static int read_all(int fd, char *out, size_t len, struct err *err)
{
    size_t done = 0;
    while (done < len) {
        ssize_t n = read(fd, out + done, len - done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_set(err, ERR_IO, "reading failed: %s", strerror(errno));
        if (n == 0)
            return err_set(err, ERR_IO, "the file became shorter while it was read");
        done += (size_t)n;
    }
    return 0;
}

static void *read_sized(int fd, size_t size, size_t most, struct err *err)
{
    if (size > most) {
        err_set(err, ERR_TOO_LARGE, "the file has %zu bytes; at most %zu are accepted", size, most);
        return NULL;
    }
    char *bytes = mem_try_calloc(size + 1, 1);
    if (!bytes) {
        err_set(err, ERR_NO_MEMORY, "no memory for a file of %zu bytes", size);
        return NULL;
    }
    if (read_all(fd, bytes, size, err) == 0)
        return bytes;
    free(bytes);
    return NULL;
}

void *file_read_fd(int fd, size_t most, size_t *len, struct err *err)
{
    struct stat st;
    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) {
        err_set(err, ERR_ADAPTER, "not a regular file");
        return NULL;
    }
    *len = (size_t)st.st_size;
    return read_sized(fd, *len, most, err);
}

void *file_read(int dir, const char *name, size_t most, size_t *len, struct file_stamp *stamp,
                struct err *err)
{
    struct file_stamp own;
    int fd = file_open(dir, name, &own, err);
    if (fd < 0)
        return NULL;
    void *bytes = read_sized(fd, (size_t)own.size, most, err);
    close(fd);
    *len = (size_t)own.size;
    if (stamp)
        *stamp = own;
    return bytes;
}

bool file_stamp_is_same(const struct file_stamp *a, const struct file_stamp *b)
{
    return a->dev == b->dev && a->ino == b->ino && a->size == b->size &&
           a->mtime_s == b->mtime_s && a->mtime_ns == b->mtime_ns;
}
