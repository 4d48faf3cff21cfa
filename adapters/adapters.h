/* PUBLIC. Adapters: names of each tenant, their current immutable version, and how a version comes to be.
 *
 * The truth about names is the store (a database that all workers share): every lookup reads it, so a
 * change acknowledged by any process is seen by the next request of every other. What a process keeps in
 * memory are compiled versions, by tenant and digest, under a budget.
 *
 * Thread: loop, the one of adapters_open; adapter_change_run, adapter_load_run and adapters_set_flags on the pool.
 *
 * A request pins the version that its name means now:
 *
 *     struct adapter_load *l = NULL;
 *     int rc = adapters_acquire(a, tenant, "support", &version, &l, &err);   loop
 *     rc 1: pinned; give back with adapters_release. rc -1: err.
 *     rc 0: not in memory. The caller waits for l; when adapters_load_done(a, l) has been called (by whoever
 *           runs loads, below) it calls adapters_take(a, l, &version, &err): 0 pinned, or -1 with why not.
 *           It calls adapters_take or adapters_give_up, once.
 *
 * Loads are run by the caller's pool, as many at once as it likes:
 *
 *     while ((l = adapters_next_load(a))) queue: adapter_load_run(l) on the pool, then on the loop
 *     adapters_load_done(a, l), then wake those that wait for l, then ask for the next load again.
 *
 * At most one load of a tenant runs at a time, others' go first meanwhile, so that cold or huge adapters of one
 * hold back nobody else's; nor do those of many, as max_long_loads leaves threads for short ones. A version that does not load is remembered as broken for a while (state "broken").
 *
 * A change (PUT, DELETE or rollback of a name) goes through three calls so that slow work never runs on the loop:
 *
 *     struct adapter_change *c = adapters_put_begin(a, tenant, "support", files, n, &err);   loop: parses JSON,
 *                                                                  checks everything that costs nothing
 *     adapter_change_run(c, &err);       pool: reads tensors, compiles, stores durably; blocks
 *     adapters_commit(a, c, &info, &err);  loop: tells what the name means now
 *     adapter_change_free(c);              in every case
 *
 * Changes of different tenants run at once; those of one tenant one at a time, in the order of their begin
 * (the caller queues them), because compiling is charged to him. Other processes change things too: conditions are
 * checked inside the store's transaction, and what run returned 0 for has happened, for all processes.
 *
 * The adapters folder (--adapters): one process watches it and brings what it holds into the registry by changes
 * of its own (adapters_import_begin); such an adapter is marked, a PUT of its name wins over it, and a DELETE of it
 * is remembered so that it does not come back.
 */
#ifndef PREFIXD_ADAPTERS_H
#define PREFIXD_ADAPTERS_H

#include "adapters/store.h"
#include "core/base/digest.h"
#include "core/engine.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { ADAPTER_NAME_MAX = 64, ADAPTER_MAX_FILES = 2 };

struct adapters;
struct adapter_change;
struct adapter_load;
struct adapter_version; /* immutable, reference-counted by the loop thread */

struct adapters_peers { /* what the processes of one daemon tell each other; zeroed: there is one */
    void *memory; /* adapters_shared_size(n) zeroed bytes, which all share: what does not load in one is broken
                   * in each. NULL: of this process alone */
    int n, place; /* processes, and which this is */
    bool (*is_run)(void *ud, int64_t tenant, const char *version); /* by a request, in any; NULL: in this one */
    void *ud;
};

struct adapters_opts {
    struct engine *engine;
    const struct base_model *base;
    const char *base_name;     /* a name that no adapter may have */
    struct store *store;       /* the caller's, who closes it after adapters_free */
    bool is_durable;           /* what is stored outlives the daemon */
    size_t memory;             /* bytes of compiled versions kept; 0: 1 GiB. Those in use stay beyond it */
    int max_virtual_tokens;    /* 0: the context limit less one */
    size_t max_bytes;          /* of one weights file; 0: 256 MiB */
    size_t at_once_bytes;      /* adapters_acquire itself reads compiled prefixes up to this size that the page
                                * cache holds, which is quicker than another thread; 0: none */
    int max_long_loads;        /* that run at once; 0: as many as are asked for */
    struct adapters_peers peers;
};

struct adapter_file {
    const char *name;  /* "adapter_config.json", "adapter_model.safetensors" or "adapter.json" (text) */
    const void *bytes; /* borrowed until adapter_change_free */
    size_t len;
};

struct adapter_when { /* lists of ETags or "*", as the headers have them; NULL: no condition */
    const char *if_match, *if_none_match;
};

