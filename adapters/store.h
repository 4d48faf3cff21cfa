/* Where adapters are kept durably: names that point at versions, and the files of versions.
 *
 * Thread: opened and closed at boot and exit; store_put and store_delete by whoever runs a
 * change, one at a time; store_open_file any time. What store_put or store_delete returned
 * 0 for is there after kill -9 and power loss, and nothing is ever there by half. The only
 * writer of its folder (a lock says so to a second process). This interface is all that the
 * rest knows, so that a database can stand behind it.
 *
 *     struct store *s = store_open(dir, &err);
 *     store_put(s, &(struct store_entry){"support", version, now}, files, n_files,
 * &err);
 */
#ifndef PREFIXD_STORE_H
#define PREFIXD_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/base/digest.h"
#include "core/base/err.h"

struct store;

struct store_file {
    const char *name;
    const void *bytes;
    size_t len;
};

struct store_entry {
    const char *name;
    const char *version; /* "" for a name that was deleted and must stay so */
    int64_t created;
    bool is_damaged; /* what it meant cannot be read: version is "" */
};

/* ERR_CONFLICT if another process has it open and keeps it for a while longer. What a killed process left half-done is
 * cleared away. */
struct store *store_open(const char *dir, struct err *err);

/* Whether store_open would get that far as to read what is there; its folders are made. */
int store_check(const char *dir, struct err *err);
void store_close(struct store *s);

/* Lets another process open the folder; changes are refused with ERR_CLOSING from here on. */
void store_unlock(struct store *s);

/* files may be left out (n_files 0) if the version is stored already under any name. */
int store_put(struct store *s, const struct store_entry *entry, const struct store_file *files,
              int n_files, struct err *err);

/* stays_deleted: remember the deletion, for a name that would come back from elsewhere. */
int store_delete(struct store *s, const char *name, bool stays_deleted, struct err *err);

/* In order of name, deleted ones that are remembered included. Boot. */
size_t store_n_entries(const struct store *s);
struct store_entry store_entry_at(const struct store *s, size_t i);

/* A read-only descriptor (the caller closes), or -1 with ERR_NOT_FOUND. */
int store_open_file(const struct store *s, const char *version, const char *file, struct err *err);

/* Its bytes on the heap. */
void *store_read_file(const struct store *s, const char *version, const char *file, size_t most,
                      size_t *len, struct err *err);

#endif
