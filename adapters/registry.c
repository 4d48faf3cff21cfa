/* Opening the registry, and what it says of names. */
#include "adapters/registry.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "adapters/name.h"
#include "adapters/refuse.h"
#include "adapters/whole.h"
#include "core/base/mem.h"

#define DEFAULT_MEMORY ((size_t)1 << 30)
#define DEFAULT_MAX_BYTES ((size_t)256 << 20)
#define MAX_COMPILED_BYTES ((size_t)4 << 30)

/* ---- opening ------------------------------------------------------------------------- */

size_t adapters_shared_size(int n)
{
    return (size_t)n * sizeof(struct broken_table);
}

struct adapters *adapters_open(const struct adapters_opts *o)
{
    int most = engine_max_ctx(o->engine) - 1;
    if (o->max_virtual_tokens > 0 && o->max_virtual_tokens < most)
        most = o->max_virtual_tokens;
    struct adapters *a = xcalloc(1, sizeof *a);
    thread_owner_set(&a->owner);
    a->base_name = xstrdup(o->base_name);
    a->store = o->store;
    a->is_durable = o->is_durable;
    a->peers = o->peers;
    broken_open(&a->broken, o->peers.memory, o->peers.n, o->peers.place);
    a->residents.memory = o->memory ? o->memory : DEFAULT_MEMORY;
    const struct spec_limits limits = {
        .shape = base_model_shape(o->base),
        .max_virtual_tokens = most,
        .max_bytes = o->max_bytes ? o->max_bytes : DEFAULT_MAX_BYTES,
        .max_compiled = MAX_COMPILED_BYTES,
    };
    a->maker = (struct maker){o->engine, o->base, o->store, limits, o->at_once_bytes};
    return a;
}

