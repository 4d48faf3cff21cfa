/* Records in which order a process writes, syncs and answers. A library to be preloaded,
 * never linked:
 *
 *     cc -shared -fPIC -o order.so order.c -ldl
 *     ORDER_ROOT=/folder ORDER_LOG=/log ORDER_COUNT=/count LD_PRELOAD=./order.so COMMAND
 *
 * One line per call on a file below ORDER_ROOT, and per call that sends to a client or
 * writes to stdout:
 *
 *     BEGIN END PID CALL PATH [PATH2]        with tabs between
 *
 * Paths are relative to the root, which is ".".
 * BEGIN and END are taken from one counter (in the file ORDER_COUNT) that all processes
 * share: a call is over before another when its END is below the other's BEGIN. Answers are
 * logged before they are sent (END is 0), everything else when it is over, so whoever has
 * read an answer finds all before it in the log. Calls that failed are not logged. Calls:
 * write, sync, create, rename, unlink, mkdir, answer.
 *
 * ORDER_DROP=PATTERN makes it lie: syncs of matching paths (fnmatch, * ends at a slash) are
 * neither done nor logged, as a program would behave that forgot them. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { LINE_MAX_LEN = 2 * PATH_MAX + 128 };

static struct {
    char root[PATH_MAX];
    size_t root_len;
    int log;
    _Atomic unsigned long *count; /* NULL: nothing is recorded */
    const char *drop;
} order = {.log = -1};

/* The C library's, or that of whoever stands between. */
#define NEXT(type, name, ...)                                                              \
    static type (*next)(__VA_ARGS__);                                                      \
    if (!next)                                                                             \
    *(void **)&next = dlsym(RTLD_NEXT, name)

static void give_up(const char *what)
{
    fprintf(stderr, "order: %s: %s\n", what, strerror(errno));
    abort();
}

/* Without the interposed calls, which are not to be recorded here. */
static int open_raw(const char *path, int flags)
{
    return (int)syscall(SYS_openat, AT_FDCWD, path, flags | O_CLOEXEC, 0600);
}

__attribute__((constructor)) static void begin(void)
{
    const char *root = getenv("ORDER_ROOT"), *log = getenv("ORDER_LOG"),
               *count = getenv("ORDER_COUNT");
    if (!root || !log || !count)
        return;
    if (!realpath(root, order.root))
        give_up(root);
    order.root_len = strlen(order.root);
    order.drop = getenv("ORDER_DROP");
    order.log = open_raw(log, O_WRONLY | O_CREAT | O_APPEND);
    int fd = open_raw(count, O_RDWR | O_CREAT);
    if (order.log < 0 || fd < 0 || syscall(SYS_ftruncate, fd, sizeof *order.count) < 0)
        give_up(log);
    void *at = mmap(NULL, sizeof *order.count, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (at == MAP_FAILED)
        give_up(count);
    close(fd);
    order.count = at;
}

static unsigned long tick(void)
{
    return order.count ? atomic_fetch_add(order.count, 1) + 1 : 0;
}

/* ---- paths --------------------------------------------------------------------------- */

/* The part below the root, or NULL. */
static const char *below(const char *path)
{
    if (!order.count || strncmp(path, order.root, order.root_len) != 0)
        return NULL;
    path += order.root_len;
    return *path == '/' ? path + 1 : *path ? NULL : ".";
}

static const char *path_of_fd(int fd, char out[PATH_MAX])
{
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = order.count ? readlink(link, out, PATH_MAX - 1) : -1;
    if (n < 0)
        return NULL;
    out[n] = '\0';
    return below(out);
}

/* dir and path as the *at calls take them; what stands there need not exist. */
static const char *path_at(int dir, const char *path, char out[PATH_MAX])
{
    char folder[PATH_MAX], joined[2 * PATH_MAX], link[64];
    snprintf(link, sizeof link, dir == AT_FDCWD ? "/proc/self/cwd" : "/proc/self/fd/%d",
             dir);
    ssize_t n = readlink(link, folder, sizeof folder - 1);
    if (!order.count || n < 0)
        return NULL;
    folder[n] = '\0';
    snprintf(joined, sizeof joined, "%s/%s", folder, path);
    const char *whole = path[0] == '/' ? path : joined;
    const char *slash = strrchr(whole, '/');
    snprintf(folder, sizeof folder, "%.*s", (int)(slash - whole), whole);
    if (!realpath(folder[0] ? folder : "/", out))
        return NULL;
    size_t len = strlen(out);
    snprintf(out + len, PATH_MAX - len, "%s", slash);
    return below(out);
}

/* ---- the log ------------------------------------------------------------------------- */

static void record(unsigned long from, unsigned long to, const char *call, const char *path,
                   const char *path2)
{
    char line[LINE_MAX_LEN];
    int saved = errno;
    int n = snprintf(line, sizeof line, "%lu\t%lu\t%d\t%s\t%s%s%s\n", from, to,
                     (int)getpid(), call, path, path2 ? "\t" : "", path2 ? path2 : "");
    if (syscall(SYS_write, order.log, line, n) != n)
        give_up("the log");
    errno = saved;
}

static void record_fd(unsigned long from, const char *call, int fd)
{
    char whole[PATH_MAX];
    int saved = errno;
    const char *path = path_of_fd(fd, whole);
    if (path)
        record(from, tick(), call, path, NULL);
    errno = saved;
}

static void record_at(unsigned long from, const char *call, int dir, const char *name)
{
    char whole[PATH_MAX];
    int saved = errno;
    const char *path = path_at(dir, name, whole);
    if (path)
        record(from, tick(), call, path, NULL);
    errno = saved;
}

/* To a client, not to a process of the daemon's own. */
static bool is_network(int fd)
{
    int domain;
    socklen_t len = sizeof domain;
    return getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len) == 0 &&
           (domain == AF_INET || domain == AF_INET6);
}

