/* Bringing one name of the adapters folder into the registry: reading it, changing it,
 * saying what came of it.
 *
 * Thread: loop, except watch_import_read and _tell (pool, or the loop at boot).
 *
 *     struct watch_import i = {.adapters = a, .entries = group, .n_entries = n, ...};
 *     while (watch_import_more(&i)) {
 *         watch_import_read(&i);
 *         struct adapter_change *c = watch_import_begin(&i);    NULL: nothing to run
 *         if (c) ... run and commit it: i.err says how it went
 *         watch_import_end(&i);
 *     }
 *     i.outcome
 */
#ifndef PREFIXD_WATCH_IMPORT_H
#define PREFIXD_WATCH_IMPORT_H

#include "adapters/folder.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum watch_outcome {
    WATCH_DONE, /* served, or refused for good: nothing is to be done unless it changes */
    WATCH_CHANGES, /* not whole yet */
    WATCH_FAILED,  /* by no fault of its own */
};

struct watch_import {
    struct adapters *adapters;
    const char *dir;
    const struct folder_entry *entries; /* of one name, lent; NULL: it went */
    size_t n_entries;
    const char *tenant_name, *name; /* lent */
    int64_t tenant;
    struct adapters_limits limits;
    size_t max_bytes; /* of a weights file */
    bool is_boot;     /* what is not whole now is told now */
    bool is_told;     /* what is amiss was told before */
    int64_t retry_s;  /* Unix time when it is tried again, if it fails by no fault of its own */
    /* ---------------------------------------------------------------------- its own: */
    size_t at;
    bool is_over, is_changed;
    struct loaded loaded;
    enum folder_state state;
    struct err err;
    struct err refusal; /* of the first entry that is not used; none of what waits for more */
    enum watch_outcome outcome;
};

bool watch_import_more(const struct watch_import *i);
void watch_import_read(struct watch_import *i);
struct adapter_change *watch_import_begin(struct watch_import *i);
void watch_import_end(struct watch_import *i);

/* Says what is amiss of a name that stays unfinished. */
void watch_import_give_up(const struct watch_import *i);

/* At the end of one that does not wait for more: whether who asks for the name has to be told
 * something else than before, and (pool) telling it. */
bool watch_import_has_news(const struct watch_import *i);
void watch_import_tell(const struct watch_import *i);

#endif
