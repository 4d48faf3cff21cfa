/* Compiled prefixes on disk, so that a version that left the memory comes back without
 * computing: compiled/<tenant>-<digest>-<model>-<dtype> in the state folder.
 *
 * Thread: any but the loop's (it reads and writes files), compiled_file_read_now excepted. A cache: nothing is synced, what
 * is not there or not whole is compiled anew, and what cannot be written is left out. A file
 * is of use only to the very model, number format and layout that it was made for, and is
 * checked to the last byte before anything in it is used.
 *
 *     struct compiled_file f = {folder, base, tenant, digest};
 *     if (compiled_file_read(&f, &compiled, &kind, &err) == 0)
 *         ... compile, compiled_file_write(&f, &compiled, kind)
 */
#ifndef PREFIXD_COMPILED_FILE_H
#define PREFIXD_COMPILED_FILE_H

#include <stdint.h>

#include "adapters/compile.h"

struct compiled_file {
    int folder; /* descriptor of the state folder */
    const struct base_model *base;
    int64_t tenant;
    const char *digest; /* of the version */
};

/* 1: out, to be given to compile_fini; 0: there is none (any more: one that is damaged is
 * removed); -1 with ERR_NO_MEMORY. */
int compiled_file_read(const struct compiled_file *f, struct compiled *out, enum kind *kind,
                       struct err *err);

/* The same without ever waiting for the disk: 0 as well for prefixes larger than max_bytes, what is not in the
 * page cache, or what is damaged (and stays). Thread: any. */
int compiled_file_read_now(const struct compiled_file *f, size_t max_bytes, struct compiled *out,
                           enum kind *kind);
void compiled_file_write(const struct compiled_file *f, const struct compiled *c, enum kind kind);
void compiled_file_remove(const struct compiled_file *f);

#endif