/* Before it is sent. */
static void record_answer(int fd)
{
    int saved = errno;
    if (order.count && (fd == STDOUT_FILENO || is_network(fd)))
        record(tick(), 0, "answer", fd == STDOUT_FILENO ? "stdout" : "socket", NULL);
    errno = saved;
}

/* ---- writing and answering ----------------------------------------------------------- */

#define RECORD_WRITE(type, call)                                                           \
    unsigned long from = tick();                                                           \
    record_answer(fd);                                                                     \
    type n = call;                                                                         \
    if (n >= 0)                                                                            \
        record_fd(from, "write", fd);                                                      \
    return n

ssize_t write(int fd, const void *bytes, size_t len)
{
    NEXT(ssize_t, "write", int, const void *, size_t);
    RECORD_WRITE(ssize_t, next(fd, bytes, len));
}

ssize_t writev(int fd, const struct iovec *parts, int n_parts)
{
    NEXT(ssize_t, "writev", int, const struct iovec *, int);
    RECORD_WRITE(ssize_t, next(fd, parts, n_parts));
}

ssize_t pwrite(int fd, const void *bytes, size_t len, off_t at)
{
    NEXT(ssize_t, "pwrite", int, const void *, size_t, off_t);
    RECORD_WRITE(ssize_t, next(fd, bytes, len, at));
}

ssize_t pwrite64(int fd, const void *bytes, size_t len, off64_t at)
{
    NEXT(ssize_t, "pwrite64", int, const void *, size_t, off64_t);
    RECORD_WRITE(ssize_t, next(fd, bytes, len, at));
}

int ftruncate(int fd, off_t len)
{
    NEXT(int, "ftruncate", int, off_t);
    RECORD_WRITE(int, next(fd, len));
}

int ftruncate64(int fd, off64_t len)
{
    NEXT(int, "ftruncate64", int, off64_t);
    RECORD_WRITE(int, next(fd, len));
}

ssize_t send(int fd, const void *bytes, size_t len, int flags)
{
    NEXT(ssize_t, "send", int, const void *, size_t, int);
    record_answer(fd);
    return next(fd, bytes, len, flags);
}

ssize_t sendto(int fd, const void *bytes, size_t len, int flags, const struct sockaddr *to,
               socklen_t to_len)
{
    NEXT(ssize_t, "sendto", int, const void *, size_t, int, const struct sockaddr *,
         socklen_t);
    record_answer(fd);
    return next(fd, bytes, len, flags, to, to_len);
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags)
{
    NEXT(ssize_t, "sendmsg", int, const struct msghdr *, int);
    record_answer(fd);
    return next(fd, message, flags);
}

ssize_t sendfile(int fd, int in, off_t *at, size_t len)
{
    NEXT(ssize_t, "sendfile", int, int, off_t *, size_t);
    record_answer(fd);
    return next(fd, in, at, len);
}

ssize_t sendfile64(int fd, int in, off64_t *at, size_t len)
{
    NEXT(ssize_t, "sendfile64", int, int, off64_t *, size_t);
    record_answer(fd);
    return next(fd, in, at, len);
}

/* ---- syncing ------------------------------------------------------------------------- */

static bool is_dropped(int fd)
{
    char whole[PATH_MAX];
    const char *path = order.drop ? path_of_fd(fd, whole) : NULL;
    return path && fnmatch(order.drop, path, FNM_PATHNAME) == 0;
}

static int sync_with(int (*next)(int), int fd)
{
    unsigned long from = tick();
    if (is_dropped(fd))
        return 0;
    int rc = next(fd);
    if (rc == 0)
        record_fd(from, "sync", fd);
    return rc;
}

