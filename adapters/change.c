/* A change of one name, on its way from the loop through the pool and back. */
#include "adapters/registry.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "adapters/loaded.h"
#include "adapters/when.h"
#include "core/base/log.h"
#include "core/base/mem.h"

struct adapter_change {
    struct adapters *a;
    char *name;
    bool is_delete, stays_deleted, is_rollback, is_dry;
    bool has_read;   /* a rollback's files */
    bool has_run;    /* successfully */
    bool was_stored; /* current, at the beginning */
    bool is_stored;  /* once it has run */
    struct adapter_file files[ADAPTER_MAX_FILES];
    int n_files;
    struct adapter_spec spec;
    struct loaded loaded;               /* what a rollback read */
    char *if_match, *if_none_match;     /* NULL: no condition */
    struct kept kept;
    struct change_origin origin;
    char expected[DIGEST_HEX + 1];      /* of STORED content */
    struct adapter_version *current;    /* of the name at the beginning, pinned; may be NULL */
    struct adapter_version *made;       /* by the run; NULL: the content is current's */
};

/* ---- begin --------------------------------------------------------------------------- */

static struct adapter_change *new_change(struct adapters *a, const char *name)
{
    struct adapter_change *c = xcalloc(1, sizeof *c);
    const struct version_name *n = registry_find(a, name);
    c->a = a;
    c->name = xstrdup(name);
    if (n) {
        c->current = n->version;
        c->was_stored = n->is_stored;
        version_ref(c->current);
    }
    return c;
}

struct adapter_change *change_put_begin(struct adapters *a, const char *name,
                                        const struct adapter_file *files, int n_files,
                                        const struct change_origin *origin, struct err *err)
{
    CHECK_ON_THREAD(a->owner);
    if (adapters_check_name(a, name, err) < 0)
        return NULL;
    if (n_files < 1 || n_files > ADAPTER_MAX_FILES) {
        err_param(err, ERR_INVALID, "file", "%d files were sent; an adapter is " SPEC_CONFIG_FILE
                  " and " SPEC_WEIGHTS_FILE ", or one text JSON", n_files);
        return NULL;
    }
    struct adapter_change *c = new_change(a, name);
    memcpy(c->files, files, (size_t)n_files * sizeof *files);
    c->n_files = n_files;
    c->origin = *origin;
    if (origin->version)
        memcpy(c->expected, origin->version, sizeof c->expected);
    if (spec_parse(&c->spec, files, n_files, &a->limits, err) < 0) {
        adapter_change_free(c);
        return NULL;
    }
    if (origin->kept) {
        c->kept = *origin->kept;
        memset(origin->kept, 0, sizeof *origin->kept);
    }
    return c;
}

struct adapter_change *adapters_put_begin(struct adapters *a, const char *name,
                                          const struct adapter_file *files, int n_files,
                                          struct err *err)
{
    return change_put_begin(a, name, files, n_files,
                            &(struct change_origin){.from = CHANGE_SENT}, err);
}

struct adapter_change *adapters_delete_begin(struct adapters *a, const char *name, struct err *err)
{
    struct adapter_info info;
    if (!registry_has_name(&a->hidden, name) && adapters_info(a, name, &info, err) < 0)
        return NULL;
    struct adapter_change *c = new_change(a, name);
    c->is_delete = true;
    c->stays_deleted = registry_has_name(&a->in_folder, name);
    return c;
}

struct adapter_change *adapters_rollback_begin(struct adapters *a, const char *name,
                                               const char *version, struct err *err)
{
    struct adapter_info info;
    int64_t created;
    if (adapters_info(a, name, &info, err) < 0)
        return NULL;
    if (!blobs_is_digest(version)) {
        err_param(err, ERR_INVALID, "version", "a version is %d hexadecimal digits in lower case",
                  DIGEST_HEX);
        return NULL;
    }
    if (store_find_version(a->store, name, version, &created, err) < 0)
        return NULL;
    struct adapter_change *c = new_change(a, name);
    c->is_rollback = true;
    c->origin = (struct change_origin){.from = CHANGE_STORED, .created = created};
    memcpy(c->expected, version, sizeof c->expected);
    return c;
}

