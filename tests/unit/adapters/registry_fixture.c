/* Opening a registry for a test, and the usual things done to it. */
#include "tests/unit/adapters/registry_fixture.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "adapters/store_tenants.h"
#include "core/base/mem.h"
#include "tests/support/adapter_files.h"
#include "tests/test.h"

static bool open_registry(struct fixture *f)
{
    struct err err = {0};
    f->store = store_open(&(struct store_opts){.dir = f->state, .is_volatile = !f->is_durable}, &err);
    const struct adapters_opts opts = {.engine = f->engine,
                                       .base = f->base,
                                       .base_name = "gqa",
                                       .store = f->store,
                                       .is_durable = f->is_durable,
                                       .memory = f->memory,
                                       .at_once_bytes = f->at_once_bytes};
    f->a = f->store ? adapters_open(&opts) : NULL;
    if (!f->a)
        test_fail(__FILE__, __LINE__, "the store did not open: %s", err.msg);
    return f->a != NULL;
}

static void close_registry(struct fixture *f)
{
    adapters_free(f->a);
    store_close(f->store);
    f->a = NULL;
    f->store = NULL;
}

bool fixture_open_model(struct fixture *f, const char *path, enum dtype_choice dtype,
                        bool is_durable)
{
    struct err err = {0};
    const struct engine_opts opts = {.n_threads = 1, .max_batch = 2};
    *f = (struct fixture){.is_durable = is_durable};
    f->base = base_model_open(path, dtype, &err);
    f->engine = f->base ? engine_open(f->base, &opts, &err) : NULL;
    if (!f->engine) {
        test_fail(__FILE__, __LINE__, "the model or engine did not open: %s", err.msg);
        base_model_free(f->base);
        return false;
    }
    f->state = adapter_files_tmp_dir();
    return open_registry(f);
}

bool fixture_open(struct fixture *f, enum dtype_choice dtype, bool is_durable)
{
    char *path = test_path("tests/golden/models/gqa");
    bool ok = fixture_open_model(f, path, dtype, is_durable);
    free(path);
    return ok;
}

void fixture_close(struct fixture *f)
{
    close_registry(f);
    engine_close(f->engine);
    engine_free(f->engine);
    base_model_free(f->base);
    adapter_files_remove_dir(f->state);
    free(f->state);
}

bool fixture_restart(struct fixture *f)
{
    close_registry(f);
    return open_registry(f);
}

int64_t fixture_add_tenant(struct fixture *f, const char *name)
{
    struct tenant t;
    struct err err = {0};
    if (store_add_tenant(f->store, name, 1, NULL, &t, &err) == 0)
        return t.id;
    test_fail(__FILE__, __LINE__, "no tenant %s: %s", name, err.msg);
    return 0;
}

/* ---- changes ------------------------------------------------------------------------- */

int carry_out(struct fixture *f, struct adapter_change *c, const struct adapter_when *when,
              struct adapter_info *info, struct err *err)
{
    int rc = c ? 0 : -1;
    if (rc == 0 && when)
        rc = adapter_change_when(c, when, err);
    if (rc == 0)
        rc = adapter_change_run(c, err);
    if (rc == 0)
        rc = adapters_commit(f->a, c, info, err);
    adapter_change_free(c);
    return rc;
}

int put_files(struct fixture *f, const char *name, const struct adapter_file *files, int n,
              struct adapter_info *info, struct err *err)
{
    return carry_out(f, adapters_put_begin(f->a, TENANT, name, files, n, err), NULL, info, err);
}

int put_text_of(struct fixture *f, int64_t tenant, const char *name, const char *json,
                struct adapter_info *info, struct err *err)
{
    const struct adapter_file file = {"adapter.json", json, strlen(json)};
    return carry_out(f, adapters_put_begin(f->a, tenant, name, &file, 1, err), NULL, info, err);
}

