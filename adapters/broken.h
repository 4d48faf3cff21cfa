/* Versions that are not to be loaded for a while, and why: those that did not load lately,
 * and those that somebody else took out of service.
 *
 * Thread: loop. Every process writes a table of its own, and reads those of all, in memory
 * that they share: what did not load in one is broken in each. A process may die in the
 * middle of a change, or be read in it, so readers skip what is being written and believe
 * nothing. Of what several say of one version the latest counts.
 *
 * Bounded: when a table is full, what would be tried again soonest is forgotten. A version
 * that fails again is left alone for twice as long, from 5 seconds to 5 minutes. One whose
 * files have changed since is tried at once.
 *
 *     broken_open(&b, memory, n_processes, own);
 *     const struct broken_version *v = broken_find(&b, tenant, digest, &stamp, time(NULL));
 *     if (v) refuse(v->why, v->until);
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
    int64_t tenant;
    int64_t at_us; /* when this was said, on the machine's monotonic clock */
    int64_t until, pause_s;
    bool is_mark;  /* from outside; holds whatever the files are */
    bool is_clear; /* it loads: what was said before is over */
    char digest[DIGEST_HEX + 1];
    char why[BROKEN_WHY_SIZE];
    struct broken_stamp stamp;
};

struct broken_entry {
    uint32_t seq; /* odd: it is being written */
    struct broken_version v;
};

struct broken_table {          /* of one process; zeroed = empty */
    uint32_t n;                /* entries that were ever used, from the first one on */
    uint64_t keys[BROKEN_MAX]; /* of the entries, to be searched fast */
    struct broken_entry entries[BROKEN_MAX];
};

struct broken {
    struct broken_table *tables;
    int n_tables, own;
    bool is_owned;                /* the memory */
    struct broken_version *found; /* what the last call lent */
};

/* memory: n_tables zeroed tables, of which the one numbered own is this process'; it may have
 * been that of one that died. NULL: there are no others. */
void broken_open(struct broken *b, void *memory, int n_tables, int own);
void broken_close(struct broken *b);

/* No process has said anything yet, as nearly always. */
bool broken_is_empty(const struct broken *b);

/* NULL: it may be loaded. Lent until the next call. */
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

#endif
