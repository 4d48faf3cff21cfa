/* Pinning versions for requests, and loading those that are not in memory. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "adapters/refuse.h"
#include "adapters/registry.h"
#include "core/base/clock.h"
#include "core/base/log.h"
#include "core/base/mem.h"

enum { MAX_LOADS_OF_TENANT = 1024, MAX_WAITERS_OF_LOAD = 65536 };

static int does_not_exist(const char *name, struct err *err)
{
    return err_param(err, ERR_MODEL_NOT_FOUND, "model", "The model `%.*s` does not exist",
                     refuse_shown(name), name);
}

static int is_broken(const struct broken_version *b, struct err *err)
{
    long long left = (long long)(b->until - time(NULL));
    return err_param(err, ERR_ADAPTER, "model", "the adapter cannot be used: %s; it is tried again "
                     "in %lld s", b->why, left > 1 ? left : 1);
}

static int is_refused(const struct store_entry *e, struct err *err)
{
    long long left = (long long)(e->refused_until - time(NULL));
    if (e->refused_until)
        return err_param(err, ERR_ADAPTER, "model", "the adapter cannot be used: %s; it is tried "
                         "again in %lld s", e->refused, left > 1 ? left : 1);
    return err_param(err, ERR_ADAPTER, "model", "the adapter cannot be used: %s; it is tried again "
                     "when its files change", e->refused);
}

static int has_no_room(const struct adapters *a, struct err *err)
{
    return err_set(err, ERR_NO_MEMORY,
                   "the memory for adapters (%zu bytes) has no room for this one beside those "
                   "in use now",
                   a->residents.memory);
}

/* ---- a version that was loaded ------------------------------------------------------- */

static void note_pin(struct adapter_version *v, const char *name, bool is_pinned)
{
    if (is_pinned && !v->pinned_by[0])
        snprintf(v->pinned_by, sizeof v->pinned_by, "%s", name);
}

static void succeed(struct adapters *a, struct adapter_load *l)
{
    double ms = l->made.compiled.ms;
    struct adapter_version *v =
        version_new(a, l->tenant, l->digest, l->name, l->made.kind, &l->made.compiled);
    note_pin(v, l->name, l->is_pinned);
    broken_clear(&a->broken, l->tenant, l->digest);
    if (l->made.has_computed) {
        a->stats.compiles++;
        a->stats.compile_us += (uint64_t)(ms * 1e3);
    }
    if (!l->is_known && room_is_refused(a, l->tenant, v->compiled.bytes))
        version_unref(v);
    else
        l->version = room_admit(a, v);
    if (!l->version) {
        a->stats.load_failures++;
        has_no_room(a, &l->err);
        return;
    }
    a->stats.loads++;
    a->stats.load_us += (uint64_t)(clock_us() - l->asked_us);
}

/* ---- asking for a version ------------------------------------------------------------ */

static struct adapter_load load_of(struct adapters *a, const struct row *row)
{
    const struct store_entry *e = &row->entry;
    struct adapter_load l = {
        .a = a,
        .tenant = e->tenant,
        .is_pinned = e->is_pinned,
        .is_known = e->n_tokens > 0,
        .is_long = make_is_long((int64_t)e->n_tokens * e->n_tasks, e->bytes),
        .bytes = room_for(a, e->n_tokens, e->n_tasks),
        .stamp = registry_stamp(a, e->tenant, row->version),
        .asked_us = clock_us(),
    };
    memcpy(l.digest, row->version, sizeof l.digest);
    memcpy(l.name, row->name, sizeof l.name);
    return l;
}

static struct adapter_load *new_load(struct adapters *a, const struct row *row)
{
    struct adapter_load *l = xmalloc(sizeof *l);
    *l = load_of(a, row);
    load_queue_add(&a->queue, l);
    return l;
}

static int wait_for(struct adapters *a, const struct row *row, struct adapter_load **wait,
                    struct err *err)
{
    const struct store_entry *e = &row->entry;
    struct adapter_load *l = load_queue_find(&a->queue, e->tenant, row->version);
    if (!l && room_is_refused(a, e->tenant, room_for(a, e->n_tokens, e->n_tasks)))
        return has_no_room(a, err);
    if (l ? l->n_waiters >= MAX_WAITERS_OF_LOAD
          : load_queue_length(&a->queue, e->tenant) >= MAX_LOADS_OF_TENANT)
        return err_set(err, ERR_LOADING, "too many requests wait for adapters that are loading");
    if (!l)
        l = new_load(a, row);
    l->n_waiters++;
    *wait = l;
    return 0;
}

/* Reading a small file that the kernel has at hand takes less than handing it to another thread. Where the
 * tenant's loads queue, it comes after them. */
static struct adapter_version *load_at_once(struct adapters *a, const struct row *row)
{
    struct adapter_load l = load_of(a, row);
    if (!l.is_known || l.bytes > a->maker.at_once_bytes || load_queue_length(&a->queue, l.tenant) ||
        load_queue_find(&a->queue, l.tenant, l.digest) || room_is_refused(a, l.tenant, l.bytes) ||
        !make_at_once(&a->maker, l.tenant, l.digest, &l.made))
        return NULL;
    succeed(a, &l);
    if (l.version)
        version_pin(l.version);
    version_unref(l.version); /* the load's own reference */
    return l.version;
}

