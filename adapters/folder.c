/* Looking through a folder of adapters and reading them. */
#include "adapters/folder.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "adapters/peft_files.h"
#include "adapters/refuse.h"
#include "adapters/spec.h"
#include "core/base/buf.h"
#include "core/base/json_check.h"
#include "core/base/mem.h"
#include "core/base/safetensors.h"

/* Wider than what an adapter may have: here it is asked only whether a file is whole. */
enum {
    MAX_HEADER = 16 << 20,
    MAX_TENSORS = 1 << 16,
    MAX_DEPTH = 64,
    MAX_ITEMS = SPEC_MAX_JSON
};

/* ---- looking through it -------------------------------------------------------------- */

struct scan {
    struct folder *out;
    int root; /* descriptor of DIR */
    struct err *err;
};

static int cannot_read(int error, struct err *err)
{
    return err_set(err, ERR_INVALID, "%s; a folder that can be read is accepted",
                   strerror(error));
}

static int64_t ns_of(const struct timespec *t)
{
    return (int64_t)t->tv_sec * 1000000000 + t->tv_nsec;
}

/* What path is, links followed; false if there is nothing. Only what is certainly not there
 * counts as nothing. */
static bool look(struct scan *s, const char *path, struct stat *st)
{
    int rc = fstatat(s->root, path, st, AT_SYMLINK_NOFOLLOW);
    if (rc == 0 && S_ISLNK(st->st_mode)) {
        s->out->has_links = true;
        rc = fstatat(s->root, path, st, 0);
    }
    if (rc < 0 && errno != ENOENT && errno != ENOTDIR && errno != ELOOP)
        s->out->is_partial = true;
    return rc == 0;
}

static void note_stamp(struct folder_entry *e, int i, const struct stat *st)
{
    int64_t changed = ns_of(&st->st_ctim);
    e->files[i] = (struct file_stamp){.dev = st->st_dev,
                                      .ino = st->st_ino,
                                      .size = st->st_size,
                                      .mtime_s = st->st_mtim.tv_sec,
                                      .mtime_ns = st->st_mtim.tv_nsec};
    if (changed > e->changed_ns)
        e->changed_ns = changed;
}

static void look_at_file(struct scan *s, struct folder_entry *e, int i, const char *file)
{
    struct stat st;
    struct buf path = {0};
    buf_printf(&path, "%s/%s", e->path, file);
    if (look(s, path.data, &st))
        note_stamp(e, i, &st);
    buf_free(&path);
}

static int add(struct scan *s, const struct folder_entry *e)
{
    struct folder *f = s->out;
    if (f->n == FOLDER_MAX_ENTRIES)
        return err_set(s->err, ERR_TOO_LARGE, "there are more than %d adapters in it",
                       FOLDER_MAX_ENTRIES);
    if (f->n == f->cap) {
        f->cap = f->cap ? 2 * f->cap : 64;
        f->entries = xrealloc(f->entries, f->cap * sizeof *f->entries);
    }
    f->entries[f->n++] = *e;
    return 0;
}

static bool is_json(const char *name)
{
    size_t n = strlen(name);
    return n > 5 && strcmp(name + n - 5, ".json") == 0;
}

static int scan_inside(struct scan *s, const char *tenant, const char *below);

/* At the top a folder without a configuration is a tenant's; what is in it comes too. */
static int add_folder(struct scan *s, const char *tenant, bool is_top, const char *name,
                      const char *path, const struct stat *st)
{
    struct folder_entry e = {
        .kind = FOLDER_PEFT, .path = xstrdup(path), .changed_ns = ns_of(&st->st_ctim)};
    look_at_file(s, &e, 0, SPEC_CONFIG_FILE);
    look_at_file(s, &e, 1, SPEC_WEIGHTS_FILE);
    if (is_top && !e.files[0].ino) {
        e.kind = FOLDER_TENANT;
        tenant = name;
        name = "";
    }
    e.tenant = xstrdup(tenant);
    e.name = xstrdup(name);
    if (add(s, &e) < 0)
        return -1;
    return e.kind == FOLDER_TENANT ? scan_inside(s, tenant, path) : 0;
}

static int add_text(struct scan *s, const char *tenant, const char *name, const char *path,
                    const struct stat *st)
{
    struct folder_entry e = {.kind = FOLDER_TEXT,
                             .tenant = xstrdup(tenant),
                             .name = xstrndup(name, strlen(name) - 5),
                             .path = xstrdup(path)};
    note_stamp(&e, 0, st);
    return add(s, &e);
}

