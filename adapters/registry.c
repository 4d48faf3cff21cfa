/* Names, and the version that each means now. */
#include "adapters/registry.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "adapters/name.h"
#include "adapters/refuse.h"
#include "core/base/mem.h"

#define DEFAULT_MAX_BYTES ((size_t)256 << 20)
#define MAX_COMPILED_BYTES ((size_t)4 << 30)

/* ---- the table of names -------------------------------------------------------------- */

static size_t place_of(const struct adapters *a, const char *name)
{
    size_t lo = 0, hi = a->n_names;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (strcmp(a->names[mid].name, name) < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

struct version_name *registry_find(const struct adapters *a, const char *name)
{
    CHECK_ON_THREAD(a->owner);
    size_t i = place_of(a, name);
    return i < a->n_names && strcmp(a->names[i].name, name) == 0 ? &a->names[i] : NULL;
}

struct version_name *registry_set(struct adapters *a, const char *name, struct adapter_version *v,
                                  bool is_stored)
{
    struct version_name *n = registry_find(a, name);
    version_ref(v);
    if (!n) {
        size_t i = place_of(a, name);
        a->names = xrealloc(a->names, (a->n_names + 1) * sizeof *a->names);
        memmove(&a->names[i + 1], &a->names[i], (a->n_names - i) * sizeof *a->names);
        a->n_names++;
        n = &a->names[i];
        *n = (struct version_name){.name = xstrdup(name)};
    }
    version_unref(n->version);
    n->version = v;
    n->is_stored = is_stored;
    return n;
}

void registry_forget(struct adapters *a, const char *name)
{
    struct version_name *n = registry_find(a, name);
    if (!n)
        return;
    version_unref(n->version);
    free(n->name);
    size_t i = (size_t)(n - a->names);
    a->n_names--;
    memmove(n, n + 1, (a->n_names - i) * sizeof *n);
}

static size_t place_in_set(const struct name_set *set, const char *name)
{
    size_t i = 0;
    while (i < set->n && strcmp(set->names[i], name) != 0)
        i++;
    return i;
}

bool registry_has_name(const struct name_set *set, const char *name)
{
    return place_in_set(set, name) < set->n;
}

void registry_add_name(struct name_set *set, const char *name)
{
    if (registry_has_name(set, name))
        return;
    set->names = xrealloc(set->names, (set->n + 1) * sizeof *set->names);
    set->names[set->n++] = xstrdup(name);
}

void registry_drop_name(struct name_set *set, const char *name)
{
    size_t i = place_in_set(set, name);
    if (i == set->n)
        return;
    free(set->names[i]);
    set->names[i] = set->names[--set->n];
}

static void free_names(struct name_set *set)
{
    for (size_t i = 0; i < set->n; i++)
        free(set->names[i]);
    free(set->names);
}

void registry_describe(const struct adapters *a, const struct version_name *n,
                       struct adapter_info *out)
{
    const struct adapter_version *v = n->version;
    *out = (struct adapter_info){
        .name = n->name,
        .kind = kind_name(v->kind),
        .n_virtual_tokens = v->compiled.n_tokens,
        .n_tasks = v->compiled.n_prefixes,
        .bytes = v->compiled.bytes,
        .compile_ms = v->compiled.ms,
        .is_durable = n->is_stored && a->is_durable,
        .created = v->created,
        .n_refs = v->n_users,
        .base_hint = v->base_hint,
    };
    memcpy(out->version, v->digest, sizeof out->version);
}

/* ---- opening ------------------------------------------------------------------------- */

int adapters_check_state(const char *state_dir, struct err *err)
{
    struct err why = {0};
    if (store_check(state_dir, &why) == 0)
        return 0;
    return err_set(err, why.code, "%s; a folder that can be made and written to is accepted",
                   why.msg);
}

struct adapters *adapters_open(const struct adapters_opts *o, struct err *err)
{
    int most = engine_max_ctx(o->engine) - 1;
    if (o->max_virtual_tokens > 0 && o->max_virtual_tokens < most)
        most = o->max_virtual_tokens;
    struct adapters *a = xcalloc(1, sizeof *a);
    thread_owner_set(&a->owner);
    a->base_name = xstrdup(o->base_name);
    a->with = (struct compile_with){.engine = o->engine, .base = o->base, .max_virtual_tokens = most};
    a->limits = (struct spec_limits){
        .shape = base_model_shape(o->base),
        .max_virtual_tokens = most,
        .max_bytes = o->max_bytes ? o->max_bytes : DEFAULT_MAX_BYTES,
        .max_compiled = MAX_COMPILED_BYTES,
    };
    a->is_durable = o->state_dir != NULL;
    a->store = store_open(&(struct store_opts){o->state_dir, o->keep_versions}, err);
    if (!a->store) {
        adapters_free(a);
        return NULL;
    }
    return a;
}

void adapters_leave_state(struct adapters *a)
{
    CHECK_ON_THREAD(a->owner);
    if (a->store)
        store_unlock(a->store);
}

void adapters_free(struct adapters *a)
{
    if (!a)
        return;
    CHECK_ON_THREAD(a->owner);
    for (size_t i = 0; i < a->n_names; i++) {
        version_unref(a->names[i].version);
        free(a->names[i].name);
    }
    free_names(&a->in_folder);
    free_names(&a->hidden);
    store_close(a->store);
    free(a->names);
    free(a->base_name);
    free(a);
}

int adapters_check_name(const struct adapters *a, const char *name, struct err *err)
{
    if (!name_is_valid(name))
        return err_param(err, ERR_INVALID, "name", "\"%.*s\" is no adapter name: 1 to 64 letters, "
                         "digits, '.', '_' and '-', of which the first is a letter or digit",
                         refuse_shown(name), name);
    if (strcmp(name, a->base_name) == 0)
        return err_param(err, ERR_INVALID, "name", "\"%s\" is the name of the base model", name);
    return 0;
}

/* ---- asking -------------------------------------------------------------------------- */

static struct version_name *need(struct adapters *a, const char *name, struct err *err)
{
    struct version_name *n = registry_find(a, name);
    if (!n)
        err_set(err, ERR_ADAPTER_NOT_FOUND, "there is no adapter `%.*s`", refuse_shown(name), name);
    return n;
}

struct adapter_version *adapters_acquire(struct adapters *a, const char *name, struct err *err)
{
    struct version_name *n = registry_find(a, name);
    if (!n) {
        err_param(err, ERR_MODEL_NOT_FOUND, "model", "The model `%.*s` does not exist",
                  refuse_shown(name), name);
        return NULL;
    }
    n->version->n_users++;
    version_ref(n->version);
    return n->version;
}

int adapters_info(struct adapters *a, const char *name, struct adapter_info *out, struct err *err)
{
    struct version_name *n = need(a, name, err);
    if (!n)
        return -1;
    registry_describe(a, n, out);
    return 0;
}

bool adapters_each_after(struct adapters *a, const char *after, size_t limit,
                         void (*fn)(const struct adapter_info *info, void *ud), void *ud)
{
    CHECK_ON_THREAD(a->owner);
    size_t i = place_of(a, after);
    if (i < a->n_names && strcmp(a->names[i].name, after) == 0)
        i++;
    for (; i < a->n_names && limit > 0; i++, limit--) {
        struct adapter_info info;
        registry_describe(a, &a->names[i], &info);
        fn(&info, ud);
    }
    return i < a->n_names;
}

void adapters_each(struct adapters *a, void (*fn)(const struct adapter_info *info, void *ud),
                   void *ud)
{
    adapters_each_after(a, "", SIZE_MAX, fn, ud);
}

struct version_listing {
    const char *current;
    void (*fn)(const struct adapter_version_info *v, void *ud);
    void *ud;
};

static void list_version(void *ud, const struct store_version *v)
{
    const struct version_listing *l = ud;
    const struct adapter_version_info info = {v->digest, v->kind[0] ? v->kind : NULL, v->created,
                                              v->number, strcmp(v->digest, l->current) == 0};
    l->fn(&info, l->ud);
}

int adapters_each_version(struct adapters *a, const char *name,
                          void (*fn)(const struct adapter_version_info *v, void *ud), void *ud,
                          struct err *err)
{
    const struct version_name *n = need(a, name, err);
    if (!n)
        return -1;
    const struct adapter_version *v = n->version;
    struct version_listing l = {v->digest, fn, ud};
    if (n->is_stored)
        return store_each_version(a->store, name, list_version, &l, err);
    fn(&(struct adapter_version_info){v->digest, kind_name(v->kind), v->created, 1, true}, ud);
    return 0;
}

/* Only names that a version may have: the rest of its folder is none of a reader's
 * business. */
static bool is_file_name(const char *file)
{
    return strcmp(file, SPEC_CONFIG_FILE) == 0 || strcmp(file, SPEC_WEIGHTS_FILE) == 0 ||
           strcmp(file, SPEC_TEXT_FILE) == 0;
}

int adapters_open_file(struct adapters *a, const char *name, const char *file, struct err *err)
{
    const struct version_name *n = need(a, name, err);
    if (!n)
        return -1;
    if (!is_file_name(file))
        return err_set(err, ERR_NOT_FOUND, "the adapter has no such file");
    if (n->is_stored)
        return blobs_open_file(store_blobs(a->store), n->version->digest, file, err);
    return kept_open(&n->version->kept, file, err);
}