static struct adapter_when when_of(const struct adapter_change *c)
{
    return (struct adapter_when){c->if_match, c->if_none_match};
}

int adapter_change_when(struct adapter_change *c, const struct adapter_when *when, struct err *err)
{
    CHECK_ON_THREAD(c->a->owner);
    CHECK(!c->has_run && !c->if_match && !c->if_none_match);
    c->if_match = when->if_match ? xstrdup(when->if_match) : NULL;
    c->if_none_match = when->if_none_match ? xstrdup(when->if_none_match) : NULL;
    return when_check(when, c->current ? c->current->digest : NULL, err);
}

void adapter_change_dry(struct adapter_change *c)
{
    CHECK(!c->has_run && !c->is_delete && !c->is_rollback);
    c->is_dry = true;
}

/* ---- run ----------------------------------------------------------------------------- */

static struct adapter_version *new_version(struct adapter_change *c,
                                           const char digest[DIGEST_HEX + 1],
                                           const struct compiled *compiled)
{
    struct adapter_version *v = xcalloc(1, sizeof *v);
    v->owner = c->a->owner;
    v->n_refs = 1;
    v->kind = c->spec.kind;
    memcpy(v->digest, digest, sizeof v->digest);
    v->compiled = *compiled;
    v->created = c->origin.from == CHANGE_STORED ? c->origin.created : (int64_t)time(NULL);
    v->base_hint = c->spec.base_hint;
    c->spec.base_hint = NULL;
    v->kept = c->kept;
    memset(&c->kept, 0, sizeof c->kept);
    return v;
}

static int make_version(struct adapter_change *c, const char digest[DIGEST_HEX + 1],
                        struct err *err)
{
    struct compiled compiled;
    if (compile_spec(&c->spec, &c->a->with, &compiled, err) < 0)
        return -1;
    c->made = new_version(c, digest, &compiled);
    return 0;
}

/* What the adapters folder brought is no version of the store. */
static int allow(void *ud, const char *current, struct err *err)
{
    const struct adapter_change *c = ud;
    const struct adapter_when when = when_of(c);
    if (!current && c->current && !c->was_stored)
        current = c->current->digest;
    return when_check(&when, current && current[0] ? current : NULL, err);
}

static int store_version(struct adapter_change *c, const char *digest, int64_t created,
                         struct err *err)
{
    struct blob_file files[ADAPTER_MAX_FILES];
    for (int i = 0; i < c->n_files; i++)
        files[i] = (struct blob_file){c->files[i].name, c->files[i].bytes, c->files[i].len};
    const struct store_entry entry = {.name = c->name, .version = digest,
                                      .kind = kind_name(c->spec.kind), .created = created};
    const struct store_condition only_if = {allow, c};
    return store_put(c->a->store, &entry, files, c->n_files, &only_if, err);
}

/* Content that the name has already is neither compiled again nor a new version. */
static int run_put(struct adapter_change *c, struct err *err)
{
    char digest[DIGEST_HEX + 1];
    spec_digest(c->files, c->n_files, digest);
    if (c->expected[0] && strcmp(digest, c->expected) != 0)
        return err_set(err, ERR_ADAPTER, "the stored files are damaged");
    bool is_same = c->current && strcmp(c->current->digest, digest) == 0;
    if (!is_same && make_version(c, digest, err) < 0)
        return -1;
    c->is_stored = c->origin.from != CHANGE_FOLDER;
    if (c->origin.from != CHANGE_SENT || c->is_dry)
        return 0;
    return store_version(c, digest, is_same ? c->current->created : c->made->created, err);
}

static bool rolls_back_to_current(const struct adapter_change *c)
{
    return c->current && strcmp(c->current->digest, c->expected) == 0;
}

static int run_rollback(struct adapter_change *c, struct err *err)
{
    const struct store_condition only_if = {allow, c};
    if (!rolls_back_to_current(c) && run_put(c, err) < 0)
        return -1;
    c->is_stored = true;
    return store_rollback(c->a->store, c->name, c->expected, &only_if, err);
}

static int run_delete(struct adapter_change *c, struct err *err)
{
    const struct store_condition only_if = {allow, c};
    return store_delete(c->a->store, c->name, c->stays_deleted, &only_if, err);
}

