/* For tests: a registry in a temporary home, changed and asked in one thread. */
#include "tests/support/catalog.h"

#include "adapters/folder.h"
#include "adapters/home.h"
#include "core/base/check.h"
#include "core/base/mem.h"
#include "tests/test.h"

#include <sodium.h>
#include <stdlib.h>

struct catalog {
    struct home *home;
    struct store *store;
    struct adapters *adapters;
};

struct catalog *catalog_new(const struct base_model *b, struct engine *e)
{
    struct err err = {0};
    struct catalog *r = xcalloc(1, sizeof *r);
    CHECK(sodium_init() >= 0);
    CHECK((r->home = home_open(NULL, &err)));
    const struct store_opts so = {.dir = home_dir(r->home), .is_volatile = true};
    CHECK((r->store = store_open(&so, &err)));
    const struct adapters_opts ao = {
        .engine = e, .base = b, .base_name = "base", .store = r->store};
    r->adapters = adapters_open(&ao);
    return r;
}

void catalog_free(struct catalog *r)
{
    if (!r)
        return;
    adapters_free(r->adapters);
    store_close(r->store);
    home_free(r->home);
    free(r);
}

static int run_change(struct catalog *r, struct adapter_change *c, struct err *err)
{
    struct adapter_info info;
    int rc = adapter_change_run(c, err);
    if (rc == 0)
        rc = adapters_commit(r->adapters, c, &info, err);
    adapter_change_free(c);
    return rc;
}

static int import_one(struct catalog *r, const char *folder, const struct folder_entry *e,
                      struct err *err)
{
    struct loaded files = {0};
    struct adapter_change *c = NULL;
    int rc = -1;
    if (folder_read(folder, e, 1 << 30, &files, err) == FOLDER_WHOLE)
        c = adapters_import_begin(r->adapters, STORE_DEFAULT_TENANT, e->name, files.files,
                                  files.n_files, err);
    if (c)
        rc = run_change(r, c, err);
    loaded_fini(&files);
    return rc;
}

void catalog_import(struct catalog *r, const char *folder)
{
    struct folder found = {0};
    struct err err = {0};
    if (folder_scan(folder, &found, &err) < 0)
        test_fail(__FILE__, __LINE__, "%s: %s", folder, err.msg);
    for (size_t i = 0; i < found.n; i++)
        if (found.entries[i].kind != FOLDER_TENANT &&
            import_one(r, folder, &found.entries[i], &err) < 0)
            test_fail(__FILE__, __LINE__, "%s: %s", found.entries[i].path, err.msg);
    folder_fini(&found);
}

struct adapter_version *catalog_acquire(struct catalog *r, const char *name, struct err *err)
{
    struct adapter_version *v = NULL;
    struct adapter_load *wanted = NULL, *l;
    int rc = adapters_acquire(r->adapters, STORE_DEFAULT_TENANT, name, &v, &wanted, err);
    if (rc)
        return rc > 0 ? v : NULL;
    while ((l = adapters_next_load(r->adapters))) {
        adapter_load_run(l);
        adapters_load_done(r->adapters, l);
    }
    return adapters_take(r->adapters, wanted, &v, err) < 0 ? NULL : v;
}
