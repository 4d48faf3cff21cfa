/* fsync in the right places. */
#include "adapters/durable.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "adapters/file_read.h"
#include "core/base/mem.h"

static int failed(struct err *err, const char *what)
{
    return err_set(err, ERR_IO, "%s failed in the state folder: %s", what, strerror(errno));
}

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

int durable_write(int dir, const char *name, const void *bytes, size_t len, bool is_volatile,
                  struct err *err)
{
    int fd = openat(dir, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return failed(err, "creating a file");
    int rc = write_all(fd, bytes, len) < 0 || (!is_volatile && fsync(fd) < 0)
                 ? failed(err, "writing")
                 : 0;
    if (close(fd) < 0 && rc == 0)
        rc = failed(err, "closing a file");
    return rc;
}

static bool has_bytes(int fd, const char *bytes, size_t len)
{
    char chunk[16384];
    ssize_t n;
    while ((n = read(fd, chunk, sizeof chunk)) != 0) {
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 || (size_t)n > len || memcmp(chunk, bytes, (size_t)n) != 0)
            return false;
        bytes += n;
        len -= (size_t)n;
    }
    return len == 0;
}

/* What cannot be read is as good as other bytes: the caller writes it anew. */
int durable_confirm(int dir, const char *name, const void *bytes, size_t len, bool is_volatile,
                    bool *is_same, struct err *err)
{
    int fd = file_open(dir, name, NULL, NULL);
    *is_same = fd >= 0 && has_bytes(fd, bytes, len);
    int rc = *is_same && !is_volatile && fsync(fd) < 0 ? failed(err, "syncing a file") : 0;
    if (fd >= 0)
        close(fd);
    return rc;
}

int durable_sync(int dir, struct err *err)
{
    return fsync(dir) < 0 ? failed(err, "syncing") : 0;
}

static int sync_parent(int folder, struct err *err)
{
    int parent = openat(folder, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (parent < 0)
        return failed(err, "opening the parent of a folder");
    int rc = durable_sync(parent, err);
    close(parent);
    return rc;
}

int durable_folder(int dir, const char *name, bool is_volatile, struct err *err)
{
    bool is_new = mkdirat(dir, name, 0700) == 0;
    if (!is_new && errno != EEXIST)
        return failed(err, "making a folder");
    int fd = openat(dir, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return failed(err, "opening a folder");
    if (is_new && !is_volatile && sync_parent(fd, err) < 0) {
        close(fd);
        return -1;
    }
    return fd;
}

static void unlink_in(void *ud, const char *name)
{
    unlinkat(*(int *)ud, name, 0);
}

void durable_discard(int dir, const char *name)
{
    int folder = openat(dir, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    if (folder < 0) {
        unlinkat(dir, name, 0);
        return;
    }
    durable_each(folder, unlink_in, &folder, NULL);
    close(folder);
    unlinkat(dir, name, AT_REMOVEDIR);
}

static DIR *open_listing(int dir)
{
    int own = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = own < 0 ? NULL : fdopendir(own);
    if (!d && own >= 0)
        close(own);
    return d;
}

struct names {
    char **at;
    size_t n;
};

static int take_names(DIR *d, struct names *out, struct err *err)
{
    struct dirent *entry;
    while ((errno = 0, entry = readdir(d))) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        out->at = xrealloc(out->at, (out->n + 1) * sizeof *out->at);
        out->at[out->n++] = xstrdup(entry->d_name);
    }
    return errno ? failed(err, "reading a folder") : 0;
}

/* Names are taken first: removing entries while reading a folder may skip others. */
int durable_each(int dir, void (*fn)(void *ud, const char *name), void *ud, struct err *err)
{
    struct names names = {0};
    DIR *d = open_listing(dir);
    if (!d)
        return failed(err, "reading a folder");
    int rc = take_names(d, &names, err);
    closedir(d);
    for (size_t i = 0; i < names.n; i++) {
        if (rc == 0)
            fn(ud, names.at[i]);
        free(names.at[i]);
    }
    free(names.at);
    return rc;
}
