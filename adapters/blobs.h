/* The files of versions on disk: blobs/<tenant>-<digest>/<file>, never changed once they
 * are there. Equal content of two tenants is two blobs.
 *
 * Thread and process: any. Under its name a blob is complete and synced, or not there: it
 * comes and goes by one rename. Who may discard one is decided inside the store's
 * transactions.
 *
 *     struct blobs b;
 *     if (blobs_open(&b, state_folder, false, &err) < 0) return -1;
 *     blobs_put(&b, tenant, digest, files, n_files, &err);
 *     blobs_close(&b);
 */
#ifndef PREFIXD_BLOBS_H
#define PREFIXD_BLOBS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/base/digest.h"
#include "core/base/err.h"

enum { BLOB_NAME_SIZE = 19 + 1 + DIGEST_HEX + 1 };

struct blobs {
    int folder; /* descriptor */
    bool is_volatile; /* nothing is synced */
};

struct blob_file {
    const char *name;
    const void *bytes;
    size_t len;
};

int blobs_open(struct blobs *b, int dir, bool is_volatile, struct err *err);
void blobs_close(struct blobs *b);

bool blobs_is_digest(const char *s);

/* "<tenant>-<digest>", and back: *rest (may be NULL) is what follows. */
void blobs_name(char out[BLOB_NAME_SIZE], int64_t tenant, const char *digest);
bool blobs_parse_name(const char *name, int64_t *tenant, char digest[DIGEST_HEX + 1],
                      const char **rest);

bool blobs_has(const struct blobs *b, int64_t tenant, const char *digest);
int64_t blobs_bytes(const struct blobs *b, int64_t tenant,
                    const char *digest); /* of all its files */

/* On disk when it returns 0. A blob that is there with other bytes was damaged and is
 * replaced. */
int blobs_put(const struct blobs *b, int64_t tenant, const char *digest,
              const struct blob_file *files, int n_files, struct err *err);

void blobs_discard(const struct blobs *b, int64_t tenant, const char *digest);

/* Clears away what is half-done, and every blob that is_wanted refuses; gives blobs of
 * older daemons (blobs/<digest>, all of tenant 1) their names. */
int blobs_sweep(const struct blobs *b,
                bool (*is_wanted)(void *ud, int64_t tenant, const char *digest), void *ud,
                struct err *err);

/* A read-only descriptor (the caller closes), or -1 with ERR_NOT_FOUND. */
int blobs_open_file(const struct blobs *b, int64_t tenant, const char *digest,
                    const char *file, struct err *err);

/* Its bytes on the heap, as file_read. */
void *blobs_read_file(const struct blobs *b, int64_t tenant, const char *digest,
                      const char *file, size_t most, size_t *len, struct err *err);

#endif