enum adapter_state {
    ADAPTER_READY,    /* in memory, or will be when somebody asks for it */
    ADAPTER_LOADING,  /* on its way into this process' memory */
    ADAPTER_DRAINING, /* of a version: no longer current, still in use */
    ADAPTER_BROKEN,   /* does not load, or is quarantined */
};
const char *adapter_state_name(enum adapter_state s); /* "ready", ... */

struct adapter_version_info { /* lent for the call */
    const char *version, *kind; /* kind NULL: not known */
    int64_t created, number;    /* number: the higher the later */
    bool is_current;
    enum adapter_state state;
    int n_refs;                 /* requests using it in this process, whereas draining is of all */
};

struct adapter_refusal { /* of what the adapters folder has of a name now */
    const char *why; /* NULL: it is in use, or there is nothing */
    int64_t until;   /* Unix seconds when it is tried again; 0: when its files change */
};

struct adapter_info { /* strings are lent until the next call on the loop thread */
    const char *name;
    const char *kind;  /* "PROMPT_TUNING", ..., "HIDDEN_PREFIX", "text"; NULL: not known yet */
    char version[DIGEST_HEX + 1]; /* digest of the content; "": there is none that could be used */
    int64_t tenant;    /* whose it is */
    int n_virtual_tokens;
    int n_tasks;       /* 1 unless MULTITASK_PROMPT_TUNING */
    size_t bytes;      /* of the compiled prefixes, in memory */
    double compile_ms;
    bool is_durable, is_public, is_pinned;
    bool is_new;       /* of a change: the tenant had no such name before */
    bool is_resident;  /* in this process' memory */
    int64_t created;   /* Unix seconds */
    int n_refs;        /* requests using this version now, in this process */
    const char *base_hint; /* base_model_name_or_path of the config, or NULL */
    enum adapter_state state;
    const char *why;   /* broken: why; else NULL */
    int64_t until;     /* broken: Unix seconds when it is tried again; 0: when it changes */
    struct adapter_refusal refused;
};

struct adapters_stats { /* of this process */
    uint64_t hits, misses, evictions, loads, load_failures, compiles;
    uint64_t load_us, compile_us; /* load: from asked for to in memory, compile included */
    size_t bytes;                 /* of resident versions */
    int n_resident, n_loading;
};

struct adapters_limits { /* of a tenant, for his changes; 0: none */
    int max_virtual_tokens;
    struct store_limits store;
    /* Pool: immediately before a put compiles anything, once it is known that nothing above stands against it
     * (never for content that is known already): the virtual tokens of all tasks. -1 with err refuses the put;
     * what was charged stays so, even if compiling fails. NULL: nothing is charged. */
    int (*charge)(void *ud, int64_t n_tokens, struct err *err);
    void *ud;
};

size_t adapters_shared_size(int n);
struct adapters *adapters_open(const struct adapters_opts *opts); /* boot */
void adapters_free(struct adapters *a); /* no load or change is under way */

/* -1 with ERR_INVALID unless name is [A-Za-z0-9][A-Za-z0-9._-]{0,63} and not the base's. */
int adapters_check_name(const struct adapters *a, const char *name, struct err *err);

/* ---- changes: loop, but for run --------------------------------------------------------------- */

struct adapter_change *adapters_put_begin(struct adapters *a, int64_t tenant, const char *name,
                                          const struct adapter_file *files, int n_files,
                                          struct err *err);
struct adapter_change *adapters_delete_begin(struct adapters *a, int64_t tenant, const char *name,
                                             struct err *err);
struct adapter_change *adapters_rollback_begin(struct adapters *a, int64_t tenant, const char *name,
                                               const char *version, struct err *err);

/* What the adapters folder holds now under this name; files NULL: it went. Nothing happens (NULL with
 * ERR_CONFLICT) if the name's content was PUT or deleted by request; nothing has to happen (NULL, ERR_NONE) if it
 * is this very content. */
struct adapter_change *adapters_import_begin(struct adapters *a, int64_t tenant, const char *name,
                                             const struct adapter_file *files, int n_files,
                                             struct err *err);

/* What the folder holds is refused, or not any more. It is told of the name and changes nothing of what is in use;
 * what was PUT or deleted by request has no part in it. has: loop, whether just this is told already; note:
 * pool, blocks. */
bool adapters_has_refusal(struct adapters *a, int64_t tenant, const char *name,
                          const struct adapter_refusal *r);
int adapters_note_refusal(struct adapters *a, int64_t tenant, const char *name,
                          const struct adapter_refusal *r, struct err *err);