int put_text(struct fixture *f, const char *name, const char *json, struct adapter_info *info,
             struct err *err)
{
    return put_text_of(f, TENANT, name, json, info, err);
}

int put_bytes(struct fixture *f, const char *name, const char *type, const struct buf *weights,
              struct adapter_info *info, struct err *err)
{
    struct buf config = {0};
    buf_printf(&config, "{\"peft_type\": \"%s\"}", type);
    const struct adapter_file files[] = {{"adapter_config.json", config.data, config.len},
                                         {"adapter_model.safetensors", weights->data, weights->len}};
    int rc = put_files(f, name, files, 2, info, err);
    buf_free(&config);
    return rc;
}

int put_peft(struct fixture *f, const char *name, const char *type, const char *tensors,
             struct adapter_info *info, struct err *err)
{
    struct buf weights = {0};
    adapter_files_tensors(&weights, tensors);
    int rc = put_bytes(f, name, type, &weights, info, err);
    buf_free(&weights);
    return rc;
}

int delete_name(struct fixture *f, const char *name, struct err *err)
{
    struct adapter_info info;
    struct adapter_change *c = adapters_delete_begin(f->a, TENANT, name, err);
    int rc = c ? adapter_change_run(c, err) : -1;
    if (rc == 0)
        rc = adapters_commit(f->a, c, &info, err);
    if (rc == 0)
        EXPECT_STR(info.name, name);
    adapter_change_free(c);
    return rc;
}

/* ---- use ----------------------------------------------------------------------------- */

void run_loads(struct fixture *f)
{
    struct adapter_load *l;
    while ((l = adapters_next_load(f->a))) {
        adapter_load_run(l);
        adapters_load_done(f->a, l);
    }
}

struct adapter_version *acquire_of(struct fixture *f, int64_t tenant, const char *name,
                                   struct err *err)
{
    struct adapter_version *v = NULL;
    struct adapter_load *l = NULL;
    int rc = adapters_acquire(f->a, tenant, name, &v, &l, err);
    if (rc != 0)
        return rc > 0 ? v : NULL;
    run_loads(f);
    return adapters_take(f->a, l, &v, err) == 0 ? v : NULL;
}

struct adapter_version *acquire(struct fixture *f, const char *name, struct err *err)
{
    return acquire_of(f, TENANT, name, err);
}

bool has(struct fixture *f, const char *name)
{
    struct adapter_info info;
    return adapters_info(f->a, TENANT, name, &info, NULL) == 0;
}

bool is_resident(struct fixture *f, const char *name)
{
    struct adapter_info info;
    return adapters_info(f->a, TENANT, name, &info, NULL) == 0 && info.is_resident;
}

char *read_file(struct fixture *f, const char *name, const char *file, struct err *err)
{
    char *text = xcalloc(1, 1000);
    struct adapter_file_look look;
    int rc = adapters_find_file(f->a, TENANT, name, file, &look, err);
    int fd = rc < 0 ? -1 : adapter_file_open(&look, err);
    ssize_t n = fd < 0 ? -1 : read(fd, text, 999);
    if (fd >= 0)
        close(fd);
    if (n >= 0)
        return text;
    free(text);
    return NULL;
}

struct adapters_stats stats_of(const struct fixture *f)
{
    struct adapters_stats s;
    adapters_stats(f->a, &s);
    return s;
}

char *blob_path(const struct fixture *f, const char *version)
{
    struct buf path = {0};
    buf_printf(&path, "%s/blobs/%d-%s", f->state, (int)TENANT, version);
    return buf_take(&path, NULL);
}

char *compiled_path(const struct fixture *f, int64_t tenant, const char *version)
{
    const struct model_shape *s = base_model_shape(f->base);
    struct buf path = {0};
    buf_printf(&path, "%s/compiled/%lld-%s-%.16s-%s", f->state, (long long)tenant, version,
               s->digest, dtype_name(s->kv_dtype));
    return buf_take(&path, NULL);
}
