/* The store as plain files:
 *
 *     lock                       held while the store is open
 *     adapters/<name>.json       {"version": "<digest>", "created": <seconds>} or {"deleted": true}
 *     blobs/<digest>/<file>      the files of a version, never changed
 *
 * Everything appears by one rename of what was written and synced under a name that begins
 * with a dot. */
#include "adapters/store.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "adapters/durable.h"
#include "adapters/file_read.h"
#include "adapters/name.h"
#include "core/base/buf.h"
#include "core/base/json_check.h"
#include "core/base/log.h"
#include "core/base/mem.h"

enum { MAX_POINTER = 4096, FILE_NAME_SIZE = 96, NAME_MAX_LEN = 64 + 5 };
enum { LOCK_WAIT_MS = 2000, LOCK_PAUSE_MS = 20 };

struct entry {
    char *name;
    char version[DIGEST_HEX + 1]; /* "": deleted */
    int64_t created;
    bool is_damaged;
};

struct store {
    int dir, adapters, blobs, lock; /* descriptors */
    struct entry *entries;          /* in order of name */
    size_t n_entries;
    char (*dropped)[DIGEST_HEX + 1]; /* versions that no name points at any more */
    size_t n_dropped;
    bool is_damaged; /* a pointer could not be read: some blob may be its */
};

/* ---- the index ----------------------------------------------------------------------- */

