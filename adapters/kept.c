/* Remembered paths. */
#include "adapters/kept.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/check.h"
#include "core/base/mem.h"

void kept_note(struct kept *s, const char *name, const char *path,
               const struct file_stamp *stamp)
{
    CHECK(s->n_files < ADAPTER_MAX_FILES);
    s->files[s->n_files++] = (struct kept_file){
        .name = xstrdup(name), .path = xstrdup(path), .stamp = *stamp};
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
            return open_path(f, err);
    }
    return err_set(err, ERR_NOT_FOUND, "the adapter has no such file");
}

void kept_fini(struct kept *s)
{
    for (int i = 0; i < s->n_files; i++) {
        free(s->files[i].name);
        free(s->files[i].path);
    }
    memset(s, 0, sizeof *s);
}
