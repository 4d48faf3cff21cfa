/* A change of one name, on its way from the loop through the pool and back. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "adapters/aside.h"
#include "adapters/refuse.h"
#include "adapters/registry.h"
#include "adapters/when.h"
#include "core/base/log.h"
#include "core/base/mem.h"

enum { SMALL_IMPORT = 1 << 20 }; /* bytes that the loop may digest */

struct adapter_change {
    struct adapters *a;
    int64_t tenant;
    char name[ADAPTER_NAME_MAX + 1];
    enum { CHANGE_PUT, CHANGE_DELETE, CHANGE_ROLLBACK } what;
    bool is_import; /* from the adapters folder */
    bool is_dry;
    bool has_run;   /* successfully */
    bool is_same;   /* nothing has to be compiled, or of an import nothing done at all */
    struct adapter_file files[ADAPTER_MAX_FILES];
    int n_files;
    struct adapter_spec spec;
    char *if_match, *if_none_match; /* NULL: no condition */
    struct adapters_limits limits;
    struct row before;  /* of the name, at the beginning; version "" if there was none */
    bool is_known_broken; /* before */
    bool is_new;    /* the tenant had no such name when it was stored */
    struct row after;   /* once it has run; of a rollback from the beginning on */
    struct made made;   /* by the run; empty: nothing was */
    struct aside aside; /* what the run's other hand does */
    bool is_written;    /* the files are in the store, ahead of the commit */
};

/* ---- begin --------------------------------------------------------------------------- */

static int64_t bytes_of(const struct adapter_file *files, int n)
{
    int64_t sum = 0;
    for (int i = 0; i < n; i++)
        sum += (int64_t)files[i].len;
    return sum;
}

/* NULL if the store cannot be read. */
static struct adapter_change *new_change(struct adapters *a, int64_t tenant, const char *name,
                                         struct err *err)
{
    CHECK_ON_THREAD(a->owner);
    struct adapter_change *c = xcalloc(1, sizeof *c);
    c->a = a;
    c->tenant = tenant;
    snprintf(c->name, sizeof c->name, "%s", name);
    if (store_find_own(a->store, tenant, name, row_take, &c->before, err) < 0) {
        adapter_change_free(c);
        return NULL;
    }
    c->is_known_broken = registry_broken(a, tenant, c->before.version) != NULL;
    return c;
}

struct adapter_change *adapters_put_begin(struct adapters *a, int64_t tenant, const char *name,
                                          const struct adapter_file *files, int n_files,
                                          struct err *err)
{
    if (adapters_check_name(a, name, err) < 0)
        return NULL;
    if (n_files < 1 || n_files > ADAPTER_MAX_FILES) {
        err_param(err, ERR_INVALID, "file", "%d files were sent; an adapter is " SPEC_CONFIG_FILE
                  " and " SPEC_WEIGHTS_FILE ", or one text JSON", n_files);
        return NULL;
    }
    struct adapter_change *c = new_change(a, tenant, name, err);
    if (!c)
        return NULL;
    memcpy(c->files, files, (size_t)n_files * sizeof *files);
    c->n_files = n_files;
    if (spec_parse(&c->spec, files, n_files, &a->maker.limits, err) < 0) {
        adapter_change_free(c);
        return NULL;
    }
    return c;
}

/* Of his own that is not deleted. */
static struct adapter_change *new_change_of(struct adapters *a, int64_t tenant, const char *name,
                                            struct err *err)
{
    if (registry_need_own(a, tenant, name, &a->row, err) < 0)
        return NULL;
    return new_change(a, tenant, name, err);
}

struct adapter_change *adapters_delete_begin(struct adapters *a, int64_t tenant, const char *name,
                                             struct err *err)
{
    struct adapter_change *c = new_change_of(a, tenant, name, err);
    if (c)
        c->what = CHANGE_DELETE;
    return c;
}

static void take_version(void *ud, const struct store_version *v)
{
    struct adapter_change *c = ud;
    const struct store_entry e = {
        .tenant = c->tenant,
        .name = c->name,
        .version = v->digest,
        .kind = v->kind,
        .created = v->created,
        .n_tokens = v->n_tokens,
        .n_tasks = v->n_tasks,
        .bytes = v->bytes,
        .is_public = c->before.entry.is_public,
        .is_pinned = c->before.entry.is_pinned,
    };
    row_take(&c->after, &e);
}

struct adapter_change *adapters_rollback_begin(struct adapters *a, int64_t tenant,
                                               const char *name, const char *version,
                                               struct err *err)
{
    struct adapter_change *c = new_change_of(a, tenant, name, err);
    if (!c)
        return NULL;
    c->what = CHANGE_ROLLBACK;
    int rc = -1;
    if (!blobs_is_digest(version))
        err_param(err, ERR_INVALID, "version", "a version is %d hexadecimal digits in lower case",
                  DIGEST_HEX);
    else
        rc = store_find_version(a->store, tenant, name, version, take_version, c, err);
    if (rc == 0)
        err_set(err, ERR_NOT_FOUND, "this version is not kept");
    if (rc == 1)
        return c;
    adapter_change_free(c);
    return NULL;
}

