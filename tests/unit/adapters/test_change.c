/* What a change writes while the engine computes, and what is left when it fails. */
#include <dirent.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "adapters/adapters.h"
#include "adapters/store.h"
#include "tests/support/adapter_files.h"
#include "tests/support/run.h"
#include "tests/support/tiny.h"
#include "tests/test.h"

enum { TENANT = 1, WAIT_MS = 10000 };

struct desk {
    struct base_model *base;
    struct runner *runner;
    struct store *store;
    struct adapters *a;
    char *state;
};

static bool desk_open(struct desk *d)
{
    struct err err = {0};
    d->base = tiny_open(TINY_DEMO);
    d->runner = runner_new(d->base, (struct engine_opts){.n_threads = 1});
    d->state = adapter_files_tmp_dir();
    d->store = store_open(&(struct store_opts){.dir = d->state}, &err);
    const struct adapters_opts opts = {.engine = runner_engine(d->runner),
                                       .base = d->base,
                                       .base_name = "tiny",
                                       .store = d->store,
                                       .is_durable = true};
    d->a = d->store ? adapters_open(&opts) : NULL;
    if (!d->a)
        test_fail(__FILE__, __LINE__, "the store did not open: %s", err.msg);
    return d->a != NULL;
}

static void desk_close(struct desk *d)
{
    adapters_free(d->a);
    store_close(d->store);
    runner_free(d->runner);
    base_model_free(d->base);
    adapter_files_remove_dir(d->state);
    free(d->state);
}

/* Entries of a folder of the state, those that are not whole aside. */
static int n_in(const struct desk *d, const char *folder)
{
    char path[512];
    int n = 0;
    snprintf(path, sizeof path, "%s/%s", d->state, folder);
    DIR *dir = opendir(path);
    for (struct dirent *e; dir && (e = readdir(dir));)
        n += e->d_name[0] != '.';
    if (dir)
        closedir(dir);
    return n;
}

static struct adapter_change *begin_text(struct desk *d, const char *json)
{
    struct err err = {0};
    const struct adapter_file file = {"adapter.json", json, strlen(json)};
    struct adapter_change *c = adapters_put_begin(d->a, TENANT, "x", &file, 1, &err);
    if (!c)
        test_fail(__FILE__, __LINE__, "the put did not begin: %s", err.msg);
    return c;
}

static void *run_on_pool(void *change)
{
    struct err err = {0};
    if (adapter_change_run(change, &err) < 0)
        test_fail(__FILE__, __LINE__, "the put failed: %s", err.msg);
    return NULL;
}

/* The engine stands still, so nothing can be compiled, and still the files appear. */
TEST(change_writes_files_while_the_engine_computes)
{
    struct desk d;
    struct err err = {0};
    struct adapter_info info;
    pthread_t thread;
    int32_t ids[1] = {5};
    if (!desk_open(&d))
        return;
    struct run *run = run_new(ids, 1, 50, NULL);
    runner_hold(d.runner);
    EXPECT_EQ(runner_post(d.runner, run, &err), 0);
    runner_wait_event(d.runner);
    struct adapter_change *c = begin_text(&d, "{\"kind\":\"text\",\"text\":\"one two\"}");
    ASSERT(c && pthread_create(&thread, NULL, run_on_pool, c) == 0);
    for (int ms = 0; ms < WAIT_MS && n_in(&d, "blobs") == 0; ms++)
        usleep(1000);
    EXPECT_EQ(n_in(&d, "blobs"), 1);
    EXPECT_EQ(n_in(&d, "compiled"), 0);
    runner_release(d.runner);
    pthread_join(thread, NULL);
    EXPECT_EQ(adapters_commit(d.a, c, &info, &err), 0);
    adapter_change_free(c);
    EXPECT_EQ(n_in(&d, "blobs"), 1);
    EXPECT_EQ(n_in(&d, "compiled"), 1);
    runner_wait(d.runner, &run, 1);
    run_free(run);
    desk_close(&d);
}

/* The engine refuses when the files are on their way already: they go again. */
TEST(change_that_does_not_compile_leaves_nothing)
{
    struct desk d;
    struct err err = {0};
    if (!desk_open(&d))
        return;
    struct adapter_change *c = begin_text(&d, "{\"kind\":\"text\",\"text\":\"one two\"}");
    engine_close(runner_engine(d.runner));
    EXPECT_EQ(adapter_change_run(c, &err), -1);
    EXPECT_EQ(err.code, ERR_CLOSING);
    adapter_change_free(c);
    EXPECT_EQ(n_in(&d, "blobs"), 0);
    EXPECT_EQ(n_in(&d, "compiled"), 0);
    desk_close(&d);
}