/* After begin. The change happens only if the conditions hold, now and at the moment of the change, when
 * nothing else can come between; ERR_PRECONDITION. */
int adapter_change_when(struct adapter_change *c, const struct adapter_when *when, struct err *err);

/* Limits are asked before anything is compiled, and by the store's transaction, which decides. */
void adapter_change_limit(struct adapter_change *c, const struct adapters_limits *limits);

/* After begin, of a put: everything is checked, compiled and charged, nothing is changed; what would refuse the
 * put refuses this, and commit tells what would be. */
void adapter_change_dry(struct adapter_change *c);

/* After begin: whether run reads or compiles much. Whoever runs changes keeps threads for the others. */
bool adapter_change_is_long(const struct adapter_change *c);

int adapter_change_run(struct adapter_change *c, struct err *err);                     /* pool */

int adapters_commit(struct adapters *a, struct adapter_change *c, struct adapter_info *out,
                    struct err *err);
void adapter_change_free(struct adapter_change *c);

/* Flags that administrators set; -1 leaves one as it is. Blocks for the disk: pool. */
int adapters_set_flags(struct adapters *a, int64_t tenant, const char *name, int is_public,
                       int is_pinned, struct err *err);

/* ---- use: loop, but for run -------------------------------------------------------------------- */

/* What the name means to the tenant: his own, or else a public one. ERR_MODEL_NOT_FOUND (the same for a name
 * that nobody has and one that another has); ERR_ADAPTER if it is broken, with why; ERR_NO_MEMORY if all
 * memory is in use by requests now; ERR_LOADING if too many wait already. */
int adapters_acquire(struct adapters *a, int64_t tenant, const char *name,
                     struct adapter_version **out, struct adapter_load **wait, struct err *err);
int adapters_take(struct adapters *a, struct adapter_load *l, struct adapter_version **out,
                  struct err *err);
void adapters_give_up(struct adapters *a, struct adapter_load *l);
void adapters_release(struct adapter_version *v);

struct adapter_load *adapters_next_load(struct adapters *a); /* to run now; NULL: none may */
const char *adapter_load_version(const struct adapter_load *l); /* its digest */
int64_t adapter_load_owner(const struct adapter_load *l);       /* the tenant whose it is */
void adapter_load_run(struct adapter_load *l);               /* pool; blocks */
void adapters_load_done(struct adapters *a, struct adapter_load *l);

/* This version of this tenant is not loaded again before until (Unix seconds); requests for it get
 * why. The same content of another tenant is none of it. */
void adapters_mark_broken(struct adapters *a, int64_t tenant, const char *version, int64_t until,
                          const char *why);

/* The prefix for a task; has_task false is fine unless there are several (ERR_INVALID, param task_id).
 * Borrowed while the version is pinned. */
const struct kv_prefix *adapter_version_prefix(const struct adapter_version *v, bool has_task,
                                               int64_t task, struct err *err);
const char *adapter_version_digest(const struct adapter_version *v);
int64_t adapter_version_owner(const struct adapter_version *v); /* of a public one its owner */
const char *adapter_version_name(const struct adapter_version *v); /* by which it was loaded */

/* ---- looking: loop ------------------------------------------------------------------------------ */

/* ERR_ADAPTER_NOT_FOUND, as for acquire the same for all that the tenant does not see. */
int adapters_info(struct adapters *a, int64_t tenant, const char *name, struct adapter_info *out,
                  struct err *err);

/* At most limit of those behind the name after ("": from the first); true if there are more. */
bool adapters_each_after(struct adapters *a, int64_t tenant, const char *after, size_t limit,
                         void (*fn)(const struct adapter_info *info, void *ud), void *ud);

/* Of his own adapters. Newest first. */
int adapters_each_version(struct adapters *a, int64_t tenant, const char *name,
                          void (*fn)(const struct adapter_version_info *v, void *ud), void *ud,
                          struct err *err);

/* One of the files the current version was made from, as they were given; of his own adapters. ERR_NOT_FOUND if
 * there is no such file. Only looks it up. */
struct adapter_file_look {
    struct adapters *a;
    int64_t tenant;
    char version[DIGEST_HEX + 1];
    const char *file; /* borrowed */
};
int adapters_find_file(struct adapters *a, int64_t tenant, const char *name, const char *file,
                       struct adapter_file_look *out, struct err *err);

/* Pool: an open read-only descriptor (the caller closes), after all files of the version were read and are what
 * they were; else ERR_ADAPTER. */
int adapter_file_open(const struct adapter_file_look *f, struct err *err);

void adapters_stats(const struct adapters *a, struct adapters_stats *out);

#endif
