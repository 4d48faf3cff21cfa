/* Reading the files of a version back. */
#include "adapters/loaded.h"

#include <stdlib.h>
#include <string.h>

#include "adapters/spec.h"
#include "core/base/check.h"

void loaded_add(struct loaded *l, const char *name, void *bytes, size_t len)
{
    CHECK(l->n_files < ADAPTER_MAX_FILES);
    l->files[l->n_files] = (struct adapter_file){name, bytes, len};
    l->bytes[l->n_files++] = bytes;
}

struct source {
    const struct blobs *blobs;
    int64_t tenant;
    const char *digest;
};

static int read_one(struct loaded *l, const struct source *from, const char *file, size_t most,
                    struct err *err)
{
    size_t len;
    void *bytes =
        blobs_read_file(from->blobs, from->tenant, from->digest, file, most, &len, err);
    if (!bytes)
        return -1;
    loaded_add(l, file, bytes, len);
    return 0;
}

int loaded_read_stored(struct loaded *l, const struct blobs *blobs, int64_t tenant,
                       const char *digest, size_t max_bytes, struct err *err)
{
    const struct source from = {blobs, tenant, digest};
    struct err why = {0};
    if (read_one(l, &from, SPEC_TEXT_FILE, SPEC_MAX_JSON, &why) == 0)
        return 0;
    if (why.code != ERR_NOT_FOUND) {
        *err = why;
        return -1;
    }
    if (read_one(l, &from, SPEC_CONFIG_FILE, SPEC_MAX_JSON, err) < 0)
        return -1;
    return read_one(l, &from, SPEC_WEIGHTS_FILE, max_bytes, err);
}

void loaded_fini(struct loaded *l)
{
    for (int i = 0; i < l->n_files; i++)
        free(l->bytes[i]);
    memset(l, 0, sizeof *l);
}