static int is_not_folders(struct err *err)
{
    return err_set(err, ERR_CONFLICT, "what was put or deleted by request goes before the "
                   "adapters folder");
}

/* 1: it has this very content from the folder. */
static bool is_this_content(const struct row *row, const struct adapter_file *files, int n)
{
    char digest[DIGEST_HEX + 1];
    int64_t bytes = bytes_of(files, n);
    if (bytes != row->entry.bytes || bytes > SMALL_IMPORT)
        return false;
    spec_digest(files, n, digest);
    return strcmp(digest, row->version) == 0;
}

struct adapter_change *adapters_import_begin(struct adapters *a, int64_t tenant, const char *name,
                                             const struct adapter_file *files, int n_files,
                                             struct err *err)
{
    CHECK_ON_THREAD(a->owner);
    struct row *row = &a->row;
    int rc = store_find_own(a->store, tenant, name, row_take, row, err);
    if (rc < 0)
        return NULL;
    if (rc == 1 && (!row->entry.is_from_folder || !row_is_there(row))) {
        is_not_folders(err);
        return NULL;
    }
    if (files ? rc == 1 && is_this_content(row, files, n_files) : rc == 0) {
        if (err)
            err->code = ERR_NONE;
        return NULL;
    }
    struct adapter_change *c = files ? adapters_put_begin(a, tenant, name, files, n_files, err)
                                     : adapters_delete_begin(a, tenant, name, err);
    if (c)
        c->is_import = true;
    return c;
}

static bool is_same_text(const char *a, const char *b)
{
    return a && b ? strcmp(a, b) == 0 : a == b;
}

bool adapters_has_refusal(struct adapters *a, int64_t tenant, const char *name,
                          const struct adapter_refusal *r)
{
    CHECK_ON_THREAD(a->owner);
    const struct store_entry *e = &a->row.entry;
    int rc = store_find_own(a->store, tenant, name, row_take, &a->row, NULL);
    if (rc == 1 && !e->is_from_folder)
        return true;
    return is_same_text(rc == 1 ? e->refused : NULL, r->why) &&
           (!r->why || e->refused_until == r->until);
}

int adapters_note_refusal(struct adapters *a, int64_t tenant, const char *name,
                          const struct adapter_refusal *r, struct err *err)
{
    return store_note_refusal(a->store, tenant, name, r->why, r->until, err);
}

static struct adapter_when when_of(const struct adapter_change *c)
{
    return (struct adapter_when){c->if_match, c->if_none_match};
}

static const char *or_null(const char *version)
{
    return version && version[0] ? version : NULL;
}

int adapter_change_when(struct adapter_change *c, const struct adapter_when *when, struct err *err)
{
    CHECK_ON_THREAD(c->a->owner);
    CHECK(!c->has_run && !c->if_match && !c->if_none_match);
    c->if_match = when->if_match ? xstrdup(when->if_match) : NULL;
    c->if_none_match = when->if_none_match ? xstrdup(when->if_none_match) : NULL;
    return when_check(when, or_null(c->before.version), err);
}

void adapter_change_limit(struct adapter_change *c, const struct adapters_limits *limits)
{
    CHECK_ON_THREAD(c->a->owner);
    c->limits = *limits;
}

void adapter_change_dry(struct adapter_change *c)
{
    CHECK_ON_THREAD(c->a->owner);
    CHECK(!c->has_run && c->what == CHANGE_PUT);
    c->is_dry = true;
}

bool adapter_change_is_long(const struct adapter_change *c)
{
    const struct store_entry *to = &c->after.entry;
    if (c->what == CHANGE_PUT)
        return make_is_long(spec_total_tokens(&c->spec), bytes_of(c->files, c->n_files));
    return c->what == CHANGE_ROLLBACK &&
           make_is_long((int64_t)to->n_tokens * to->n_tasks, to->bytes);
}

/* ---- run ----------------------------------------------------------------------------- */

/* Inside the store's transaction. */
static int allow(void *ud, const char *current, bool is_from_folder, struct err *err)
{
    struct adapter_change *c = ud;
    const struct adapter_when when = when_of(c);
    c->is_new = !or_null(current);
    if (c->is_import && current && (!is_from_folder || !current[0]))
        return is_not_folders(err);
    return when_check(&when, or_null(current), err);
}

