/* A memfd, its seals and its mappings. */
#define _GNU_SOURCE /* memfd_create, seals */
#include "core/model/image_memory.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25 /* Linux 6.1 */
#endif

enum { SEALS = F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL };

enum { AT_ONCE = 16 }; /* huge pages of a task */

static const size_t huge_page = 2u << 20;

/* At a multiple of a huge page's size, without which the kernel would not map those. */
static void *map_aligned(int fd, size_t bytes, int prot, int flags)
{
    size_t room = bytes + huge_page;
    char *start = mmap(NULL, room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                       -1, 0);
    if (start == MAP_FAILED)
        return NULL;
    size_t head = -(uintptr_t)start & (huge_page - 1);
    char *base = mmap(start + head, bytes, prot, flags | MAP_FIXED, fd, 0);
    if (base == MAP_FAILED) {
        int why = errno;
        munmap(start, room);
        errno = why;
        return NULL;
    }
    size_t page = (size_t)sysconf(_SC_PAGESIZE), used = (bytes + page - 1) & ~(page - 1);
    if (head)
        munmap(start, head);
    if (room > head + used)
        munmap(base + used, room - head - used);
    return base;
}

struct huge_pages {
    int fd;
    char *base;
    size_t bytes; /* whole huge pages */
};

/* The kernel makes a huge page of small ones by copying them. So the first small page of each is
 * made, and the rest asked for while there is nothing to copy. */
static void make_huge_pages(void *arg, int task, int thread)
{
    const struct huge_pages *h = arg;
    size_t first = (size_t)task * AT_ONCE * huge_page, end = first + AT_ONCE * huge_page;
    (void)thread;
    if (end > h->bytes)
        end = h->bytes;
    for (size_t at = first; at < end; at += huge_page)
        if (fallocate(h->fd, 0, (off_t)at, 1) < 0)
            return;
    madvise(h->base + first, end - first, MADV_COLLAPSE);
}

/* A wish: what is not granted comes in small pages. */
static void want_huge_pages(int fd, size_t bytes, struct par *par)
{
    struct huge_pages h = {.fd = fd, .bytes = bytes / huge_page * huge_page};
    size_t n_tasks = (h.bytes / huge_page + AT_ONCE - 1) / AT_ONCE;
    if (!h.bytes)
        return;
    h.base = map_aligned(fd, h.bytes, PROT_READ | PROT_WRITE, MAP_SHARED);
    if (!h.base)
        return;
    par_for(par, (int)n_tasks, make_huge_pages, &h);
    munmap(h.base, h.bytes);
}

/* All pages now: a page that is missing later would end the process when touched. */
static int provide(int fd, uint64_t bytes, struct par *par)
{
    if (bytes > INT64_MAX || ftruncate(fd, (off_t)bytes) < 0)
        return -1;
    want_huge_pages(fd, bytes, par);
    return fallocate(fd, 0, 0, (off_t)bytes);
}

int image_memory_new(uint64_t bytes, struct par *par, struct err *err)
{
    int fd = memfd_create("prefixd-model", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return err_set(err, ERR_NO_MEMORY, "no memory file for the model: %s",
                       strerror(errno));
    if (provide(fd, bytes, par) == 0)
        return fd;
    close(fd);
    return err_set(err, ERR_NO_MEMORY,
                   "no memory for the model: %llu bytes of packed weights",
                   (unsigned long long)bytes);
}

unsigned char *image_memory_map_writable(int fd, size_t bytes, struct err *err)
{
    unsigned char *base = map_aligned(fd, bytes, PROT_READ | PROT_WRITE, MAP_SHARED);
    if (!base)
        err_set(err, ERR_NO_MEMORY, "the model's memory cannot be mapped: %s",
                strerror(errno));
    return base;
}

void image_memory_unmap(const void *base, size_t bytes)
{
    munmap((void *)(uintptr_t)base, bytes);
}

int image_memory_seal(int fd, struct err *err)
{
    if (fcntl(fd, F_ADD_SEALS, SEALS) < 0)
        return err_set(err, ERR_INTERNAL, "the model's memory cannot be sealed: %s",
                       strerror(errno));
    return 0;
}

/* Kernels before 6.7 refuse a shared mapping of sealed memory even for reading. A private
 * one shares the pages all the same, as nobody can write to them. */
static void *map_read_only(int fd, size_t bytes)
{
    void *base = map_aligned(fd, bytes, PROT_READ, MAP_SHARED);
    if (!base && errno == EPERM)
        base = map_aligned(fd, bytes, PROT_READ, MAP_PRIVATE);
    return base;
}

const unsigned char *image_memory_map_sealed(int fd, size_t *bytes, struct err *err)
{
    struct stat st;
    int seals = fcntl(fd, F_GET_SEALS);
    if (seals < 0 || (seals & SEALS) != SEALS) {
        err_set(err, ERR_INVALID, "the model's memory is not sealed");
        return NULL;
    }
    if (fstat(fd, &st) < 0 || st.st_size <= 0) {
        err_set(err, ERR_INVALID, "the model's memory is empty");
        return NULL;
    }
    *bytes = (size_t)st.st_size;
    void *base = map_read_only(fd, *bytes);
    if (!base)
        err_set(err, ERR_NO_MEMORY, "the model's memory cannot be mapped: %s",
                strerror(errno));
    return base;
}
