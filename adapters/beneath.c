/* Opening paths that nobody vouches for, by openat2. */
#include "adapters/beneath.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "core/base/mem.h"

/* How often a path is tried again that somebody renames in the meantime. */
enum { TRIES = 16 };

static int refuse(int error, struct err *err)
{
    switch (error) {
    case ENOENT:
    case ENOTDIR:
        return err_set(err, ERR_NOT_FOUND,
                       "Nothing is at this path in the tenant's folder");
    case EXDEV:
        return err_set(err, ERR_INVALID, "The path leads out of the tenant's folder");
    case ELOOP:
        return err_set(err, ERR_INVALID,
                       "The path leads over a symbolic link, which is refused");
    case ENAMETOOLONG:
        return err_set(err, ERR_INVALID, "The path is too long");
    case ENOSYS:
    case EPERM: /* what older sandboxes say to calls that they do not know */
        return err_set(err, ERR_FORBIDDEN,
                       "The kernel here cannot keep a path in its folder "
                       "(openat2), so none is opened");
    default:
        return err_set(err, ERR_IO, "The path cannot be opened: %s", strerror(error));
    }
}

static int open_below(int dir, const char *path, int flags, struct err *err)
{
    const struct open_how how = {
        .flags = (unsigned long long)(flags | O_CLOEXEC),
        .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS,
    };
    long fd = -1;
    for (int i = 0; i < TRIES && fd < 0; i++) {
        fd = syscall(SYS_openat2, dir, path, &how, sizeof how);
        if (fd < 0 && errno != EAGAIN && errno != EINTR)
            break;
    }
    return fd < 0 ? refuse(errno, err) : (int)fd;
}

int beneath_open_home(const char *root, const char *name, struct err *err)
{
    int dir = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir < 0)
        return refuse(errno, err);
    int fd = open_below(dir, name, O_RDONLY | O_DIRECTORY, err);
    close(dir);
    return fd;
}

/* What follows root/name/ in path, or NULL. */
static const char *rest_of(const char *root, const char *name, const char *path)
{
    size_t n_root = strlen(root), n_name = strlen(name);
    while (n_root > 1 && root[n_root - 1] == '/')
        n_root--;
    if (n_root == 0 || strncmp(path, root, n_root) != 0 || path[n_root] != '/')
        return NULL;
    path += n_root + strspn(path + n_root, "/");
    if (strncmp(path, name, n_name) != 0 || path[n_name] != '/')
        return NULL;
    path += n_name;
    return path + strspn(path, "/");
}

/* Clients may know the folder by the operator's word for it or by its real path. */
static const char *rest_of_either(const char *root, const char *name, const char *path)
{
    const char *rest = rest_of(root, name, path);
    char *real = rest ? NULL : realpath(root, NULL);
    if (real)
        rest = rest_of(real, name, path);
    free(real);
    return rest;
}

char *beneath_relative(const char *root, const char *name, const char *path,
                       struct err *err)
{
    if (strlen(path) > BENEATH_MAX_PATH) {
        refuse(ENAMETOOLONG, err);
        return NULL;
    }
    const char *rest = path[0] == '/' ? rest_of_either(root, name, path) : path;
    if (rest && rest[0])
        return xstrdup(rest);
    refuse(EXDEV, err);
    return NULL;
}

/* O_NONBLOCK keeps a FIFO from blocking the open before it can be refused. */
int beneath_open(int home, const char *path, struct err *err)
{
    struct stat st;
    int fd = open_below(home, path, O_RDONLY | O_NONBLOCK | O_NOCTTY, err);
    if (fd < 0)
        return -1;
    if (fstat(fd, &st) == 0 && (S_ISREG(st.st_mode) || S_ISDIR(st.st_mode)))
        return fd;
    close(fd);
    return err_set(err, ERR_INVALID, "Only folders and regular files are opened");
}
