/* Reading, and putting away, the pointer files of older daemons. */
#include "adapters/pointers.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "adapters/blobs.h"
#include "adapters/durable.h"
#include "adapters/file_read.h"
#include "adapters/name.h"
#include "adapters/state_files.h"
#include "core/base/json_check.h"
#include "core/base/log.h"
#include "core/base/mem.h"

enum { MAX_POINTER = 4096, NAME_MAX_LEN = 64 + 5 };

struct reading {
    int folder;
    void (*fn)(void *ud, const struct pointer *p);
    void *ud;
};

static int parse(struct pointer *p, const char *text, size_t len)
{
    const struct json_limits lim = {.max_len = MAX_POINTER, .max_depth = 2, .max_items = 8};
    if (json_check(text, len, &lim, NULL) < 0)
        return -1;
    cJSON *root = cJSON_ParseWithLength(text, len);
    const cJSON *version = cJSON_GetObjectItemCaseSensitive(root, "version");
    const cJSON *created = cJSON_GetObjectItemCaseSensitive(root, "created");
    bool is_deleted = cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(root, "deleted"));
    bool is_good = cJSON_IsString(version) && blobs_is_digest(version->valuestring) &&
                   cJSON_IsNumber(created) && created->valuedouble >= 0 &&
                   created->valuedouble < 0x1p53;
    if (!is_deleted && is_good) {
        memcpy(p->version, version->valuestring, DIGEST_HEX + 1);
        p->created = (int64_t)created->valuedouble;
    }
    cJSON_Delete(root);
    return is_deleted || is_good ? 0 : -1;
}

static void read_one(void *ud, const char *file)
{
    const struct reading *r = ud;
    struct err err = {0};
    struct pointer p = {0};
    size_t len, n = strlen(file);
    if (file[0] == '.' || n < 5 || n > NAME_MAX_LEN || strcmp(file + n - 5, ".json") != 0)
        return;
    p.name = xstrndup(file, n - 5);
    char *text = file_read(r->folder, file, MAX_POINTER, &len, NULL, &err);
    p.is_damaged = !text || parse(&p, text, len) < 0;
    if (name_is_valid(p.name))
        r->fn(r->ud, &p);
    else
        log_warn("adapters", "state folder: " STATE_POINTERS "/%s is no adapter's and left aside",
                 file);
    free(text);
    free(p.name);
}

static int open_folder(int dir)
{
    return openat(dir, STATE_POINTERS, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
}

int pointers_each(int dir, void (*fn)(void *ud, const struct pointer *p), void *ud,
                  struct err *err)
{
    struct reading r = {open_folder(dir), fn, ud};
    if (r.folder < 0)
        return errno == ENOENT ? 0
                               : err_set(err, ERR_IO,
                                         "cannot open adapters/ of the state "
                                         "folder: %s",
                                         strerror(errno));
    int rc = durable_each(r.folder, read_one, &r, err);
    close(r.folder);
    return rc;
}

static void remove_one(void *ud, const struct pointer *p)
{
    char file[NAME_MAX_LEN + 1];
    if (p->is_damaged)
        return;
    snprintf(file, sizeof file, "%.64s.json", p->name);
    unlinkat(*(int *)ud, file, 0);
}

static void remove_hidden(void *ud, const char *file)
{
    if (file[0] == '.') /* what a killed process was writing */
        unlinkat(*(int *)ud, file, 0);
}

void pointers_remove(int dir)
{
    int folder = open_folder(dir);
    if (folder < 0)
        return;
    pointers_each(dir, remove_one, &folder, NULL);
    durable_each(folder, remove_hidden, &folder, NULL);
    close(folder);
    unlinkat(dir, STATE_POINTERS, AT_REMOVEDIR);
}

bool pointers_are_left(int dir)
{
    return faccessat(dir, STATE_POINTERS, F_OK, 0) == 0;
}
