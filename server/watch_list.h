/* What a watched folder held at the last scan, and what is still to be done about it.
 *
 * Thread: one at a time. Entries of one tenant and name are a group, of which the first
 * that loads counts. A group that is new or has changed is due once it has been quiet for a
 * while; what was done about it is noted, so that nothing is done twice.
 *
 *     watch_list_merge(&l, &scan, &when);              takes what the scan found
 *     for (i = 0; i < l.folder.n; i += watch_list_group(&l, i))
 *         if (watch_list_is_due(&l, i, now_us)) ... watch_list_settle(&l, i);
 */
#ifndef PREFIXD_WATCH_LIST_H
#define PREFIXD_WATCH_LIST_H

#include "adapters/folder.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { WATCH_QUIET_MS = 500 };

struct watch_mark {   /* of a group, at its first entry */
    int64_t tenant;   /* id, 0: nobody has the name; set by watch_list_tenant */
    int64_t retry_us; /* not before */
    int64_t since_us; /* its stamps were first seen as they are */
    bool is_settled;  /* nothing is to be done unless it changes */
    bool is_quiet, is_told;
    bool is_refused;  /* as its files are now */
    int n_tries;
};

struct watch_gone { /* a name that the folder had and has not any more */
    char *tenant, *name;
};

struct watch_list { /* zeroed: nothing was seen yet */
    struct folder folder;
    struct watch_mark *marks; /* [folder.n] */
    struct watch_gone *gone;
    size_t n_gone, cap_gone;
};

struct watch_when {
    int64_t now_us;  /* of a clock that only goes forward */
    int64_t unix_ns; /* when the scan began */
    bool is_boot;    /* quiet or not, everything is due */
};

/* Takes the scan's entries; the scan is empty after it. What a partial scan does not have
 * is kept. */
void watch_list_merge(struct watch_list *l, struct folder *scan,
                      const struct watch_when *when);

size_t watch_list_group(const struct watch_list *l,
                        size_t at); /* entries of the group at at */
bool watch_list_has(const struct watch_list *l, const char *tenant, const char *name);
bool watch_list_is_due(const struct watch_list *l, size_t at, int64_t now_us);

/* Who the group's tenant is now. Another than before has yet to get it. */
void watch_list_tenant(struct watch_list *l, size_t at, int64_t tenant);
void watch_list_settle(struct watch_list *l, size_t at);
void watch_list_postpone(struct watch_list *l, size_t at, int64_t until_us);

void watch_list_add_gone(struct watch_list *l, const char *tenant, const char *name);
void watch_list_drop_gone(struct watch_list *l, size_t i);
void watch_list_fini(struct watch_list *l);

#endif
