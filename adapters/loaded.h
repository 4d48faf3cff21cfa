/* The files of one adapter, read into private memory.
 *
 * Thread: any.
 *
 *     struct loaded l = {0};
 *     if (loaded_read_stored(&l, blobs, tenant, digest, max_bytes, &err) == 0)
 *         ... l.files, l.n_files
 *     loaded_fini(&l);
 */
#ifndef PREFIXD_LOADED_H
#define PREFIXD_LOADED_H

#include "adapters/adapters.h"
#include "adapters/blobs.h"

struct loaded {
    struct adapter_file files[ADAPTER_MAX_FILES];
    void *bytes[ADAPTER_MAX_FILES]; /* owned */
    int n_files;
};

/* Takes bytes. */
void loaded_add(struct loaded *l, const char *name, void *bytes, size_t len);

/* max_bytes: of the weights file. ERR_NOT_FOUND if one is missing. */
int loaded_read_stored(struct loaded *l, const struct blobs *blobs, int64_t tenant,
                       const char *digest, size_t max_bytes, struct err *err);
void loaded_fini(struct loaded *l);

#endif
