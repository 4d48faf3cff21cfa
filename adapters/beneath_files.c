/* Opening and reading an adapter's files below a tenant's folder. */
#include "adapters/beneath_files.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "adapters/beneath.h"
#include "adapters/file_read.h"
#include "adapters/make.h"
#include "adapters/peft_files.h"
#include "adapters/refuse.h"
#include "adapters/spec.h"

/* Takes fd. */
static int add(struct beneath_files *f, const char *name, int fd, size_t most,
               struct err *err)
{
    struct stat st;
    f->files[f->n++] = (struct beneath_file){.name = name, .fd = fd};
    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
        return err_set(err, ERR_ADAPTER, "%s: not a regular file", name);
    if ((unsigned long long)st.st_size > most)
        return err_set(err, ERR_TOO_LARGE, "%s has %lld bytes; at most %zu are accepted",
                       name, (long long)st.st_size, most);
    f->files[f->n - 1].size = (size_t)st.st_size;
    f->size += (size_t)st.st_size;
    return 0;
}

static int open_one(struct beneath_files *f, int dir, const char *name, size_t most,
                    struct err *err)
{
    int fd = beneath_open(dir, name, err);
    if (fd >= 0)
        return add(f, name, fd, most, err);
    if (err->code == ERR_NOT_FOUND)
        err_set(err, ERR_NOT_FOUND, "%s is missing at this path", name);
    return -1;
}

static bool has_pickle(int dir)
{
    static const char *const pickles[] = PEFT_FILES_PICKLES;
    int fd = -1;
    for (size_t i = 0; i < sizeof pickles / sizeof *pickles && fd < 0; i++)
        fd = beneath_open(dir, pickles[i], NULL);
    if (fd >= 0)
        close(fd);
    return fd >= 0;
}

static int open_peft(struct beneath_files *f, int dir, size_t max_bytes, struct err *err)
{
    if (open_one(f, dir, SPEC_CONFIG_FILE, SPEC_MAX_JSON, err) < 0)
        return -1;
    if (open_one(f, dir, SPEC_WEIGHTS_FILE, max_bytes, err) == 0)
        return 0;
    if (err->code == ERR_NOT_FOUND && has_pickle(dir))
        err_set(err, ERR_ADAPTER, PEFT_FILES_PICKLE);
    return -1;
}

static bool is_json(const char *path)
{
    size_t n = strlen(path);
    return n > 5 && strcmp(path + n - 5, ".json") == 0;
}

static int open_at(struct beneath_files *f, int home, const char *path, size_t max_bytes,
                   struct err *err)
{
    struct stat st;
    int rc, fd = beneath_open(home, path, err);
    if (fd < 0)
        return -1;
    if (fstat(fd, &st) == 0 && S_ISDIR(st.st_mode)) {
        rc = open_peft(f, fd, max_bytes, err);
        close(fd);
        return rc;
    }
    if (is_json(path))
        return add(f, SPEC_TEXT_FILE, fd, SPEC_MAX_JSON, err);
    close(fd);
    return err_set(err, ERR_INVALID,
                   "Accepted is the path of a folder that PEFT saved, or of "
                   "the .json file of a text adapter");
}

int beneath_files_open(struct beneath_files *f, const char *root, const char *tenant,
                       const char *path, size_t max_bytes, struct err *err)
{
    char *below = beneath_relative(root, tenant, path, err);
    int home = below ? beneath_open_home(root, tenant, err) : -1;
    int rc = home < 0 ? -1 : open_at(f, home, below, max_bytes, err);
    if (home >= 0)
        close(home);
    free(below);
    return rc;
}

bool beneath_files_are_long(const struct beneath_files *f)
{
    return make_is_long(1, (int64_t)f->size);
}

int beneath_files_read(struct beneath_files *f, struct loaded *out, struct err *err)
{
    for (int i = 0; i < f->n; i++) {
        struct err why = {0};
        size_t len;
        void *bytes = file_read_fd(f->files[i].fd, f->files[i].size, &len, &why);
        if (!bytes)
            return refuse_content(err, f->files[i].name, &why);
        loaded_add(out, f->files[i].name, bytes, len);
    }
    return 0;
}

void beneath_files_fini(struct beneath_files *f)
{
    for (int i = 0; i < f->n; i++)
        close(f->files[i].fd);
    memset(f, 0, sizeof *f);
}
