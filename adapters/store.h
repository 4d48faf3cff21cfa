/* The registry on disk: names of each tenant, their versions, and the files of versions. Tenants and
 * keys are in store_tenants.h, usage in store_usage.h; one struct store serves all three.
 *
 * Processes: any number may have the folder open at once (workers, the command line); every change is
 * one transaction with its conditions checked inside. What a change returned 0 for is there after
 * kill -9 and power loss, for every process' next reading, and nothing is ever there by half. One
 * daemon at a time owns a folder: home.h.
 *
 * Threads: calls that change anything (any thread but the loop; they block for the disk and for other
 * processes) are serialised by the store; calls that only read belong to the one thread that opened it
 * (the loop; checked) and never wait for a writer. This interface is all that the rest knows, so that another
 * database can stand behind it.
 *
 *     struct store *s = store_open(&(struct store_opts){.dir = dir}, &err);
 *     store_put(s, &(struct store_entry){.tenant = 1, .name = "support", .version = digest, ...},
 *               files, n_files, NULL, NULL, &err);
 */
#ifndef PREFIXD_STORE_H
#define PREFIXD_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "adapters/blobs.h"
#include "core/base/digest.h"
#include "core/base/err.h"

enum { STORE_KEEP_VERSIONS = 10, STORE_DEFAULT_TENANT = 1 /* always there */ };
#define STORE_DEFAULT_TENANT_NAME "default"

struct store;

struct store_opts {
    const char *dir;   /* made if it is missing */
    int keep_versions; /* of a name, the current one included; 0: STORE_KEEP_VERSIONS */
    bool is_volatile;  /* a temporary folder: nothing is synced */
};

/* A name and its current version. Strings are lent for the call that gives it out. */
struct store_entry {
    int64_t tenant;      /* whose it is, which for a public one need not be who asked */
    const char *name;
    const char *version; /* "" for a name that was deleted and must stay so, or that only is refused */
    const char *kind;    /* "" if it is not known (versions of older daemons) */
    const char *base_hint; /* base_model_name_or_path, or NULL */
    int64_t created;
    int n_tokens, n_tasks; /* 0: not known yet, as of versions of older daemons */
    int64_t bytes;       /* of the files */
    double compile_ms;
    bool is_public, is_pinned;
    bool is_from_folder; /* brought by the adapters folder, not by a PUT */
    bool is_damaged;     /* what it meant cannot be read: version is "" */
    const char *refused; /* why the folder's newest files of it are not in use, or NULL */
    int64_t refused_until; /* Unix seconds; 0: until they change */
};

struct store_version {
    const char *digest, *kind;
    int64_t created, number; /* the higher the later, within a name */
    int64_t bytes;
    int n_tokens, n_tasks;
};

/* Asked inside the transaction, when nobody else can change the name: current is its version, "" if it
 * is remembered as deleted, NULL if there is no such name; is_from_folder is of the current one. -1 with
 * err refuses the change. */
struct store_condition {
    int (*allow)(void *ud, const char *current, bool is_from_folder, struct err *err);
    void *ud;
};

/* What a tenant may have, checked inside the transaction of a put; 0: no limit. */
struct store_limits {
    int64_t max_adapters; /* names; else ERR_FORBIDDEN */
    int64_t max_bytes;    /* of the files of all kept versions; else ERR_TOO_LARGE */
};

/* Opens and, if needed, makes or migrates the tables (one transaction; other processes wait). ERR_CONFLICT if
 * the folder belongs to a newer daemon. */
struct store *store_open(const struct store_opts *opts, struct err *err);

/* Ends for good what a process left that was killed amid its commit: it may stand in the log and
 * not in the log's index, where nobody sees it until all start anew. Any thread; blocks. */
int store_settle(struct store *s, struct err *err);
void store_close(struct store *s);

/* Clears away what killed processes left half-done, and blobs and compiled files of nothing. Only while no
 * other daemon runs: home.h calls it. */
int store_sweep(struct store *s, struct err *err);

/* ---- changes; only_if and limits may be NULL --------------------------------------------------- */

/* The version becomes the name's current one and, if it was not, its newest. Files are written and synced
 * first, then the commit. */
int store_put(struct store *s, const struct store_entry *entry, const struct blob_file *files,
              int n_files, const struct store_condition *only_if, const struct store_limits *limits,
              struct err *err);

/* The same in two parts, for who has something else to do meanwhile: the files, written and synced; then the
 * commit, of the same ones (they are written again if another process has collected them). One that does not
 * come after all is withdrawn. */
int store_write(struct store *s, int64_t tenant, const char *version, const struct blob_file *files,
                int n_files, struct err *err);
