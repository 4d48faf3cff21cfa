/* Memory files and remembered paths. */
#define _GNU_SOURCE
#include "adapters/kept.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core/base/check.h"
#include "core/base/mem.h"

static int write_all(int fd, const char *bytes, size_t len)
{
    while (len > 0) {
        ssize_t n = write(fd, bytes, len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -1;
        bytes += n;
        len -= (size_t)n;
    }
    return 0;
}

int kept_copy(struct kept *s, const struct adapter_file *f, struct err *err)
{
    CHECK(s->n_files < ADAPTER_MAX_FILES);
    int fd = memfd_create("adapter", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return err_set(err, ERR_NO_MEMORY, "no memory to keep %s: %s", f->name, strerror(errno));
    if (write_all(fd, f->bytes, f->len) < 0 ||
        fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL) < 0) {
        err_set(err, ERR_NO_MEMORY, "no memory to keep %s: %s", f->name, strerror(errno));
        close(fd);
        return -1;
    }
    s->files[s->n_files++] = (struct kept_file){.name = xstrdup(f->name), .memory = fd};
    return 0;
}

void kept_note(struct kept *s, const char *name, const char *path,
                 const struct file_stamp *stamp)
{
    CHECK(s->n_files < ADAPTER_MAX_FILES);
    s->files[s->n_files++] = (struct kept_file){
        .name = xstrdup(name), .memory = -1, .path = xstrdup(path), .stamp = *stamp};
}

/* Opened anew, so that every reader has an offset of its own. */
static int open_memory(int memory, struct err *err)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", memory);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    return fd < 0 ? err_set(err, ERR_IO, "cannot open the file: %s", strerror(errno)) : fd;
}

static int open_path(const struct kept_file *f, struct err *err)
{
    struct file_stamp now;
    struct err why = {0};
    int fd = file_open(AT_FDCWD, f->path, &now, &why);
    if (fd >= 0 && file_stamp_is_same(&now, &f->stamp))
        return fd;
    if (fd >= 0)
        close(fd);
    return err_set(err, ERR_CONFLICT,
                   "%s was changed in the adapters folder after it was loaded", f->name);
}

int kept_open(const struct kept *s, const char *name, struct err *err)
{
    for (int i = 0; i < s->n_files; i++) {
        const struct kept_file *f = &s->files[i];
        if (strcmp(f->name, name) == 0)
            return f->path ? open_path(f, err) : open_memory(f->memory, err);
    }
    return err_set(err, ERR_NOT_FOUND, "the adapter has no such file");
}

bool kept_is_on_disk(const struct kept *s)
{
    return s->n_files > 0 && s->files[0].path;
}

void kept_swap(struct kept *a, struct kept *b)
{
    struct kept was = *a;
    *a = *b;
    *b = was;
}

void kept_fini(struct kept *s)
{
    for (int i = 0; i < s->n_files; i++) {
        if (s->files[i].memory >= 0)
            close(s->files[i].memory);
        free(s->files[i].name);
        free(s->files[i].path);
    }
    memset(s, 0, sizeof *s);
}