static struct store_entry entry_of(const struct adapter_change *c, const char *digest)
{
    const struct compiled *made = &c->made.compiled;
    const struct store_entry *was = &c->before.entry;
    return (struct store_entry){
        .tenant = c->tenant,
        .name = c->name,
        .version = digest,
        .kind = kind_name(c->spec.kind),
        .base_hint = c->spec.base_hint,
        .created = c->is_same ? was->created : (int64_t)time(NULL),
        .n_tokens = c->is_same ? was->n_tokens : made->n_tokens,
        .n_tasks = c->is_same ? was->n_tasks : made->n_prefixes,
        .bytes = bytes_of(c->files, c->n_files),
        .compile_ms = c->is_same ? was->compile_ms : made->ms,
        .is_public = was->is_public,
        .is_pinned = was->is_pinned,
        .is_from_folder = c->is_import,
    };
}

struct blob {
    struct blob_file files[ADAPTER_MAX_FILES];
};

static struct blob blob_of(const struct adapter_change *c)
{
    struct blob b;
    for (int i = 0; i < c->n_files; i++)
        b.files[i] = (struct blob_file){c->files[i].name, c->files[i].bytes, c->files[i].len};
    return b;
}

static int write_aside(void *ud, struct err *err)
{
    struct adapter_change *c = ud;
    const struct blob b = blob_of(c);
    return store_write(c->a->store, c->tenant, c->after.version, b.files, c->n_files, err);
}

static int keep_compiled(void *ud, struct err *err)
{
    struct adapter_change *c = ud;
    (void)err;
    make_keep(&c->a->maker, c->tenant, c->after.version, &c->made);
    return 0;
}

/* What was computed is kept meanwhile: it is nothing that is promised. */
static int store_made(struct adapter_change *c, struct err *err)
{
    const struct blob b = blob_of(c);
    const struct store_condition only_if = {allow, c};
    if (c->made.has_computed)
        aside_begin(&c->aside, keep_compiled, c);
    int rc = (c->is_written ? store_commit : store_put)(c->a->store, &c->after.entry, b.files,
                                                        c->n_files, &only_if, &c->limits.store, err);
    aside_end(&c->aside, NULL);
    return rc;
}

static int check_put(struct adapter_change *c, struct err *err)
{
    const struct store_condition only_if = {allow, c};
    return store_check_put(c->a->store, &c->after.entry, &only_if, &c->limits.store, err);
}

/* Immediately before anything is compiled: what is refused has to cost nothing. The files are on
 * their way to the disk while the engine computes. */
static int allow_compile(void *ud, int64_t n_tokens, struct err *err)
{
    struct adapter_change *c = ud;
    const struct adapters_limits *lim = &c->limits;
    int n_each = (int)(n_tokens / c->spec.n_tasks);
    if (make_check_tokens(n_each, lim->max_virtual_tokens, err) < 0 || check_put(c, err) < 0)
        return -1;
    if (lim->charge && lim->charge(lim->ud, n_tokens, err) < 0)
        return -1;
    if (!c->is_dry) {
        aside_begin(&c->aside, write_aside, c);
        c->is_written = true;
    }
    return 0;
}

static int make_new(struct adapter_change *c, const char *digest, struct err *err)
{
    const struct make_asking asking = {allow_compile, c};
    int rc = make_from_spec(&c->a->maker, c->tenant, digest, &c->spec, &asking, &c->made, err);
    if (rc == 0)
        rc = make_check_tokens(c->made.compiled.n_tokens, c->limits.max_virtual_tokens, err);
    int written = aside_end(&c->aside, rc < 0 ? NULL : err);
    if (rc < 0 && c->is_written && written == 0)
        store_withdraw(c->a->store, c->tenant, digest);
    return rc < 0 ? rc : written;
}

static void note_after(struct adapter_change *c, const char *digest)
{
    const struct store_entry e = entry_of(c, digest);
    row_take(&c->after, &e);
}

/* What was stored before under another base need not load with this one. */
static int make_or_take(struct adapter_change *c, const char *digest, struct err *err)
{
    c->is_same = strcmp(c->before.version, digest) == 0 && !c->is_known_broken;
    note_after(c, digest);
    if (make_check_tokens(c->spec.n_tokens, c->limits.max_virtual_tokens, err) < 0)
        return -1;
    if (c->is_same)
        return 0;
    if (make_new(c, digest, err) < 0)
        return -1;
    note_after(c, digest); /* which knows what compiling told */
    return 0;
}

/* Content that the name has already is neither compiled again nor a new version; it is stored
 * again, which mends what was damaged. */
static int run_put(struct adapter_change *c, struct err *err)
{
    char digest[DIGEST_HEX + 1];
    spec_digest(c->files, c->n_files, digest);
    int rc = make_or_take(c, digest, err);
    if (rc == 0 && c->is_dry)
        rc = check_put(c, err);
    else if (rc == 0 && !(c->is_import && c->is_same))
        rc = store_made(c, err);
    bool is_lost = rc < 0 || !blobs_has(store_blobs(c->a->store), c->tenant, digest);
    if (c->made.has_computed && !c->is_dry && is_lost) /* deleted before it was kept, maybe */
        make_unkeep(&c->a->maker, c->tenant, digest);
    return rc;
}

