/* Versions that are not to be loaded for a while, and why: those that did not load lately,
 * and those that somebody else took out of service.
 *
 * Thread: loop. Bounded: when it is full, what would be tried again soonest is forgotten. A
 * version that fails again is left alone for twice as long, from 5 seconds to 5 minutes. One
 * whose files have changed since is tried at once.
 *
 *     const struct broken_version *b = broken_find(&table, tenant, digest, &stamp, time(NULL));
 *     if (b) refuse(b->why, b->until);
 */
#ifndef PREFIXD_BROKEN_H
#define PREFIXD_BROKEN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/base/digest.h"

enum { BROKEN_MAX = 1024, BROKEN_FIRST_S = 5, BROKEN_LONGEST_S = 300, BROKEN_WHY_SIZE = 256 };

struct broken_stamp { /* of a version's files; zeroed: there are none */
    uint64_t inode;
    int64_t mtime_s;
    int64_t mtime_ns;
};

struct broken_version {
    uint64_t key;
    int64_t tenant;
    int64_t until, pause_s;
    bool is_mark; /* from outside; holds whatever the files are */
    char digest[DIGEST_HEX + 1];
    char why[BROKEN_WHY_SIZE];
    struct broken_stamp stamp;
};

struct broken { /* zeroed = empty */
    struct broken_version *versions;
    size_t n;
};

/* NULL: it may be loaded. Lent until the next call that changes the table. */
const struct broken_version *broken_find(const struct broken *b, int64_t tenant,
                                         const char *digest, const struct broken_stamp *stamp,
                                         int64_t now);

/* It did not load. */
const struct broken_version *broken_note(struct broken *b, int64_t tenant, const char *digest,
                                         const struct broken_stamp *stamp, const char *why,
                                         int64_t now);

/* It is out of service until then. */
void broken_mark(struct broken *b, int64_t tenant, const char *digest, int64_t until,
                 const char *why);

/* It loads; a mark stays. */
void broken_clear(struct broken *b, int64_t tenant, const char *digest);
void broken_fini(struct broken *b);

#endif