int fsync(int fd)
{
    NEXT(int, "fsync", int);
    return sync_with(next, fd);
}

int fdatasync(int fd)
{
    NEXT(int, "fdatasync", int);
    return sync_with(next, fd);
}

/* ---- names --------------------------------------------------------------------------- */

static bool is_missing(int dir, const char *path)
{
    struct stat st;
    return fstatat(dir, path, &st, AT_SYMLINK_NOFOLLOW) < 0;
}

/* What makes a file is logged as such, and what cuts one as a write. */
static int opened(int fd, unsigned long from, int flags, bool is_new)
{
    if (fd >= 0 && is_new)
        record_fd(from, "create", fd);
    else if (fd >= 0 && (flags & O_TRUNC))
        record_fd(from, "write", fd);
    return fd;
}

#define MODE_OF(flags)                                                                     \
    mode_t mode = 0;                                                                       \
    if ((flags) & (O_CREAT | __O_TMPFILE)) {                                               \
        va_list ap;                                                                        \
        va_start(ap, flags);                                                               \
        mode = va_arg(ap, mode_t);                                                         \
        va_end(ap);                                                                        \
    }

#define OPEN(name, dir, path, flags, call)                                                 \
    MODE_OF(flags)                                                                         \
    int saved = errno;                                                                     \
    bool is_new = order.count && ((flags)&O_CREAT) && is_missing(dir, path);               \
    unsigned long from = tick();                                                           \
    errno = saved;                                                                         \
    return opened(call, from, flags, is_new)

int open(const char *path, int flags, ...)
{
    NEXT(int, "open", const char *, int, ...);
    OPEN("open", AT_FDCWD, path, flags, next(path, flags, mode));
}

int open64(const char *path, int flags, ...)
{
    NEXT(int, "open64", const char *, int, ...);
    OPEN("open64", AT_FDCWD, path, flags, next(path, flags, mode));
}

int openat(int dir, const char *path, int flags, ...)
{
    NEXT(int, "openat", int, const char *, int, ...);
    OPEN("openat", dir, path, flags, next(dir, path, flags, mode));
}

int openat64(int dir, const char *path, int flags, ...)
{
    NEXT(int, "openat64", int, const char *, int, ...);
    OPEN("openat64", dir, path, flags, next(dir, path, flags, mode));
}

#define RECORD_NAME(what, dir, path, call)                                                 \
    unsigned long from = tick();                                                           \
    int rc = call;                                                                         \
    if (rc == 0)                                                                           \
        record_at(from, what, dir, path);                                                  \
    return rc

int mkdir(const char *path, mode_t mode)
{
    NEXT(int, "mkdir", const char *, mode_t);
    RECORD_NAME("mkdir", AT_FDCWD, path, next(path, mode));
}

int mkdirat(int dir, const char *path, mode_t mode)
{
    NEXT(int, "mkdirat", int, const char *, mode_t);
    RECORD_NAME("mkdir", dir, path, next(dir, path, mode));
}

int unlink(const char *path)
{
    NEXT(int, "unlink", const char *);
    RECORD_NAME("unlink", AT_FDCWD, path, next(path));
}

int rmdir(const char *path)
{
    NEXT(int, "rmdir", const char *);
    RECORD_NAME("unlink", AT_FDCWD, path, next(path));
}

int unlinkat(int dir, const char *path, int flags)
{
    NEXT(int, "unlinkat", int, const char *, int);
    RECORD_NAME("unlink", dir, path, next(dir, path, flags));
}

static int renamed(int rc, unsigned long from, int dir, const char *path, int dir2,
                   const char *path2)
{
    char whole[PATH_MAX], whole2[PATH_MAX];
    int saved = errno;
    const char *a = rc == 0 ? path_at(dir, path, whole) : NULL,
               *b = rc == 0 ? path_at(dir2, path2, whole2) : NULL;
    if (a || b)
        record(from, tick(), "rename", a ? a : "outside", b ? b : "outside");
    errno = saved;
    return rc;
}

int rename(const char *path, const char *path2)
{
    NEXT(int, "rename", const char *, const char *);
    unsigned long from = tick();
    return renamed(next(path, path2), from, AT_FDCWD, path, AT_FDCWD, path2);
}

int renameat(int dir, const char *path, int dir2, const char *path2)
{
    NEXT(int, "renameat", int, const char *, int, const char *);
    unsigned long from = tick();
    return renamed(next(dir, path, dir2, path2), from, dir, path, dir2, path2);
}

int renameat2(int dir, const char *path, int dir2, const char *path2, unsigned flags)
{
    NEXT(int, "renameat2", int, const char *, int, const char *, unsigned);
    unsigned long from = tick();
    return renamed(next(dir, path, dir2, path2, flags), from, dir, path, dir2, path2);
}