int adapters_acquire(struct adapters *a, int64_t tenant, const char *name,
                     struct adapter_version **out, struct adapter_load **wait, struct err *err)
{
    CHECK_ON_THREAD(a->owner);
    struct row *row = &a->row;
    *out = NULL;
    *wait = NULL;
    int rc = registry_find(a, tenant, name, row, err);
    if (rc <= 0)
        return rc < 0 ? -1 : does_not_exist(name, err);
    if (row->entry.is_damaged)
        return err_param(err, ERR_ADAPTER, "model",
                         "the adapter cannot be used: " REGISTRY_DAMAGED);
    if (!row->version[0])
        return is_refused(&row->entry, err);
    struct adapter_version *v = residents_find(&a->residents, row->entry.tenant, row->version);
    const struct broken_version *b = registry_broken(a, row->entry.tenant, row->version);
    if (b && (b->is_mark || !v)) /* what is in memory is as good as it was */
        return is_broken(b, err);
    if (!v) {
        a->stats.misses++;
        *out = load_at_once(a, row);
        return *out ? 1 : wait_for(a, row, wait, err);
    }
    if (v->links.list == &a->residents.idle &&
        room_is_refused(a, v->tenant, v->compiled.bytes))
        return has_no_room(a, err);
    a->stats.hits++;
    note_pin(v, name, row->entry.is_pinned);
    version_pin(v);
    *out = v;
    return 1;
}

/* ---- the load's way ------------------------------------------------------------------ */

struct adapter_load *adapters_next_load(struct adapters *a)
{
    CHECK_ON_THREAD(a->owner);
    struct adapter_load *l = load_queue_next(&a->queue);
    if (!l)
        return NULL;
    room_make(a, l->bytes);
    if (room_is_refused(a, l->tenant, l->bytes)) {
        l->rc = has_no_room(a, &l->err);
        return l;
    }
    l->reserved = l->bytes;
    a->reserved += l->reserved;
    return l;
}

void adapter_load_run(struct adapter_load *l)
{
    const struct maker *m = &l->a->maker;
    if (l->rc < 0)
        return;
    l->rc = make_from_store(m, l->tenant, l->digest, &l->made, &l->err);
    const struct compiled *c = &l->made.compiled;
    if (l->rc < 0)
        return;
    if (l->made.has_computed && !blobs_has(store_blobs(m->store), l->tenant, l->digest))
        make_unkeep(m, l->tenant, l->digest); /* deleted before its compiled file was there */
    if (!l->is_known)
        store_note_compiled(m->store, l->tenant, l->digest, kind_name(l->made.kind), c->n_tokens,
                            c->n_prefixes, c->ms, NULL);
}

/* What may be otherwise at the very next try is no property of the version. */
static bool is_passing(enum err_code code)
{
    return code == ERR_NO_MEMORY || code == ERR_CLOSING || code == ERR_QUEUE_FULL ||
           code == ERR_CANCELLED || code == ERR_LOADING;
}

/* Deleted or replaced while it was being loaded: its files may have gone with it. */
static bool has_gone(struct adapters *a, struct adapter_load *l)
{
    struct row *row = &a->row;
    int rc = store_find_own(a->store, l->tenant, l->name, row_take, row, NULL);
    if (rc == 1 && strcmp(row->version, l->digest) == 0)
        return false;
    if (rc == 1 && row->version[0])
        err_set(&l->err, ERR_LOADING, "the adapter was changed while it was loading");
    else
        does_not_exist(l->name, &l->err);
    return true;
}

static void fail(struct adapters *a, struct adapter_load *l)
{
    a->stats.load_failures++;
    if (is_passing(l->err.code) || has_gone(a, l))
        return;
    log_warn("adapters", "adapter %s: version %.12s does not load: %s", l->name, l->digest,
             l->err.msg);
    is_broken(broken_note(&a->broken, l->tenant, l->digest, &l->stamp, l->err.msg, time(NULL)),
              &l->err);
}

static void free_load(struct adapter_load *l)
{
    version_unref(l->version);
    compile_fini(&l->made.compiled);
    free(l);
}

void adapters_load_done(struct adapters *a, struct adapter_load *l)
{
    CHECK_ON_THREAD(a->owner);
    load_queue_done(&a->queue, l);
    a->reserved -= l->reserved;
    if (l->rc == 0)
        succeed(a, l);
    else
        fail(a, l);
    if (l->n_waiters == 0)
        free_load(l);
}

/* ---- the end of waiting -------------------------------------------------------------- */

static void leave(struct adapters *a, struct adapter_load *l)
{
    CHECK(l->n_waiters > 0);
    if (--l->n_waiters > 0 || l->state == LOAD_RUNNING)
        return;
    if (l->state == LOAD_QUEUED)
        load_queue_remove(&a->queue, l);
    free_load(l);
}

int adapters_take(struct adapters *a, struct adapter_load *l, struct adapter_version **out,
                  struct err *err)
{
    CHECK_ON_THREAD(a->owner);
    CHECK(l->state == LOAD_DONE);
    *out = l->version;
    if (l->version)
        version_pin(l->version);
    else if (err)
        *err = l->err;
    int rc = l->version ? 0 : -1;
    leave(a, l);
    return rc;
}

const char *adapter_load_version(const struct adapter_load *l)
{
    return l->digest;
}

int64_t adapter_load_owner(const struct adapter_load *l)
{
    return l->tenant;
}

void adapters_give_up(struct adapters *a, struct adapter_load *l)
{
    CHECK_ON_THREAD(a->owner);
    leave(a, l);
}

void adapters_mark_broken(struct adapters *a, int64_t tenant, const char *version, int64_t until,
                          const char *why)
{
    CHECK_ON_THREAD(a->owner);
    if (blobs_is_digest(version))
        broken_mark(&a->broken, tenant, version, until, why);
}