void adapters_free(struct adapters *a)
{
    if (!a)
        return;
    CHECK_ON_THREAD(a->owner);
    CHECK(a->queue.n == 0);
    residents_fini(&a->residents);
    broken_close(&a->broken);
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

/* ---- names --------------------------------------------------------------------------- */

static int not_found(const char *name, struct err *err)
{
    return err_set(err, ERR_ADAPTER_NOT_FOUND, "there is no adapter `%.*s`", refuse_shown(name),
                   name);
}

int registry_find(struct adapters *a, int64_t tenant, const char *name, struct row *out,
                  struct err *err)
{
    CHECK_ON_THREAD(a->owner);
    return store_find(a->store, tenant, name, row_take, out, err);
}

int registry_need_own(struct adapters *a, int64_t tenant, const char *name, struct row *out,
                      struct err *err)
{
    CHECK_ON_THREAD(a->owner);
    int rc = store_find_own(a->store, tenant, name, row_take, out, err);
    if (rc < 0)
        return -1;
    bool is_there = rc == 1 && (out->version[0] || out->entry.is_damaged);
    return is_there ? 0 : not_found(name, err);
}

/* ---- states -------------------------------------------------------------------------- */

const char *adapter_state_name(enum adapter_state s)
{
    static const char *const names[] = {"ready", "loading", "draining", "broken"};
    return names[s];
}

struct broken_stamp registry_stamp(const struct adapters *a, int64_t tenant, const char *digest)
{
    struct stat st;
    char name[BLOB_NAME_SIZE];
    blobs_name(name, tenant, digest);
    if (fstatat(store_blobs(a->store)->folder, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return (struct broken_stamp){0};
    return (struct broken_stamp){(uint64_t)st.st_ino, st.st_mtim.tv_sec, st.st_mtim.tv_nsec};
}

const struct broken_version *registry_broken(const struct adapters *a, int64_t tenant,
                                             const char *digest)
{
    if (broken_is_empty(&a->broken) || !digest[0])
        return NULL;
    const struct broken_stamp stamp = registry_stamp(a, tenant, digest);
    return broken_find(&a->broken, tenant, digest, &stamp, time(NULL));
}

static void describe_state(struct adapters *a, const struct store_entry *e,
                           struct adapter_info *out)
{
    const struct broken_version *b = registry_broken(a, e->tenant, e->version);
    if (b || e->is_damaged) {
        out->state = ADAPTER_BROKEN;
        out->why = b ? b->why : REGISTRY_DAMAGED;
        out->until = b ? b->until : 0;
    } else if (!out->is_resident && load_queue_find(&a->queue, e->tenant, e->version)) {
        out->state = ADAPTER_LOADING;
    }
}

void registry_describe(struct adapters *a, const struct store_entry *e, struct adapter_info *out)
{
    const struct adapter_version *v = residents_find(&a->residents, e->tenant, e->version);
    *out = (struct adapter_info){
        .name = e->name,
        .kind = e->kind && e->kind[0] ? e->kind : v ? kind_name(v->kind) : NULL,
        .tenant = e->tenant,
        .n_virtual_tokens = v ? v->compiled.n_tokens : e->n_tokens,
        .n_tasks = v ? v->compiled.n_prefixes : e->n_tasks > 0 ? e->n_tasks : 1,
        .bytes = v ? v->compiled.bytes : room_for(a, e->n_tokens, e->n_tasks),
        .compile_ms = e->compile_ms,
        .is_durable = a->is_durable,
        .is_public = e->is_public,
        .is_pinned = e->is_pinned,
        .is_resident = v != NULL,
        .created = e->created,
        .n_refs = v ? v->n_users : 0,
        .base_hint = e->base_hint,
        .state = ADAPTER_READY,
    };
    strncpy(out->version, e->version, sizeof out->version - 1);
    describe_state(a, e, out);
}

/* ---- asking -------------------------------------------------------------------------- */

int adapters_info(struct adapters *a, int64_t tenant, const char *name, struct adapter_info *out,
                  struct err *err)
{
    int rc = registry_find(a, tenant, name, &a->row, err);
    if (rc <= 0)
        return rc < 0 ? -1 : not_found(name, err);
    registry_describe(a, &a->row.entry, out);
    return 0;
}

struct listing {
    struct adapters *a;
    void (*fn)(const struct adapter_info *info, void *ud);
    void *ud;
};

static void list_entry(void *ud, const struct store_entry *e)
{
    const struct listing *l = ud;
    struct adapter_info info;
    registry_describe(l->a, e, &info);
    l->fn(&info, l->ud);
}

bool adapters_each_after(struct adapters *a, int64_t tenant, const char *after, size_t limit,
                         void (*fn)(const struct adapter_info *info, void *ud), void *ud)
{
    CHECK_ON_THREAD(a->owner);
    struct listing l = {a, fn, ud};
    bool has_more = false;
    if (store_each(a->store, tenant, after, limit, &has_more, list_entry, &l, NULL) < 0)
        return false;
    return has_more;
}

struct version_listing {
    struct adapters *a;
    int64_t tenant;
    const char *current;
    void (*fn)(const struct adapter_version_info *v, void *ud);
    void *ud;
};

/* One that is on its way out may be here, or in another process. */
static bool is_run(const struct adapters *a, int64_t tenant, const char *digest,
                   const struct adapter_version *v)
{
    const struct adapters_peers *p = &a->peers;
    return p->is_run ? p->is_run(p->ud, tenant, digest) : v && v->n_users > 0;
}

static enum adapter_state state_of(struct adapters *a, int64_t tenant, const char *digest,
                                   bool is_current, const struct adapter_version *v)
{
    if (registry_broken(a, tenant, digest))
        return ADAPTER_BROKEN;
    if (!is_current && is_run(a, tenant, digest, v))
        return ADAPTER_DRAINING;
    return !v && load_queue_find(&a->queue, tenant, digest) ? ADAPTER_LOADING : ADAPTER_READY;
}

static void list_version(void *ud, const struct store_version *s)
{
    const struct version_listing *l = ud;
    const struct adapter_version *v = residents_find(&l->a->residents, l->tenant, s->digest);
    bool is_current = strcmp(s->digest, l->current) == 0;
    const struct adapter_version_info info = {
        .version = s->digest,
        .kind = s->kind && s->kind[0] ? s->kind : v ? kind_name(v->kind) : NULL,
        .created = s->created,
        .number = s->number,
        .is_current = is_current,
        .state = state_of(l->a, l->tenant, s->digest, is_current, v),
        .n_refs = v ? v->n_users : 0,
    };
    l->fn(&info, l->ud);
}

int adapters_each_version(struct adapters *a, int64_t tenant, const char *name,
                          void (*fn)(const struct adapter_version_info *v, void *ud), void *ud,
                          struct err *err)
{
    if (registry_need_own(a, tenant, name, &a->row, err) < 0)
        return -1;
    struct version_listing l = {a, tenant, a->row.version, fn, ud};
    return store_each_version(a->store, tenant, name, list_version, &l, err);
}

/* Only names that a version may have: the rest of its folder is none of a reader's
 * business. */
static bool is_file_name(const char *file)
{
    return strcmp(file, SPEC_CONFIG_FILE) == 0 || strcmp(file, SPEC_WEIGHTS_FILE) == 0 ||
           strcmp(file, SPEC_TEXT_FILE) == 0;
}

int adapters_find_file(struct adapters *a, int64_t tenant, const char *name, const char *file,
                       struct adapter_file_look *out, struct err *err)
{
    if (registry_need_own(a, tenant, name, &a->row, err) < 0)
        return -1;
    if (!is_file_name(file) || !a->row.version[0])
        return err_set(err, ERR_NOT_FOUND, "the adapter has no such file");
    *out = (struct adapter_file_look){.a = a, .tenant = tenant, .file = file};
    memcpy(out->version, a->row.version, sizeof out->version);
    return 0;
}

int adapter_file_open(const struct adapter_file_look *f, struct err *err)
{
    return whole_open_file(store_blobs(f->a->store), f->tenant, f->version, f->file, err);
}

int adapters_set_flags(struct adapters *a, int64_t tenant, const char *name, int is_public,
                       int is_pinned, struct err *err)
{
    return store_set_flags(a->store, tenant, name, is_public, is_pinned, err);
}

void adapters_stats(const struct adapters *a, struct adapters_stats *out)
{
    *out = a->stats;
    out->evictions = a->residents.n_evicted;
    out->bytes = a->residents.bytes;
    out->n_resident = (int)a->residents.n;
    out->n_loading = a->queue.n;
}
