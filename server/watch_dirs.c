/* Keeping a watch on the root of a folder of adapters and on every folder in it. */
#include "server/watch_dirs.h"

#include "core/base/buf.h"
#include "core/base/log.h"
#include "core/base/mem.h"
#include "server/loop.h"

#include <stdlib.h>
#include <string.h>

struct dir {
    struct watch_dirs *all;
    struct loop_folder *watch; /* NULL: the kernel would not */
    bool has_moved;
    char *path; /* below the root; "" of the root itself */
};

struct watch_dirs {
    struct loop *loop;
    char *root;
    void (*on_moved)(void *ud);
    void *ud;
    struct dir **dirs; /* by path */
    size_t n;
    bool is_blind, is_told;
};

struct watch_dirs *watch_dirs_new(struct loop *l, const char *root,
                                  void (*on_moved)(void *ud), void *ud)
{
    struct watch_dirs *d = xcalloc(1, sizeof *d);
    *d = (struct watch_dirs){
        .loop = l, .root = xstrdup(root), .on_moved = on_moved, .ud = ud};
    return d;
}

static void on_dir_moved(void *ud)
{
    struct dir *one = ud;
    one->has_moved = true;
    one->all->on_moved(one->all->ud);
}

static void start(struct dir *one)
{
    struct buf path = {0};
    buf_printf(&path, "%s%s%s", one->all->root, one->path[0] ? "/" : "", one->path);
    one->watch = loop_folder_new(one->all->loop, path.data, on_dir_moved, one);
    one->has_moved = false;
    buf_free(&path);
}

static struct dir *add(struct watch_dirs *d, const char *path)
{
    struct dir *one = xcalloc(1, sizeof *one);
    one->all = d;
    one->path = xstrdup(path);
    start(one);
    return one;
}

static void drop(struct dir *one)
{
    loop_folder_free(one->watch);
    free(one->path);
    free(one);
}

void watch_dirs_renew(struct watch_dirs *d)
{
    for (size_t i = 0; i < d->n; i++) {
        if (d->dirs[i]->watch && !d->dirs[i]->has_moved)
            continue;
        loop_folder_free(d->dirs[i]->watch);
        start(d->dirs[i]);
    }
}

static int by_path(const void *a, const void *b)
{
    const char *const *x = a, *const *y = b;
    return strcmp(*x, *y);
}

/* Every folder's path, sorted, the root's "" first; strings are those of seen. */
static const char **wanted_paths(const struct folder *seen, size_t *n)
{
    const char **paths = xcalloc(seen->n + 1, sizeof *paths);
    size_t k = 0;
    paths[k++] = "";
    for (size_t i = 0; i < seen->n; i++)
        if (seen->entries[i].kind != FOLDER_TEXT)
            paths[k++] = seen->entries[i].path;
    qsort(paths, k, sizeof *paths, by_path);
    *n = k;
    return paths;
}

/* Told once: a limit of the kernel's is the operator's to raise. */
static void look_for_blind(struct watch_dirs *d)
{
    d->is_blind = false;
    for (size_t i = 0; i < d->n; i++)
        d->is_blind |= !d->dirs[i]->watch;
    if (d->is_blind && !d->is_told)
        log_warn("adapters",
                 "the kernel does not watch all of the adapters folder "
                 "(fs.inotify.max_user_watches); it is looked through every few seconds");
    d->is_told |= d->is_blind;
}

bool watch_dirs_follow(struct watch_dirs *d, const struct folder *seen)
{
    size_t n, i = 0;
    bool has_new = false;
    const char **paths = wanted_paths(seen, &n);
    struct dir **dirs = xcalloc(n, sizeof *dirs);
    for (size_t k = 0; k < n; k++) {
        while (i < d->n && strcmp(d->dirs[i]->path, paths[k]) < 0)
            drop(d->dirs[i++]);
        bool is_there = i < d->n && strcmp(d->dirs[i]->path, paths[k]) == 0;
        dirs[k] = is_there ? d->dirs[i++] : add(d, paths[k]);
        has_new |= !is_there && dirs[k]->watch;
    }
    while (i < d->n)
        drop(d->dirs[i++]);
    free(d->dirs);
    free(paths);
    d->dirs = dirs;
    d->n = n;
    look_for_blind(d);
    return has_new;
}

bool watch_dirs_are_blind(const struct watch_dirs *d)
{
    return d->is_blind;
}

void watch_dirs_free(struct watch_dirs *d)
{
    if (!d)
        return;
    for (size_t i = 0; i < d->n; i++)
        drop(d->dirs[i]);
    free(d->dirs);
    free(d->root);
    free(d);
}