static int run_rollback(struct adapter_change *c, struct err *err)
{
    const struct store_condition only_if = {allow, c};
    c->is_same = strcmp(c->before.version, c->after.version) == 0 && !c->is_known_broken;
    if (!c->is_same &&
        make_from_store(&c->a->maker, c->tenant, c->after.version, &c->made, err) < 0) {
        if (err && err->code == ERR_NOT_FOUND)
            err->code = ERR_ADAPTER; /* the version is there, its files are not */
        return -1;
    }
    return store_rollback(c->a->store, c->tenant, c->name, c->after.version, &only_if, err);
}

static int run_delete(struct adapter_change *c, struct err *err)
{
    const struct store_condition only_if = {allow, c};
    bool stays_deleted = c->before.entry.is_from_folder && !c->is_import;
    row_take(&c->after, &c->before.entry);
    return store_delete(c->a->store, c->tenant, c->name, stays_deleted, &only_if, err);
}

int adapter_change_run(struct adapter_change *c, struct err *err)
{
    CHECK(!c->has_run);
    int rc = c->what == CHANGE_DELETE     ? run_delete(c, err)
             : c->what == CHANGE_ROLLBACK ? run_rollback(c, err)
                                          : run_put(c, err);
    c->has_run = rc == 0;
    return rc;
}

/* ---- commit -------------------------------------------------------------------------- */

/* Nothing in a file proves which base it was trained for, so a different name is worth a
 * line. */
static void log_put(const struct adapters *a, const struct adapter_info *info)
{
    log_info("adapters", "adapter %s is version %.12s: %s, %d virtual tokens, compiled in %.1f ms",
             info->name, info->version, info->kind ? info->kind : "of unknown kind",
             info->n_virtual_tokens, info->compile_ms);
    if (info->base_hint && strcmp(info->base_hint, a->base_name) != 0)
        log_info("adapters", "adapter %s was trained on \"%s\"; this base is \"%s\"", info->name,
                 info->base_hint, a->base_name);
}

static void count(struct adapters *a, const struct made *m)
{
    if (!m->has_computed)
        return;
    a->stats.compiles++;
    a->stats.compile_us += (uint64_t)(m->compiled.ms * 1e3);
}

static void become_resident(struct adapters *a, struct adapter_change *c)
{
    if (c->made.compiled.n_prefixes == 0)
        return;
    broken_clear(&a->broken, c->tenant, c->after.version);
    struct adapter_version *v = version_new(a, c->tenant, c->after.version, c->name, c->made.kind,
                                            &c->made.compiled);
    if (c->after.entry.is_pinned)
        memcpy(v->pinned_by, v->name, sizeof v->pinned_by);
    version_unref(room_admit(a, v));
}

/* Nothing was changed, so the conditions are asked once more. */
static int commit_dry(struct adapters *a, struct adapter_change *c, struct adapter_info *out,
                      struct err *err)
{
    const struct adapter_when when = when_of(c);
    int rc = store_find_own(a->store, c->tenant, c->name, row_take, &a->row, err);
    if (rc < 0 || when_check(&when, rc ? or_null(a->row.version) : NULL, err) < 0)
        return -1;
    registry_describe(a, &c->after.entry, out);
    return 0;
}

/* The store knows more of the name than the change does, unless somebody has changed it since. */
static void describe_after(struct adapters *a, struct adapter_change *c, struct adapter_info *out)
{
    int rc = store_find_own(a->store, c->tenant, c->name, row_take, &a->row, NULL);
    bool is_it = rc == 1 && strcmp(a->row.version, c->after.version) == 0;
    registry_describe(a, is_it ? &a->row.entry : &c->after.entry, out);
}

int adapters_commit(struct adapters *a, struct adapter_change *c, struct adapter_info *out,
                    struct err *err)
{
    CHECK_ON_THREAD(a->owner);
    CHECK(c->has_run);
    count(a, &c->made);
    if (c->is_dry)
        return commit_dry(a, c, out, err);
    if (c->what == CHANGE_DELETE) {
        registry_describe(a, &c->after.entry, out);
        log_info("adapters", "adapter %s was deleted", c->name);
        return 0;
    }
    become_resident(a, c);
    describe_after(a, c, out);
    out->is_new = c->is_new;
    log_put(a, out);
    return 0;
}

void adapter_change_free(struct adapter_change *c)
{
    if (!c)
        return;
    CHECK_ON_THREAD(c->a->owner);
    compile_fini(&c->made.compiled);
    spec_fini(&c->spec);
    free(c->if_match);
    free(c->if_none_match);
    free(c);
}