static int read_files(struct adapter_change *c, struct err *err)
{
    c->has_read = true;
    if (rolls_back_to_current(c))
        return 0;
    return loaded_read_stored(&c->loaded, store_blobs(c->a->store), c->expected,
                              c->a->limits.max_bytes, err);
}

int adapter_change_run(struct adapter_change *c, struct err *err)
{
    CHECK(!c->has_run);
    if (c->is_rollback && !c->has_read)
        return read_files(c, err);
    int rc = c->is_delete     ? run_delete(c, err)
             : c->is_rollback ? run_rollback(c, err)
                              : run_put(c, err);
    c->has_run = rc == 0;
    return rc;
}

int adapter_change_next(struct adapter_change *c, struct err *err)
{
    CHECK_ON_THREAD(c->a->owner);
    if (c->has_run)
        return 0;
    CHECK(c->is_rollback && c->has_read);
    if (rolls_back_to_current(c))
        return 1;
    memcpy(c->files, c->loaded.files, sizeof c->files);
    c->n_files = c->loaded.n_files;
    return spec_parse(&c->spec, c->files, c->n_files, &c->a->limits, err) < 0 ? -1 : 1;
}

/* ---- commit -------------------------------------------------------------------------- */

static int commit_delete(struct adapters *a, struct adapter_change *c, struct adapter_info *out,
                         struct err *err)
{
    struct version_name *n = registry_find(a, c->name);
    if (!n && !registry_has_name(&a->hidden, c->name))
        return err_set(err, ERR_ADAPTER_NOT_FOUND, "there is no adapter `%s`", c->name);
    *out = (struct adapter_info){.kind = ""};
    if (n) {
        version_ref(n->version);
        version_unref(c->current);
        c->current = n->version; /* what out->base_hint points into */
        registry_describe(a, n, out);
    }
    out->name = c->name;
    registry_forget(a, c->name);
    registry_drop_name(&a->hidden, c->name);
    log_info("adapters", "adapter %s was deleted", c->name);
    return 0;
}

/* Nothing else runs, so what holds here held all along. */
static int commit_dry(struct adapters *a, struct adapter_change *c, struct adapter_info *out,
                      struct err *err)
{
    const struct version_name *n = registry_find(a, c->name);
    const struct adapter_when when = when_of(c);
    if (when_check(&when, n ? n->version->digest : NULL, err) < 0)
        return -1;
    const struct version_name would = {c->name, c->made ? c->made : c->current, true};
    registry_describe(a, &would, out);
    return 0;
}

/* Nothing in a file proves which base it was trained for, so a different name is worth a
 * line. */
static void log_put(const struct adapters *a, const struct adapter_info *info)
{
    log_info("adapters", "adapter %s is version %.12s: %s, %d virtual tokens, compiled in %.1f ms",
             info->name, info->version, info->kind, info->n_virtual_tokens, info->compile_ms);
    if (info->base_hint && strcmp(info->base_hint, a->base_name) != 0)
        log_info("adapters", "adapter %s was trained on \"%s\"; this base is \"%s\"", info->name,
                 info->base_hint, a->base_name);
}

int adapters_commit(struct adapters *a, struct adapter_change *c, struct adapter_info *out,
                    struct err *err)
{
    CHECK_ON_THREAD(a->owner);
    CHECK(c->has_run);
    if (c->is_delete)
        return commit_delete(a, c, out, err);
    if (c->is_dry)
        return commit_dry(a, c, out, err);
    struct adapter_version *v = c->made ? c->made : c->current;
    if (c->origin.from == CHANGE_SENT)
        registry_drop_name(&a->hidden, c->name);
    registry_describe(a, registry_set(a, c->name, v, c->is_stored), out);
    log_put(a, out);
    return 0;
}

void adapter_change_free(struct adapter_change *c)
{
    if (!c)
        return;
    CHECK_ON_THREAD(c->a->owner);
    version_unref(c->made);
    version_unref(c->current);
    spec_fini(&c->spec);
    loaded_fini(&c->loaded);
    kept_fini(&c->kept);
    free(c->if_match);
    free(c->if_none_match);
    free(c->name);
    free(c);
}
