/* The registry's own view of names and versions: private to registry.c, version.c,
 * change.c, load.c.
 *
 * Thread: loop (the thread of adapters_open). What a change reads on the pool is immutable
 * after adapters_open, but for the store, which only the one running change touches. */
#ifndef PREFIXD_REGISTRY_H
#define PREFIXD_REGISTRY_H

#include "adapters/adapters.h"
#include "adapters/compile.h"
#include "adapters/kept.h"
#include "adapters/spec.h"
#include "adapters/store.h"
#include "core/base/check.h"

struct adapter_version {
    struct thread_owner owner;
    int n_refs;  /* names, changes and requests */
    int n_users; /* requests */
    enum kind kind;
    char digest[DIGEST_HEX + 1];
    struct compiled compiled;
    int64_t created;
    char *base_hint;
    struct kept kept; /* of the adapters folder; empty if the store has the files */
};

struct version_name { /* a name and what it means now */
    char *name;
    struct adapter_version *version;
    bool is_stored; /* the store has it; else the adapters folder */
};

struct name_set {
    char **names;
    size_t n;
};

struct adapters {
    struct thread_owner owner;
    struct compile_with with;
    struct spec_limits limits;
    char *base_name;
    struct store *store;
    bool is_durable; /* what is stored outlives the process */
    struct version_name *names; /* in order of name */
    size_t n_names;
    struct name_set in_folder; /* what the adapters folder holds, loaded or not */
    struct name_set hidden;    /* whose stored version did not load at boot */
};

struct version_name *registry_find(const struct adapters *a, const char *name); /* NULL: none */

/* Makes name mean v (one more reference; the old one's is given back). */
struct version_name *registry_set(struct adapters *a, const char *name, struct adapter_version *v,
                                  bool is_stored);
void registry_forget(struct adapters *a, const char *name);
void registry_describe(const struct adapters *a, const struct version_name *n,
                       struct adapter_info *out);

bool registry_has_name(const struct name_set *set, const char *name);
void registry_add_name(struct name_set *set, const char *name);
void registry_drop_name(struct name_set *set, const char *name);

void version_ref(struct adapter_version *v);
void version_unref(struct adapter_version *v); /* accepts NULL */

/* Where the content of a change comes from; what was sent goes to the store. */
struct change_origin {
    enum { CHANGE_SENT, CHANGE_STORED, CHANGE_FOLDER } from;
    const char *version;   /* STORED: the digest that it must have */
    int64_t created;       /* STORED */
    struct kept *kept; /* FOLDER: taken over when the call succeeds */
};

struct adapter_change *change_put_begin(struct adapters *a, const char *name,
                                        const struct adapter_file *files, int n_files,
                                        const struct change_origin *origin, struct err *err);

#endif
