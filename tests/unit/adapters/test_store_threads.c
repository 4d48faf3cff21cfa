/* Whose thread the store's reader belongs to: calls from another end the process. */
#include "adapters/store_tenants.h"
#include "core/base/check.h"
#include "tests/support/adapter_files.h"
#include "tests/test.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

static void no_entry(void *ud, const struct store_entry *e)
{
    (void)ud, (void)e;
}

static void no_version(void *ud, const struct store_version *v)
{
    (void)ud, (void)v;
}

static void read_name(struct store *s)
{
    store_find(s, 1, "a", no_entry, NULL, NULL);
}

static void read_own(struct store *s)
{
    store_find_own(s, 1, "a", no_entry, NULL, NULL);
}

static void read_names(struct store *s)
{
    store_each(s, 1, "", 1, NULL, no_entry, NULL, NULL);
}

static void read_all(struct store *s)
{
    store_each_all(s, no_entry, NULL, NULL);
}

static void read_versions(struct store *s)
{
    store_each_version(s, 1, "a", no_version, NULL, NULL);
}

static void read_version(struct store *s)
{
    store_find_version(s, 1, "a", "", no_version, NULL, NULL);
}

static void read_changed(struct store *s)
{
    store_has_changed(s);
}

static void read_had_key(struct store *s)
{
    bool has;
    store_ever_had_key(s, &has, NULL);
}

static void read_tenant(struct store *s)
{
    struct tenant t;
    store_find_tenant(s, "default", &t, NULL);
}

static void read_tenant_by_id(struct store *s)
{
    struct tenant t;
    store_find_tenant_by_id(s, 1, &t, NULL);
}

typedef void read_fn(struct store *s);

static read_fn *const reads[] = {read_name,    read_own,     read_names,   read_all,
                                 read_versions, read_version, read_changed, read_had_key,
                                 read_tenant,  read_tenant_by_id};

enum { N_READS = sizeof reads / sizeof *reads };

struct asked {
    struct store *s;
    read_fn *read;
};

static void *read_elsewhere(void *ud)
{
    const struct asked *a = ud;
    a->read(a->s);
    return NULL;
}

/* In a process of its own, quietly. */
static bool is_ended_by(const struct asked *a)
{
    int status = 0;
    pthread_t thread;
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        dup2(open("/dev/null", O_WRONLY | O_CLOEXEC), STDERR_FILENO);
        CHECK(pthread_create(&thread, NULL, read_elsewhere, (void *)(uintptr_t)a) == 0);
        pthread_join(thread, NULL);
        _exit(0);
    }
    CHECK(waitpid(pid, &status, 0) == pid);
    return WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT;
}

TEST(store_is_read_by_the_thread_that_opened_it)
{
#if defined(__SANITIZE_THREAD__)
    SKIP("the thread sanitizer takes no threads after a fork");
#endif
    struct err err = {0};
    char *dir = adapter_files_tmp_dir();
    struct store *s =
        store_open(&(struct store_opts){.dir = dir, .is_volatile = true}, &err);
    ASSERT(s);
    for (size_t i = 0; i < N_READS; i++) {
        reads[i](s);
        if (!is_ended_by(&(struct asked){s, reads[i]}))
            test_fail(__FILE__, __LINE__, "reading %zu goes on in another thread", i);
    }
    store_close(s);
    adapter_files_remove_dir(dir);
    free(dir);
}