static size_t place_of(const struct store *s, const char *name, bool *is_there)
{
    size_t lo = 0, hi = s->n_entries;
    *is_there = false;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        int order = strcmp(s->entries[mid].name, name);
        *is_there = *is_there || order == 0;
        if (order < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

static struct entry *entry_for(struct store *s, const char *name)
{
    bool is_there;
    size_t i = place_of(s, name, &is_there);
    if (!is_there) {
        s->entries = xrealloc(s->entries, (s->n_entries + 1) * sizeof *s->entries);
        memmove(&s->entries[i + 1], &s->entries[i], (s->n_entries - i) * sizeof *s->entries);
        s->entries[i] = (struct entry){.name = xstrdup(name)};
        s->n_entries++;
    }
    return &s->entries[i];
}

static void forget_entry(struct store *s, const char *name)
{
    bool is_there;
    size_t i = place_of(s, name, &is_there);
    if (!is_there)
        return;
    free(s->entries[i].name);
    s->n_entries--;
    memmove(&s->entries[i], &s->entries[i + 1], (s->n_entries - i) * sizeof *s->entries);
}

static bool is_referred(const struct store *s, const char *version)
{
    for (size_t i = 0; i < s->n_entries; i++)
        if (strcmp(s->entries[i].version, version) == 0)
            return true;
    return false;
}

/* The blob of a dropped version stays until the next change: a reader on the loop thread
 * may still take the old version for the current one. */
static void drop_version(struct store *s, const char *version)
{
    if (!version[0])
        return;
    s->dropped = xrealloc(s->dropped, (s->n_dropped + 1) * sizeof *s->dropped);
    memcpy(s->dropped[s->n_dropped++], version, DIGEST_HEX + 1);
}

/* Under its digest a blob is complete or not there, so it loses that name first. */
static void discard_blob(struct store *s, const char *version)
{
    char old[FILE_NAME_SIZE];
    snprintf(old, sizeof old, ".old-%s", version);
    durable_discard(s->blobs, old);
    if (renameat(s->blobs, version, s->blobs, old) == 0)
        durable_discard(s->blobs, old);
}

static void discard_dropped(struct store *s, const char *but)
{
    for (size_t i = 0; i < s->n_dropped; i++)
        if (strcmp(s->dropped[i], but) != 0 && !is_referred(s, s->dropped[i]))
            discard_blob(s, s->dropped[i]);
    s->n_dropped = 0;
}

/* ---- opening ------------------------------------------------------------------------- */

static bool is_digest(const char *s)
{
    return strlen(s) == DIGEST_HEX && strspn(s, "0123456789abcdef") == DIGEST_HEX;
}

static int read_pointer(struct entry *e, const char *text, size_t len)
{
    const struct json_limits lim = {.max_len = MAX_POINTER, .max_depth = 2, .max_items = 8};
    if (json_check(text, len, &lim, NULL) < 0)
        return -1;
    cJSON *root = cJSON_ParseWithLength(text, len);
    const cJSON *version = cJSON_GetObjectItemCaseSensitive(root, "version");
    const cJSON *created = cJSON_GetObjectItemCaseSensitive(root, "created");
    bool is_deleted = cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(root, "deleted"));
    bool is_good = cJSON_IsString(version) && is_digest(version->valuestring) &&
                   cJSON_IsNumber(created) && created->valuedouble >= 0 &&
                   created->valuedouble < 0x1p53;
    if (!is_deleted && is_good) {
        memcpy(e->version, version->valuestring, DIGEST_HEX + 1);
        e->created = (int64_t)created->valuedouble;
    }
    cJSON_Delete(root);
    return is_deleted || is_good ? 0 : -1;
}

static void load_pointer(void *ud, const char *file)
{
    struct store *s = ud;
    struct err err = {0};
    size_t len, n = strlen(file);
    if (file[0] == '.') { /* what a killed process was writing */
        durable_discard(s->adapters, file);
        return;
    }
    if (n < 5 || n > NAME_MAX_LEN || strcmp(file + n - 5, ".json") != 0)
        return;
    char *name = xstrndup(file, n - 5);
    char *text = file_read(s->adapters, file, MAX_POINTER, &len, NULL, &err);
    struct entry found = {0};
    found.is_damaged = !text || read_pointer(&found, text, len) < 0;
    if (found.is_damaged || !name_is_valid(name)) {
        log_error("adapters", "state folder: adapters/%s is damaged and left aside", file);
        s->is_damaged = true;
    }
    if (name_is_valid(name)) {
        struct entry *e = entry_for(s, name);
        found.name = e->name;
        *e = found;
    }
    free(text);
    free(name);
}

static void sweep_blob(void *ud, const char *file)
{
    struct store *s = ud;
    if (file[0] == '.')
        durable_discard(s->blobs, file);
    else if (is_digest(file) && !is_referred(s, file) && !s->is_damaged)
        discard_blob(s, file);
}

/* A process that is ending, its last change carried through, gets time to let go. */
static int take_lock(struct store *s, struct err *err)
{
    s->lock = openat(s->dir, "lock", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (s->lock < 0)
        return err_set(err, ERR_IO, "cannot make the lock of the state folder: %s",
                       strerror(errno));
    for (int waited_ms = 0; flock(s->lock, LOCK_EX | LOCK_NB) < 0;
         waited_ms += LOCK_PAUSE_MS) {
        if (waited_ms >= LOCK_WAIT_MS)
            return err_set(err, ERR_CONFLICT,
                           "the state folder is in use by another process");
        usleep(LOCK_PAUSE_MS * 1000);
    }
    return 0;
}

void store_unlock(struct store *s)
{
    if (s->lock >= 0)
        close(s->lock);
    s->lock = -1;
}

static int check_locked(const struct store *s, struct err *err)
{
    return s->lock >= 0 ? 0 : err_set(err, ERR_CLOSING, "%s", err_text(ERR_CLOSING));
}

static struct store *open_folders(const char *dir, struct err *err)
{
    struct store *s = xcalloc(1, sizeof *s);
    s->dir = s->adapters = s->blobs = s->lock = -1;
    if ((s->dir = durable_folder(AT_FDCWD, dir, err)) >= 0 && take_lock(s, err) == 0 &&
        (s->adapters = durable_folder(s->dir, "adapters", err)) >= 0 &&
        (s->blobs = durable_folder(s->dir, "blobs", err)) >= 0)
        return s;
    store_close(s);
    return NULL;
}

int store_check(const char *dir, struct err *err)
{
    struct store *s = open_folders(dir, err);
    if (!s)
        return -1;
    store_close(s);
    return 0;
}

struct store *store_open(const char *dir, struct err *err)
{
    struct store *s = open_folders(dir, err);
    if (s && durable_each(s->adapters, load_pointer, s, err) == 0 &&
        durable_each(s->blobs, sweep_blob, s, err) == 0)
        return s;
    store_close(s);
    return NULL;
}

static void close_if_open(int fd)
{
    if (fd >= 0)
        close(fd);
}

void store_close(struct store *s)
{
    if (!s)
        return;
    for (size_t i = 0; i < s->n_entries; i++)
        free(s->entries[i].name);
    free(s->entries);
    free(s->dropped);
    close_if_open(s->blobs);
    close_if_open(s->adapters);
    close_if_open(s->lock);
    close_if_open(s->dir);
    free(s);
}

/* ---- changes ------------------------------------------------------------------------- */

static bool has_blob(const struct store *s, const char *version)
{
    return faccessat(s->blobs, version, F_OK, 0) == 0;
}

static void count_file(void *ud, const char *file)
{
    (void)file;
    ++*(int *)ud;
}

/* What stands under a digest may have been damaged since, or lost by a file system that
 * did not sync: what is acknowledged is looked at, and synced again. */
static int confirm_blob(struct store *s, const char *version, const struct store_file *files,
                        int n_files, bool *is_whole, struct err *err)
{
    int n = 0, rc = 0;
    int folder = openat(s->blobs, version, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    *is_whole = folder >= 0 && durable_each(folder, count_file, &n, NULL) == 0 && n == n_files;
    for (int i = 0; rc == 0 && *is_whole && i < n_files; i++)
        rc = durable_confirm(folder, files[i].name, files[i].bytes, files[i].len, is_whole, err);
    if (rc == 0 && *is_whole)
        rc = durable_sync(folder, err);
    if (folder >= 0)
        close(folder);
    return rc;
}

static int write_files(int folder, const struct store_file *files, int n_files, struct err *err)
{
    for (int i = 0; i < n_files; i++)
        if (durable_write(folder, files[i].name, files[i].bytes, files[i].len, err) < 0)
            return -1;
    return durable_sync(folder, err);
}

/* The damaged blob of this digest, if there is one, goes when the whole one is there. */
static int write_blob(struct store *s, const char *version, const struct store_file *files,
                      int n_files, struct err *err)
{
    char tmp[FILE_NAME_SIZE];
    snprintf(tmp, sizeof tmp, ".new-%s", version);
    durable_discard(s->blobs, tmp);
    int folder = durable_folder(s->blobs, tmp, err);
    if (folder < 0)
        return -1;
    int rc = write_files(folder, files, n_files, err);
    close(folder);
    if (rc == 0) {
        discard_blob(s, version);
        rc = durable_rename(s->blobs, tmp, version, err);
    }
    if (rc < 0)
        durable_discard(s->blobs, tmp);
    return rc;
}

static int put_blob(struct store *s, const char *version, const struct store_file *files,
                    int n_files, struct err *err)
{
    bool is_whole = has_blob(s, version);
    if (n_files == 0 && is_whole)
        return 0;
    if (n_files == 0)
        return err_set(err, ERR_INTERNAL, "the files of this version are not stored");
    if (is_whole && confirm_blob(s, version, files, n_files, &is_whole, err) < 0)
        return -1;
    if (!is_whole && write_blob(s, version, files, n_files, err) < 0)
        return -1;
    return durable_sync(s->blobs, err);
}

/* The folder is not synced yet. */
static int put_pointer(struct store *s, const struct store_entry *e, struct err *err)
{
    char tmp[FILE_NAME_SIZE], file[FILE_NAME_SIZE];
    struct buf b = {0};
    snprintf(tmp, sizeof tmp, ".new-%s", e->name);
    snprintf(file, sizeof file, "%s.json", e->name);
    if (e->version[0])
        buf_printf(&b, "{\"version\": \"%s\", \"created\": %lld}\n", e->version,
                   (long long)e->created);
    else
        buf_add_str(&b, "{\"deleted\": true}\n");
    int rc = durable_write(s->adapters, tmp, b.data, b.len, err);
    if (rc == 0)
        rc = durable_rename(s->adapters, tmp, file, err);
    if (rc < 0)
        durable_discard(s->adapters, tmp);
    buf_free(&b);
    return rc;
}

static int point(struct store *s, const struct store_entry *e, struct err *err)
{
    if (put_pointer(s, e, err) < 0) {
        drop_version(s, e->version);
        return -1;
    }
    struct entry *own = entry_for(s, e->name);
    char old[DIGEST_HEX + 1];
    memcpy(old, own->version, sizeof old);
    memcpy(own->version, e->version, strlen(e->version) + 1);
    own->created = e->created;
    own->is_damaged = false;
    if (durable_sync(s->adapters, err) < 0)
        return -1; /* unknown which of the two is on disk: both blobs stay until the next start */
    drop_version(s, old);
    return 0;
}

int store_put(struct store *s, const struct store_entry *e, const struct store_file *files,
              int n_files, struct err *err)
{
    if (!name_is_valid(e->name) || !is_digest(e->version))
        return err_set(err, ERR_INTERNAL, "not a name or a version");
    if (check_locked(s, err) < 0)
        return -1;
    discard_dropped(s, e->version);
    if (put_blob(s, e->version, files, n_files, err) < 0)
        return -1;
    return point(s, e, err);
}

int store_delete(struct store *s, const char *name, bool stays_deleted, struct err *err)
{
    char file[FILE_NAME_SIZE];
    bool is_there;
    if (check_locked(s, err) < 0)
        return -1;
    discard_dropped(s, "");
    if (stays_deleted)
        return point(s, &(struct store_entry){.name = name, .version = ""}, err);
    size_t i = place_of(s, name, &is_there);
    if (!is_there)
        return 0;
    snprintf(file, sizeof file, "%s.json", name);
    if (durable_unlink(s->adapters, file, err) < 0)
        return -1;
    drop_version(s, s->entries[i].version);
    forget_entry(s, name);
    return 0;
}

/* ---- reading ------------------------------------------------------------------------- */

size_t store_n_entries(const struct store *s)
{
    return s->n_entries;
}

struct store_entry store_entry_at(const struct store *s, size_t i)
{
    const struct entry *e = &s->entries[i];
    return (struct store_entry){.name = e->name, .version = e->version, .created = e->created,
                                .is_damaged = e->is_damaged};
}

static int open_blob(const struct store *s, const char *version, struct err *err)
{
    int folder = openat(s->blobs, version, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    if (folder < 0)
        return err_set(err, ERR_NOT_FOUND, "this version is not stored");
    return folder;
}

int store_open_file(const struct store *s, const char *version, const char *file, struct err *err)
{
    int folder = open_blob(s, version, err);
    if (folder < 0)
        return -1;
    int fd = file_open(folder, file, NULL, err);
    close(folder);
    return fd;
}

void *store_read_file(const struct store *s, const char *version, const char *file, size_t most,
                      size_t *len, struct err *err)
{
    int folder = open_blob(s, version, err);
    if (folder < 0)
        return NULL;
    void *bytes = file_read(folder, file, most, len, NULL, err);
    close(folder);
    return bytes;
}
