/* Everything that is there at boot: the state folder first, then the adapters folder. */
#include "adapters/registry.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "adapters/loaded.h"
#include "adapters/peft_files.h"
#include "adapters/refuse.h"
#include "core/base/buf.h"
#include "core/base/log.h"
#include "core/base/mem.h"

static void skipped(const char *name, const struct err *err)
{
    log_warn("adapters", "adapter %s skipped: %s", name, err->msg);
}

static int put(struct adapters *a, const char *name, struct loaded *l,
               const struct change_origin *origin, struct err *err)
{
    struct adapter_info info;
    struct adapter_change *c =
        change_put_begin(a, name, l->files, l->n_files, origin, err);
    if (!c)
        return -1;
    int rc = adapter_change_run(c, err);
    if (rc == 0)
        rc = adapters_commit(a, c, &info, err);
    adapter_change_free(c);
    return rc;
}

/* ---- the state folder ---------------------------------------------------------------- */

static int load_stored(struct adapters *a, const struct store_entry *e, struct err *err)
{
    struct loaded l = {0};
    const struct change_origin origin = {
        .from = CHANGE_STORED, .version = e->version, .created = e->created};
    int rc = loaded_read_stored(&l, store_blobs(a->store), e->version, a->limits.max_bytes, err);
    if (rc == 0)
        rc = put(a, e->name, &l, &origin, err);
    loaded_fini(&l);
    return rc;
}

static void load_one(void *ud, const struct store_entry *e)
{
    struct adapters *a = ud;
    struct err err = {0};
    if (!e->is_damaged && (!e->version[0] || load_stored(a, e, &err) == 0))
        return;
    if (e->is_damaged)
        err_set(&err, ERR_ADAPTER, "its entry in the state folder is damaged");
    skipped(e->name, &err);
    registry_add_name(&a->hidden, e->name);
}

/* ---- the adapters folder ------------------------------------------------------------- */

struct from_folder {
    struct loaded loaded;
    struct kept kept;
};

/* The file in at folder dir counts as file of an adapter. */
static int read_named(struct from_folder *f, const char *dir, const char *in, const char *file,
                      size_t most, struct err *err)
{
    struct err why = {0};
    struct file_stamp stamp;
    struct buf path = {0};
    size_t len;
    buf_printf(&path, "%s/%s", dir, in);
    void *bytes = file_read(AT_FDCWD, path.data, most, &len, &stamp, &why);
    if (bytes) {
        loaded_add(&f->loaded, file, bytes, len);
        kept_note(&f->kept, file, path.data, &stamp);
    } else if (why.code == ERR_NOT_FOUND) {
        err_set(err, ERR_NOT_FOUND, "%s is missing", in);
    } else {
        refuse_content(err, in, &why);
    }
    buf_free(&path);
    return bytes ? 0 : -1;
}

/* Says what to do where somebody saved the older format only. */
static void explain_missing_weights(const char *dir, struct err *err)
{
    static const char *const pickles[] = {"adapter_model.bin", "adapter_model.pt"};
    for (size_t i = 0; i < sizeof pickles / sizeof pickles[0]; i++) {
        struct buf path = {0};
        buf_printf(&path, "%s/%s", dir, pickles[i]);
        if (access(path.data, F_OK) == 0)
            err_set(err, ERR_ADAPTER, "%s: " PEFT_FILES_PICKLE, pickles[i]);
        buf_free(&path);
    }
}

static int read_peft(const struct adapters *a, struct from_folder *f, const char *dir,
                     struct err *err)
{
    if (read_named(f, dir, SPEC_CONFIG_FILE, SPEC_CONFIG_FILE, SPEC_MAX_JSON, err) < 0)
        return -1;
    if (read_named(f, dir, SPEC_WEIGHTS_FILE, SPEC_WEIGHTS_FILE, a->limits.max_bytes, err) == 0)
        return 0;
    if (err->code == ERR_NOT_FOUND)
        explain_missing_weights(dir, err);
    return -1;
}

