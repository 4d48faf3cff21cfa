/* Mapping of regular files. */
#include "core/model/mapped_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash && slash[1] ? slash + 1 : path;
}

static int map_fd(struct mapped_file *f, int fd, const char *name, struct err *err)
{
    struct stat st;
    if (fstat(fd, &st) < 0)
        return err_set(err, ERR_IO, "%s: %s", name, strerror(errno));
    if (!S_ISREG(st.st_mode))
        return err_set(err, ERR_INVALID, "%s is not a regular file", name);
    if (st.st_size == 0)
        return err_set(err, ERR_INVALID, "%s is empty", name);
    void *p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (p == MAP_FAILED)
        return err_set(err, ERR_IO, "%s: %s", name, strerror(errno));
    f->data = p;
    f->len = (size_t)st.st_size;
    return 0;
}

int mapped_file_open(struct mapped_file *f, const char *path, struct err *err)
{
    memset(f, 0, sizeof *f);
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return err_set(err, errno == ENOENT ? ERR_NOT_FOUND : ERR_IO, "%s: %s",
                       base_name(path), strerror(errno));
    int rc = map_fd(f, fd, base_name(path), err);
    close(fd);
    return rc;
}

void mapped_file_close(struct mapped_file *f)
{
    if (f->data)
        munmap((void *)(uintptr_t)f->data, f->len);
    memset(f, 0, sizeof *f);
}

/* Of pages at the range's ends others may still want the rest. */
void mapped_file_forget(const struct mapped_file *f, const unsigned char *from, size_t len)
{
    uintptr_t start = (uintptr_t)f->data, at = (uintptr_t)from;
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    if (at < start || at - start > f->len || len > f->len - (at - start))
        return;
    uintptr_t first = (at + page - 1) & ~(page - 1), end = (at + len) & ~(page - 1);
    if (end > first)
        madvise((void *)first, end - first, MADV_DONTNEED);
}
