/* PRIVATE to store_*.c and home.c: what one part of the store knows of another.
 *
 * Thread: as in store.h: reader and the kept statements are the loop's; the writer is used
 * between store_begin and store_end alone. */
#ifndef PREFIXD_STORE_PARTS_H
#define PREFIXD_STORE_PARTS_H

#include <pthread.h>
#include <sqlite3.h>

#include "adapters/db.h"
#include "adapters/store.h"
#include "adapters/store_tenants.h"
#include "core/base/buf.h"
#include "core/base/check.h"

enum { STORE_BUSY_MS = 10000 /* at most, for others' changes */, STORE_LOCK_WAIT_MS = 2000 };

/* The current version of a name that nobody can tell any more. */
#define STORE_DAMAGED "?"

/* adapters.is_from_folder; 0: the adapters folder never had one of this name. */
enum { STORE_FROM_FOLDER = 1, STORE_OVER_FOLDER = 2 /* PUT over one */ };

/* A row of adapters whose name has no version. */
#define STORE_IS_ONLY_REFUSED "current IS NULL AND is_from_folder = 1"

struct store {
    struct thread_owner owner; /* who opened it: of all that is of reader */
    char *path;
    int dir, collect_lock;
    struct blobs blobs;
    int keep_versions;
    bool is_volatile;
    pthread_mutex_t lock; /* of writer and orphans: this process' changes one at a time */
    struct buf orphans;   /* names of blobs that were written for changes that did not begin */
    sqlite3 *writer, *reader;
    sqlite3_stmt *is_version;                                /* of writer */
    sqlite3_stmt *find, *find_own, *find_key, *data_version; /* of reader */
    int64_t seen_version; /* data_version when it was last asked for; -1: never */
};

/* Opens; holds_lock: the caller has the lock of the folder. */
struct store *store_open_as(const struct store_opts *opts, bool holds_lock,
                            struct err *err);

/* A change: between the two nobody else, in no process, changes anything. */
int store_begin(struct store *s, struct err *err);
int store_end(struct store *s, int rc,
              struct err *err); /* commits if rc is 0; returns how it ended */

/* The tables, made or brought to what this daemon knows. */
int store_known_version(sqlite3 *db,
                        struct err *err); /* -1 with ERR_CONFLICT: of a newer daemon */
int store_migrate(struct store *s, bool holds_lock, struct err *err);

/* "lock" of the folder, which a daemon holds: a descriptor, or -1 with ERR_CONFLICT. */
int store_lock_folder(int dir, int wait_ms, struct err *err);

/* In a change: the version becomes the current one of its name, new unless it was that. */
int store_record_put(struct store *s, const struct store_entry *e, bool is_new,
                     struct err *err);
int store_point_at(struct store *s, const struct store_entry *e, struct err *err);

/* In a change, before anything else of it: files of some blobs that earlier changes dropped
 * go, and those of orphans, but for one that is about to be (tenant, digest; "" for none).
 * Their names are added to gone. */
int store_collect(struct store *s, int64_t tenant, const char *but, struct buf *gone,
                  struct err *err);

/* Collects in a change of its own, if it can begin; whether anything went. */
bool store_collect_now(struct store *s);

void store_note_orphan(struct store *s, int64_t tenant,
                       const char *digest); /* for the next change to withdraw */
bool store_is_version(struct store *s, int64_t tenant,
                      const char *digest); /* or cannot be told */

/* After a change: compiled files of what is gone; frees gone. */
void store_forget_compiled(struct store *s, struct buf *gone);

/* Columns of tenants t, in the order of store_read_tenant. */
#define STORE_TENANT_COLUMNS                                                               \
    "t.id, t.name, t.created, t.weight, t.is_suspended, t.requests_per_minute,"            \
    "  t.tokens_per_minute, t.max_running, t.max_queued, t.max_adapters, "                 \
    "t.max_adapter_bytes,"                                                                 \
    "  t.max_virtual_tokens"
void store_read_tenant(sqlite3_stmt *st, int first,
                       struct tenant *out); /* from that column on */
int store_get_tenant(sqlite3 *db, const char *name, struct tenant *out, struct err *err);

int store_keep_key_statements(struct store *s, struct err *err);
int store_keep_entry_statements(struct store *s, struct err *err);
int store_keep_sweep_statements(struct store *s, struct err *err);

#endif
