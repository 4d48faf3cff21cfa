/* The lock is flock's: it belongs to the open file that processes share over a fork, and
 * goes when the last of them has closed it or died. */
#include "adapters/home.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "adapters/durable.h"
#include "adapters/state_files.h"
#include "adapters/store_parts.h"
#include "core/base/buf.h"
#include "core/base/mem.h"

struct home {
    char *path;
    int lock; /* -1: left */
    bool is_temporary;
    pid_t opener;
};

static int choose_folder(struct home *h, const char *dir, struct err *err)
{
    struct buf made = {0};
    const char *tmp = getenv("TMPDIR");
    if (dir) {
        h->path = xstrdup(dir);
        return 0;
    }
    buf_printf(&made, "%s/prefixd-XXXXXX", tmp && tmp[0] ? tmp : "/tmp");
    h->is_temporary = mkdtemp(made.data) != NULL;
    h->path = buf_take(&made, NULL);
    if (!h->is_temporary)
        return err_set(err, ERR_IO,
                       "cannot make a temporary folder for adapters (TMPDIR): %s",
                       strerror(errno));
    return 0;
}

static bool has(const char *dir, const char *name)
{
    struct buf path = {0};
    buf_printf(&path, "%s/%s", dir, name);
    int rc = faccessat(AT_FDCWD, path.data, F_OK, 0);
    buf_free(&path);
    return rc == 0;
}

/* The oldest daemons had files in the registry's place. */
bool home_is_made(const char *dir)
{
    return has(dir, STATE_DB) || (has(dir, STATE_POINTERS) && has(dir, STATE_BLOBS));
}

static int take_lock(struct home *h, struct err *err)
{
    int dir = durable_folder(AT_FDCWD, h->path, h->is_temporary, err);
    if (dir < 0)
        return -1;
    h->lock = store_lock_folder(dir, STORE_LOCK_WAIT_MS, err);
    close(dir);
    return h->lock < 0 ? -1 : 0;
}

static int put_in_order(const struct home *h, struct err *err)
{
    const struct store_opts opts = {.dir = h->path, .is_volatile = h->is_temporary};
    struct store *s = store_open_as(&opts, true, err);
    int rc = s ? store_sweep(s, err) : -1;
    store_close(s);
    return rc;
}

struct home *home_open(const char *dir, struct err *err)
{
    struct home *h = xcalloc(1, sizeof *h);
    h->lock = -1;
    h->opener = getpid();
    if (choose_folder(h, dir, err) == 0 && take_lock(h, err) == 0 &&
        put_in_order(h, err) == 0)
        return h;
    home_free(h);
    return NULL;
}

const char *home_dir(const struct home *h)
{
    return h->path;
}

bool home_is_durable(const struct home *h)
{
    return !h->is_temporary;
}

void home_leave(struct home *h)
{
    if (h->lock >= 0)
        close(h->lock);
    h->lock = -1;
}

/* ---- a temporary folder's end -------------------------------------------------------- */

static void discard_in(void *ud, const char *name)
{
    durable_discard(*(int *)ud, name);
}

/* Removes files and folders of files in it. */
static void empty_folder(int parent, const char *name)
{
    int folder = openat(parent, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    if (folder < 0)
        return;
    durable_each(folder, discard_in, &folder, NULL);
    close(folder);
}

static void remove_temporary(const struct home *h)
{
    int dir = open(h->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir < 0)
        return;
    empty_folder(dir, STATE_BLOBS);
    empty_folder(AT_FDCWD, h->path);
    close(dir);
    rmdir(h->path);
}

void home_free(struct home *h)
{
    if (!h)
        return;
    home_leave(h);
    if (h->is_temporary && h->opener == getpid())
        remove_temporary(h);
    free(h->path);
    free(h);
}