int store_commit(struct store *s, const struct store_entry *entry, const struct blob_file *files,
                 int n_files, const struct store_condition *only_if,
                 const struct store_limits *limits, struct err *err);
void store_withdraw(struct store *s, int64_t tenant, const char *version);

/* Whether such a put, of this many bytes, would be refused now, and with what. Blocks as a put does, but for the
 * disk. */
int store_check_put(struct store *s, const struct store_entry *entry,
                    const struct store_condition *only_if, const struct store_limits *limits,
                    struct err *err);

/* Makes a kept version the current one again; ERR_NOT_FOUND if it is not kept. */
int store_rollback(struct store *s, int64_t tenant, const char *name, const char *version,
                   const struct store_condition *only_if, struct err *err);

/* With all its versions. stays_deleted: remember it, for a name that would come back from the adapters
 * folder. ERR_ADAPTER_NOT_FOUND. */
int store_delete(struct store *s, int64_t tenant, const char *name, bool stays_deleted,
                 const struct store_condition *only_if, struct err *err);

/* The adapters folder's newest files of the name are refused, and why (NULL: they are not); nothing else of it
 * changes. A name that nobody has becomes one that only is refused. Nothing happens to what was PUT or deleted
 * by request. */
int store_note_refusal(struct store *s, int64_t tenant, const char *name, const char *why, int64_t until,
                       struct err *err);

/* Flags of a name; -1 leaves one as it is. ERR_ADAPTER_NOT_FOUND; ERR_CONFLICT if another tenant's adapter
 * is public under this name. */
int store_set_flags(struct store *s, int64_t tenant, const char *name, int is_public, int is_pinned,
                    struct err *err);

/* What compiling a version told, for versions of older daemons that never said. */
int store_note_compiled(struct store *s, int64_t tenant, const char *version, const char *kind,
                        int n_tokens, int n_tasks, double compile_ms, struct err *err);

/* ---- reading ------------------------------------------------------------------------------------ */

/* What name means to the tenant now: his own adapter, or else the public one. 1: fn was called with it; 0:
 * nothing (deleted ones that are remembered are nothing, refused ones are not); -1: the database failed. A few microseconds, the
 * same for a name that nobody has and one that another tenant has. */
int store_find(struct store *s, int64_t tenant, const char *name,
               void (*fn)(void *ud, const struct store_entry *e), void *ud, struct err *err);

/* His own alone, deleted ones that are remembered (version "") included. */
int store_find_own(struct store *s, int64_t tenant, const char *name,
                   void (*fn)(void *ud, const struct store_entry *e), void *ud, struct err *err);

/* In order of name, those behind after ("": from the first), at most limit; *has_more if there are more. What
 * the tenant sees: his own and public ones that he has no own of the name. Deleted ones are left out. */
int store_each(struct store *s, int64_t tenant, const char *after, size_t limit, bool *has_more,
               void (*fn)(void *ud, const struct store_entry *e), void *ud, struct err *err);

/* Every tenant's names, deleted ones that are remembered included: for boot. */
int store_each_all(struct store *s, void (*fn)(void *ud, const struct store_entry *e), void *ud,
                   struct err *err);

/* Newest first. */
int store_each_version(struct store *s, int64_t tenant, const char *name,
                       void (*fn)(void *ud, const struct store_version *v), void *ud,
                       struct err *err);

/* 1 and the version through fn, 0 if it is not kept. */
int store_find_version(struct store *s, int64_t tenant, const char *name, const char *version,
                       void (*fn)(void *ud, const struct store_version *v), void *ud,
                       struct err *err);

/* Whether anybody has changed anything since the last call (PRAGMA data_version; microseconds). */
bool store_has_changed(struct store *s);

const struct blobs *store_blobs(const struct store *s); /* any thread */
const char *store_path(const struct store *s);          /* of the state folder; any thread */
int store_folder(const struct store *s);                /* descriptor of the state folder; any thread */

/* A copy of the database as it is at one moment, to path; for a backup. Any thread; has its own connection. While
 * *hold (a descriptor, closed by the caller) is open, no process collects blobs. */
int store_snapshot(struct store *s, const char *path, int *hold, struct err *err);

struct store_snapshot_blob { /* with the names of a tenant's adapter that has it, for messages; lent */
    int64_t tenant;
    const char *digest, *tenant_name, *adapter;
};

/* Every blob that versions in such a copy are made of, once; fn returns 0 to go on. */
int store_snapshot_each(const char *path, int (*fn)(void *ud, const struct store_snapshot_blob *b),
                        void *ud, struct err *err);

#endif
