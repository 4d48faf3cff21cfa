/* Adapter versions that workers die of: not run for a while after three deaths.
 *
 * Thread: the supervisor alone writes, any process reads; in memory that workers share. A
 * version that was being run in each of QUARANTINE_DEATHS workers that died within
 * QUARANTINE_WINDOW_S is quarantined for QUARANTINE_S. A version is its owner's: the same
 * content of another tenant is another version, or what happens to one would tell the other
 * that there is one. Times are Unix seconds, passed in.
 *
 *     struct quarantine *q = quarantine_new();               supervisor, before it forks
 *     running_each_version(table of the dead, add, q);       add: quarantine_add_death
 *     if (quarantine_has(q, owner, digest, now, &until)) refuse;    worker
 */
#ifndef PREFIXD_QUARANTINE_H
#define PREFIXD_QUARANTINE_H

#include "core/base/digest.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    QUARANTINE_DEATHS = 3,
    QUARANTINE_WINDOW_S = 600,
    QUARANTINE_S = 600,
    QUARANTINE_MAX = 256,
};

/* For whoever is refused. */
#define QUARANTINE_WHY "quarantined: three workers died while they ran it"

struct quarantine_entry {
    int64_t owner; /* a tenant */
    char digest[DIGEST_HEX + 1]; /* "": free */
    int64_t deaths[QUARANTINE_DEATHS]; /* the latest ones */
    int64_t n_deaths; /* in all, for the place in the ring */
    int64_t until;    /* 0: not quarantined */
};

struct quarantine {
    uint32_t seq; /* grows with every change; odd: in the middle of one */
    struct quarantine_entry entries[QUARANTINE_MAX];
};

struct quarantine *quarantine_new(void);
void quarantine_free(struct quarantine *q);

/* A worker died that ran this version; once per death. True if it is quarantined by it. */
bool quarantine_add_death(struct quarantine *q, int64_t owner, const char *digest,
                          int64_t now);

bool quarantine_has(const struct quarantine *q, int64_t owner, const char *digest,
                    int64_t now, int64_t *until);

/* Whether anything changed since the number in *seen, which is brought up to date. */
bool quarantine_changed(const struct quarantine *q, uint32_t *seen);

/* All that are quarantined now. */
void quarantine_each(const struct quarantine *q, int64_t now,
                     void (*fn)(int64_t owner, const char *digest, int64_t until,
                                void *ud),
                     void *ud);

#endif
