/* A folder of adapters that an operator keeps: what is in it, and the files of one of them.
 *
 *     DIR/sql/adapter_config.json, ...    an adapter of `default`, as PEFT saves it
 *     DIR/chef.json                       a text adapter of `default`
 *     DIR/acme/...                        any other sub-folder is a tenant's: the same there
 *
 * Thread: any; blocks for the disk. Links are followed: the folder is the operator's. What
 * begins with a dot is not looked at.
 *
 *     struct folder f;
 *     if (folder_scan(dir, &f, &err) < 0) return -1;      stamps of files, no contents
 *     ... what differs from the last scan: folder_read(dir, &f.entries[i], max, &l, &err)
 *     folder_fini(&f);
 */
#ifndef PREFIXD_FOLDER_H
#define PREFIXD_FOLDER_H

#include "adapters/file_read.h"
#include "adapters/loaded.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { FOLDER_MAX_ENTRIES = 1 << 20 };

enum folder_kind {
    FOLDER_TENANT, /* a sub-folder that is no adapter */
    FOLDER_PEFT,
    FOLDER_TEXT,
};

struct folder_entry {
    enum folder_kind kind;
    char *tenant;
    char *name; /* of the adapter, whatever bytes it has; "" of FOLDER_TENANT */
    char *path; /* below DIR */
    struct file_stamp
        files[ADAPTER_MAX_FILES]; /* config and weights, or the text; zeroed: none */
    int64_t
        changed_ns; /* Unix time when any of it changed last, as far as the disk tells */
};

struct folder {
    struct folder_entry
        *entries; /* by tenant and name; of one name first the one that counts */
    size_t n, cap;
    bool has_links;  /* to other places, where changes are not told by the folder */
    bool is_partial; /* something in it could not be looked at; what is absent need not be
                        gone */
};

/* -1 with ERR_INVALID unless dir is a folder that can be read. */
int folder_check(const char *dir, struct err *err);
int folder_scan(const char *dir, struct folder *out, struct err *err);
void folder_fini(struct folder *f);
void folder_entry_fini(struct folder_entry *e);

int folder_compare(const struct folder_entry *a,
                   const struct folder_entry *b); /* the order of entries */
bool folder_is_same(const struct folder_entry *a,
                    const struct folder_entry *b); /* by stamps */

enum folder_state {
    FOLDER_WHOLE,      /* read into out */
    FOLDER_UNFINISHED, /* not whole, or not as in the scan: it may become whole; err says
                          what is amiss */
    FOLDER_REFUSED,    /* it has to be another to be accepted; err */
};

/* max_bytes: of the weights file. loaded_fini(out) in every case. */
enum folder_state folder_read(const char *dir, const struct folder_entry *e,
                              size_t max_bytes, struct loaded *out, struct err *err);

#endif