static int add_one(struct scan *s, const char *tenant, const char *below, const char *name)
{
    struct stat st;
    struct buf path = {0};
    int rc = 0;
    buf_printf(&path, "%s%s%s", below, below[0] ? "/" : "", name);
    if (look(s, path.data, &st)) {
        if (S_ISDIR(st.st_mode))
            rc = add_folder(s, tenant, !below[0], name, path.data, &st);
        else if (is_json(name))
            rc = add_text(s, tenant, name, path.data, &st);
    }
    buf_free(&path);
    return rc;
}

/* A folder that is not there any more is empty. */
static DIR *open_dir(struct scan *s, const char *below)
{
    int fd = openat(s->root, below[0] ? below : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = fd < 0 ? NULL : fdopendir(fd);
    if (!d && errno != ENOENT && errno != ENOTDIR)
        s->out->is_partial = true;
    if (!d && fd >= 0)
        close(fd);
    return d;
}

static int scan_inside(struct scan *s, const char *tenant, const char *below)
{
    struct dirent *e;
    int rc = 0;
    DIR *d = open_dir(s, below);
    if (!d)
        return 0;
    while (rc == 0 && (errno = 0, e = readdir(d)))
        if (e->d_name[0] != '.')
            rc = add_one(s, tenant, below, e->d_name);
    if (rc == 0 && errno)
        s->out->is_partial = true;
    closedir(d);
    return rc;
}

/* Of one name what stands at the top goes before what stands in `default`'s own folder, and
 * a folder before a file. */
int folder_compare(const struct folder_entry *a, const struct folder_entry *b)
{
    int c = strcmp(a->tenant, b->tenant);
    if (c == 0)
        c = strcmp(a->name, b->name);
    if (c == 0)
        c = (strchr(a->path, '/') != NULL) - (strchr(b->path, '/') != NULL);
    return c ? c : (int)a->kind - (int)b->kind;
}

static int by_name(const void *a, const void *b)
{
    return folder_compare(a, b);
}

bool folder_is_same(const struct folder_entry *a, const struct folder_entry *b)
{
    if (a->kind != b->kind || strcmp(a->path, b->path) != 0)
        return false;
    for (int i = 0; i < ADAPTER_MAX_FILES; i++)
        if (!file_stamp_is_same(&a->files[i], &b->files[i]))
            return false;
    return true;
}

int folder_scan(const char *dir, struct folder *out, struct err *err)
{
    struct scan s = {.out = out, .err = err};
    struct stat st;
    memset(out, 0, sizeof *out);
    s.root = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (s.root < 0)
        return cannot_read(errno, err);
    out->has_links = lstat(dir, &st) == 0 && S_ISLNK(st.st_mode);
    int rc = scan_inside(&s, STORE_DEFAULT_TENANT_NAME, "");
    close(s.root);
    if (rc < 0)
        folder_fini(out);
    else if (out->n)
        qsort(out->entries, out->n, sizeof *out->entries, by_name);
    return rc;
}

void folder_entry_fini(struct folder_entry *e)
{
    free(e->tenant);
    free(e->name);
    free(e->path);
    memset(e, 0, sizeof *e);
}

void folder_fini(struct folder *f)
{
    for (size_t i = 0; i < f->n; i++)
        folder_entry_fini(&f->entries[i]);
    free(f->entries);
    memset(f, 0, sizeof *f);
}

int folder_check(const char *dir, struct err *err)
{
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    bool is_fine = fd >= 0 && faccessat(fd, ".", R_OK | X_OK, 0) == 0;
    int rc = is_fine ? 0 : cannot_read(errno, err);
    if (fd >= 0)
        close(fd);
    return rc;
}

/* ---- reading one --------------------------------------------------------------------- */

struct read {
    int root; /* descriptor of DIR */
    const struct folder_entry *e;
    struct loaded *out;
    struct err *err;
};

/* The file at path, as one called as file is. */
static enum folder_state read_file(struct read *r, const char *path, const char *file,
                                   size_t most)
{
    struct err why = {0};
    size_t len;
    const char *shown = strrchr(path, '/') ? strrchr(path, '/') + 1 : path;
    void *bytes = file_read(r->root, path, most, &len, NULL, &why);
    if (bytes) {
        loaded_add(r->out, file, bytes, len);
        return FOLDER_WHOLE;
    }
    if (why.code == ERR_NOT_FOUND)
        err_set(r->err, ERR_NOT_FOUND, "%.80s is missing", shown);
    else
        refuse_content(r->err, shown, &why);
    return why.code == ERR_ADAPTER || why.code == ERR_TOO_LARGE ? FOLDER_REFUSED
                                                                : FOLDER_UNFINISHED;
}

/* Says what to do where somebody saved the older format only. */
static enum folder_state explain_missing_weights(struct read *r)
{
    static const char *const pickles[] = PEFT_FILES_PICKLES;
    enum folder_state state = FOLDER_UNFINISHED;
    for (size_t i = 0; i < sizeof pickles / sizeof *pickles; i++) {
        struct buf path = {0};
        buf_printf(&path, "%s/%s", r->e->path, pickles[i]);
        if (faccessat(r->root, path.data, F_OK, 0) == 0) {
            err_set(r->err, ERR_ADAPTER, "%s: " PEFT_FILES_PICKLE, pickles[i]);
            state = FOLDER_REFUSED;
        }
        buf_free(&path);
    }
    return state;
}

static enum folder_state read_peft(struct read *r, size_t max_bytes)
{
    static const char *const files[ADAPTER_MAX_FILES] = {SPEC_CONFIG_FILE,
                                                         SPEC_WEIGHTS_FILE};
    enum folder_state state = FOLDER_WHOLE;
    for (int i = 0; i < ADAPTER_MAX_FILES && state == FOLDER_WHOLE; i++) {
        struct buf path = {0};
        buf_printf(&path, "%s/%s", r->e->path, files[i]);
        state = read_file(r, path.data, files[i], i ? max_bytes : SPEC_MAX_JSON);
        buf_free(&path);
    }
    if (state == FOLDER_UNFINISHED && r->err->code == ERR_NOT_FOUND && r->out->n_files == 1)
        return explain_missing_weights(r);
    return state;
}

/* A file that is still being written is cut: its JSON has no end, or tensors lie beyond. */
static int check_whole(const struct adapter_file *f, struct err *err)
{
    const struct json_limits json = {
        .max_len = SPEC_MAX_JSON, .max_depth = MAX_DEPTH, .max_items = MAX_ITEMS};
    const struct st_limits tensors = {.max_header = MAX_HEADER, .max_tensors = MAX_TENSORS};
    struct safetensors st;
    struct err why = {0};
    int rc;
    if (strcmp(f->name, SPEC_WEIGHTS_FILE) == 0) {
        rc = safetensors_parse(&st, f->bytes, f->len, &tensors, &why);
        safetensors_fini(&st);
    } else {
        rc = json_check(f->bytes, f->len, &json, &why);
    }
    return rc < 0 ? refuse_content(err, f->name, &why) : 0;
}

/* Other files than those of the scan are left to the next scan; and what was written while
 * it was read may be made of two. */
static enum folder_state check_unchanged(struct read *r)
{
    struct folder seen = {0};
    struct scan s = {.out = &seen, .root = r->root};
    struct folder_entry now = *r->e;
    struct stat st;
    memset(now.files, 0, sizeof now.files);
    if (now.kind == FOLDER_TEXT && look(&s, now.path, &st)) {
        note_stamp(&now, 0, &st);
    } else if (now.kind == FOLDER_PEFT) {
        look_at_file(&s, &now, 0, SPEC_CONFIG_FILE);
        look_at_file(&s, &now, 1, SPEC_WEIGHTS_FILE);
    }
    if (folder_is_same(&now, r->e))
        return FOLDER_WHOLE;
    err_set(r->err, ERR_CONFLICT, "it is being changed");
    return FOLDER_UNFINISHED;
}

static enum folder_state read_entry(struct read *r, size_t max_bytes)
{
    enum folder_state state = r->e->kind == FOLDER_TEXT
                                  ? read_file(r, r->e->path, SPEC_TEXT_FILE, SPEC_MAX_JSON)
                                  : read_peft(r, max_bytes);
    for (int i = 0; i < r->out->n_files && state == FOLDER_WHOLE; i++)
        if (check_whole(&r->out->files[i], r->err) < 0)
            state = FOLDER_UNFINISHED;
    return state == FOLDER_WHOLE ? check_unchanged(r) : state;
}

enum folder_state folder_read(const char *dir, const struct folder_entry *e,
                              size_t max_bytes, struct loaded *out, struct err *err)
{
    struct read r = {.e = e, .out = out, .err = err};
    memset(out, 0, sizeof *out);
    r.root = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (r.root < 0) {
        cannot_read(errno, err);
        return FOLDER_UNFINISHED;
    }
    enum folder_state state = read_entry(&r, max_bytes);
    close(r.root);
    return state;
}