static int load_from_folder(struct adapters *a, const char *dir, const char *entry,
                            const char *name, struct err *err)
{
    struct from_folder f = {0};
    const struct change_origin origin = {.from = CHANGE_FOLDER, .kept = &f.kept};
    struct buf path = {0};
    buf_printf(&path, "%s/%s", dir, entry);
    bool is_text = strcmp(entry, name) != 0;
    int rc = adapters_check_name(a, name, err);
    if (rc == 0)
        rc = is_text ? read_named(&f, dir, entry, SPEC_TEXT_FILE, SPEC_MAX_JSON, err)
                     : read_peft(a, &f, path.data, err);
    if (rc == 0)
        rc = put(a, name, &f.loaded, &origin, err);
    buf_free(&path);
    kept_fini(&f.kept);
    loaded_fini(&f.loaded);
    return rc;
}

/* Whether the state folder has a say on this name, which then goes before the folder's. */
static bool state_wins(const struct adapters *a, const char *name)
{
    bool is_deleted = false;
    if (registry_has_name(&a->hidden, name) || !store_has(a->store, name, &is_deleted))
        return false;
    log_info("adapters", is_deleted ? "adapter %s of the folder skipped: it was deleted"
                                    : "adapter %s of the folder skipped: the state folder has "
                                      "one of this name, which wins", name);
    return true;
}

static void load_named(struct adapters *a, const char *dir, const char *entry, const char *name)
{
    struct err err = {0};
    registry_add_name(&a->in_folder, name);
    if (state_wins(a, name))
        return;
    if (registry_find(a, name))
        log_warn("adapters", "adapter %s skipped: %s/ of the folder has this name and is served "
                 "instead of %s.json", name, name, name);
    else if (load_from_folder(a, dir, entry, name, &err) < 0)
        skipped(name, &err);
    else if (registry_has_name(&a->hidden, name))
        log_warn("adapters", "adapter %s: its version in the state folder does not load and is "
                 "hidden; the adapters folder's is served until a PUT or DELETE", name);
}

/* The adapter's name if this entry of the folder is one: a sub-folder, or a .json file. */
static char *adapter_of(const char *dir, const char *entry)
{
    struct stat st;
    struct buf path = {0};
    size_t n = strlen(entry);
    buf_printf(&path, "%s/%s", dir, entry);
    bool is_folder = stat(path.data, &st) == 0 && S_ISDIR(st.st_mode);
    buf_free(&path);
    if (entry[0] == '.')
        return NULL;
    if (is_folder)
        return xstrdup(entry);
    return n > 5 && strcmp(entry + n - 5, ".json") == 0 ? xstrndup(entry, n - 5) : NULL;
}

static int cannot_read(struct err *err)
{
    return err_set(err, ERR_INVALID, "%s; a folder that can be read is accepted",
                   strerror(errno));
}

int adapters_check_folder(const char *dir, struct err *err)
{
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    bool is_fine = fd >= 0 && faccessat(fd, ".", R_OK | X_OK, 0) == 0;
    int rc = is_fine ? 0 : cannot_read(err);
    if (fd >= 0)
        close(fd);
    return rc;
}

int adapters_load_all(struct adapters *a, const char *dir, struct err *err)
{
    struct dirent **entries;
    CHECK_ON_THREAD(a->owner);
    if (store_each(a->store, load_one, a, err) < 0)
        return -1;
    if (!dir)
        return 0;
    int n = scandir(dir, &entries, NULL, alphasort);
    if (n < 0)
        return cannot_read(err);
    for (int i = 0; i < n; i++) {
        char *name = adapter_of(dir, entries[i]->d_name);
        if (name)
            load_named(a, dir, entries[i]->d_name, name);
        free(name);
        free(entries[i]);
    }
    free(entries);
    return 0;
}
