/* What each worker is running, in memory that outlives it: which adapter versions its
 * requests use.
 *
 * Thread: loop of the worker that writes; the supervisor reads after that worker's death.
 * A table of fixed size: what does not fit is not noted. A worker may die in the middle of
 * a change, so the reader believes nothing that is not the digest of a version.
 *
 *     struct running *all = running_new(n_workers);     supervisor, before it forks
 *     running_add(&all[i], digest); ...; running_remove(&all[i], digest);
 *     running_each(&all[i], fn, ud); running_clear(&all[i]);
 */
#ifndef PREFIXD_RUNNING_H
#define PREFIXD_RUNNING_H

#include "core/base/digest.h"

#include <stdint.h>

enum { RUNNING_MAX = 128 };

struct running_version {
    char digest[DIGEST_HEX + 1];
    int32_t n; /* requests; 0: the entry is free */
};

struct running {
    struct running_version versions[RUNNING_MAX];
};

struct running *running_new(int n); /* zeroed, shared with processes forked later */
void running_free(struct running *r, int n);

void running_add(struct running *r, const char *digest);
void running_remove(struct running *r, const char *digest);
void running_clear(struct running *r);

void running_each(const struct running *r,
                  void (*fn)(const char *digest, int n_requests, void *ud), void *ud);

#endif
