/* Where adapters are kept durably: names, their versions, and the files of versions.
 *
 * Thread: opened and closed at boot and exit; store_put, store_rollback and store_delete by
 * whoever runs a change, one at a time; everything that only reads on the loop thread, at
 * any time. What a change returned 0 for is there after kill -9 and power loss, and nothing
 * is ever there by half. One daemon at a time has the folder open (a lock says so to a
 * second one). This interface is all that the rest knows, so that another database can
 * stand behind it.
 *
 *     struct store *s = store_open(&(struct store_opts){.dir = dir}, &err);
 *     store_put(s, &(struct store_entry){.name = "support", .version = version, ...},
 * files, n_files, NULL, &err);
 */
#ifndef PREFIXD_STORE_H
#define PREFIXD_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "adapters/blobs.h"
#include "core/base/digest.h"
#include "core/base/err.h"

enum { STORE_KEEP_VERSIONS = 10 };

struct store;

struct store_opts {
    const char *dir;   /* NULL: a temporary folder, which goes with store_close */
    int keep_versions; /* of a name, the current one included; 0: STORE_KEEP_VERSIONS */
};

struct store_entry {
    const char *name;
    const char *version; /* "" for a name that was deleted and must stay so */
    const char *kind;    /* "" if it is not known */
    int64_t created;
    bool is_damaged; /* what it meant cannot be read: version is "" */
};

struct store_version {
    const char *digest, *kind;
    int64_t created, number; /* the higher the later, within a name */
};

/* Asked at the moment of the change, when nobody else can change the name: current is its
 * version, "" if it is remembered as deleted, NULL if there is no such name. -1 with err
 * refuses the change. */
struct store_condition {
    int (*allow)(void *ud, const char *current, struct err *err);
    void *ud;
};

/* ERR_CONFLICT if another daemon has it open and keeps it for a while longer. What a killed process left half-done is
 * cleared away; the pointer files of older daemons are taken over once. */
struct store *store_open(const struct store_opts *opts, struct err *err);

/* Whether store_open would get that far as to read what is there; its folders are made. */
int store_check(const char *dir, struct err *err);
void store_close(struct store *s);

/* Lets another process open the folder; changes are refused with ERR_CLOSING from here on. */
void store_unlock(struct store *s);

/* ---- changes; only_if may be NULL ---------------------------------------------------- */

/* The version becomes the name's current one and, if it was not, its newest. */
int store_put(struct store *s, const struct store_entry *entry,
              const struct blob_file *files, int n_files,
              const struct store_condition *only_if, struct err *err);

/* Makes a kept version the current one again; ERR_NOT_FOUND if it is not kept. */
int store_rollback(struct store *s, const char *name, const char *version,
                   const struct store_condition *only_if, struct err *err);

/* With all its versions. stays_deleted: remember it, for a name that would come back from
 * elsewhere. */
int store_delete(struct store *s, const char *name, bool stays_deleted,
                 const struct store_condition *only_if, struct err *err);

/* ---- reading ------------------------------------------------------------------------- */

/* In order of name, deleted ones that are remembered included. Strings are lent for the
 * call. */
int store_each(const struct store *s, void (*fn)(void *ud, const struct store_entry *e),
               void *ud, struct err *err);

/* False if there is no such name; *is_deleted: it is remembered as deleted. */
bool store_has(const struct store *s, const char *name, bool *is_deleted);

/* Newest first. Strings are lent for the call. */
int store_each_version(const struct store *s, const char *name,
                       void (*fn)(void *ud, const struct store_version *v), void *ud,
                       struct err *err);

/* 0 and when it was made, or -1 with ERR_NOT_FOUND. */
int store_find_version(const struct store *s, const char *name, const char *version,
                       int64_t *created, struct err *err);

const struct blobs *store_blobs(const struct store *s); /* any thread */

#endif
