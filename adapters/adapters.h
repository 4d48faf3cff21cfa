/* PUBLIC. Adapters: names, their current immutable version, and how a version comes to be.
 *
 * A change (PUT, DELETE or rollback of a name) goes through three calls so that slow work never runs on the loop:
 *
 *     struct adapter_change *c = adapters_put_begin(a, "support", files, n, &err);   loop: parses JSON,
 *                                                                  checks everything that costs nothing
 *     adapter_change_run(c, &err);       pool (or boot): reads tensors, compiles, stores durably; blocks
 *     while (adapter_change_next(c, &err) > 0) adapter_change_run(c, &err);
 *     adapters_commit(a, c, &info, &err);  loop: the name now means the new version
 *     adapter_change_free(c);              in every case
 *
 * adapter_change_next stands between run and commit: it says whether to run once more, since a rollback
 * reads files on the pool before the loop can parse them.
 *
 * Changes are run one at a time, those of a name in the order of their begin (the caller queues them): one is committed or
 * freed before the next is run. After a delete, commit tells what was deleted, until the change is freed;
 * of a stored version that did not load at boot, which can only be deleted or put over, just the name.
 * One that has run and is freed without a commit may be found in the state folder after a restart. A
 * name that --adapters brought and that was deleted stays so after a restart, if there is a state folder.
 *
 * A request pins a version with adapters_acquire on the loop thread and gives it back with
 * adapters_release; a version in use is never freed, whatever happens to its name. An adapter in the state
 * folder wins over one of the same name in the adapters folder, unless it does not load.
 */
#ifndef PREFIXD_ADAPTERS_H
#define PREFIXD_ADAPTERS_H

#include "core/base/digest.h"
#include "core/engine.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { ADAPTER_NAME_MAX = 64, ADAPTER_MAX_FILES = 2 };

struct adapters;
struct adapter_change;
struct adapter_version; /* immutable, reference-counted by the loop thread */

struct adapters_opts {
    struct engine *engine;
    const struct base_model *base;
    const char *base_name;     /* a name that no adapter may have */
    const char *state_dir;     /* NULL: what is PUT lasts until exit, in a temporary folder */
    int keep_versions;         /* of a name, the current one included; 0: 10 */
    int max_virtual_tokens;    /* 0: the context limit less one */
    size_t max_bytes;          /* of one weights file; 0: 256 MiB */
};

struct adapter_file {
    const char *name;  /* "adapter_config.json", "adapter_model.safetensors" or "adapter.json" (text) */
    const void *bytes; /* borrowed until adapter_change_free */
    size_t len;
};

struct adapter_when { /* lists of ETags or "*", as the headers have them; NULL: no condition */
    const char *if_match, *if_none_match;
};

struct adapter_version_info {
    const char *version, *kind; /* kind NULL: not known. Lent for the call */
    int64_t created, number;    /* the higher the later */
    bool is_current;
};

struct adapter_info { /* a copy; strings live as long as the caller holds a reference or until the next
                         change on the loop thread */
    const char *name;
    const char *kind;  /* "PROMPT_TUNING", ..., "HIDDEN_PREFIX", "text" */
    char version[DIGEST_HEX + 1]; /* digest of the content */
    int n_virtual_tokens;
    int n_tasks;       /* 1 unless MULTITASK_PROMPT_TUNING */
    size_t bytes;      /* of the compiled prefixes */
    double compile_ms;
    bool is_durable;   /* kept under the state folder */
    int64_t created;   /* Unix seconds */
    int n_refs;        /* requests using this version now */
    const char *base_hint; /* base_model_name_or_path of the config, or NULL */
};

struct adapters_stats { /* of this process */
    uint64_t hits, misses, evictions, loads, load_failures, compiles;
    uint64_t load_us, compile_us; /* load: from asked for to in memory, compile included */
    size_t bytes;                 /* of resident versions */
    int n_resident, n_loading;
};

/* Whether adapters_open will be able to use the state folder (which is made), and
 * adapters_load_all to read dir: asked before what takes long. */
int adapters_check_state(const char *state_dir, struct err *err);
int adapters_check_folder(const char *dir, struct err *err);

struct adapters *adapters_open(const struct adapters_opts *opts, struct err *err); /* boot */
void adapters_free(struct adapters *a);

/* Compiles everything kept in the state folder, then everything in dir (NULL: none): sub-directories and
 * .json files. A broken one is logged with its reason and skipped. Boot (blocks; the engine runs). */
int adapters_load_all(struct adapters *a, const char *dir, struct err *err);

/* Gives the state folder up for whoever comes next; later changes are refused with ERR_CLOSING. No
 * change may be under way. loop. */
void adapters_leave_state(struct adapters *a);

/* -1 with ERR_INVALID unless name is [A-Za-z0-9][A-Za-z0-9._-]{0,63} and not the base's. */
int adapters_check_name(const struct adapters *a, const char *name, struct err *err);

struct adapter_change *adapters_put_begin(struct adapters *a, const char *name,
                                          const struct adapter_file *files, int n_files,
                                          struct err *err);                            /* loop */
struct adapter_change *adapters_delete_begin(struct adapters *a, const char *name,
                                             struct err *err);                         /* loop */
struct adapter_change *adapters_rollback_begin(struct adapters *a, const char *name,
                                               const char *version, struct err *err);    /* loop */

/* After begin. The change happens only if the conditions hold, now and at the moment of the change, when
 * nothing else can come between; ERR_PRECONDITION. loop. */
int adapter_change_when(struct adapter_change *c, const struct adapter_when *when, struct err *err);

/* After begin, of a put: everything is checked and compiled, nothing is changed; commit tells what would
 * be. loop. */
void adapter_change_dry(struct adapter_change *c);

int adapter_change_run(struct adapter_change *c, struct err *err);                     /* pool */

/* 1: run it again; 0: commit it; -1: it failed. loop. */
int adapter_change_next(struct adapter_change *c, struct err *err);
int adapters_commit(struct adapters *a, struct adapter_change *c, struct adapter_info *out,
                    struct err *err);                                                  /* loop */
void adapter_change_free(struct adapter_change *c);                                    /* loop */

/* Current version of name, pinned, or NULL with ERR_MODEL_NOT_FOUND. loop. */
struct adapter_version *adapters_acquire(struct adapters *a, const char *name, struct err *err);
void adapters_release(struct adapter_version *v);

/* The prefix for a task; has_task false is fine unless there are several (ERR_INVALID, param task_id).
 * Borrowed while the version is pinned. */
const struct kv_prefix *adapter_version_prefix(const struct adapter_version *v, bool has_task,
                                               int64_t task, struct err *err);
const char *adapter_version_digest(const struct adapter_version *v);

int adapters_info(struct adapters *a, const char *name, struct adapter_info *out, struct err *err);

/* In order of name. loop. */
void adapters_each(struct adapters *a, void (*fn)(const struct adapter_info *info, void *ud), void *ud);

/* At most limit of those behind the name after ("": from the first); true if there are more. loop. */
bool adapters_each_after(struct adapters *a, const char *after, size_t limit,
                         void (*fn)(const struct adapter_info *info, void *ud), void *ud);

/* Newest first. loop. */
int adapters_each_version(struct adapters *a, const char *name,
                          void (*fn)(const struct adapter_version_info *v, void *ud), void *ud,
                          struct err *err);

/* An open read-only descriptor (the caller closes) on one of the files the current version was made
 * from, as they were given. ERR_NOT_FOUND if there is no such file. loop. */
int adapters_open_file(struct adapters *a, const char *name, const char *file, struct err *err);

#endif
