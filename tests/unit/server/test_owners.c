/* What is the loop's own: calls from another thread end the process. */
#include "core/base/check.h"
#include "server/exchange.h"
#include "server/ledger.h"
#include "server/limits.h"
#include "server/server.h"
#include "server/tenants.h"
#include "tests/test.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <sys/wait.h>
#include <unistd.h>

/* It allows no thread in a process that was forked from one with threads. */
#if defined(__SANITIZE_THREAD__)
#define SKIP_WITH_TSAN SKIP("the thread sanitizer takes no threads after a fork")
#else
#define SKIP_WITH_TSAN (void)0
#endif

/* In a process of its own, quietly. */
static bool is_ended_elsewhere(void *(*call)(void *ud), void *ud)
{
    int status = 0;
    pthread_t thread;
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        dup2(open("/dev/null", O_WRONLY | O_CLOEXEC), STDERR_FILENO);
        CHECK(pthread_create(&thread, NULL, call, ud) == 0);
        pthread_join(thread, NULL);
        _exit(0);
    }
    CHECK(waitpid(pid, &status, 0) == pid);
    return WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT;
}

static void *tick(void *ud)
{
    limits_tick(ud);
    return NULL;
}

static void *take(void *ud)
{
    struct err err = {0};
    limits_take(ud, 1, 1, &err);
    return NULL;
}

static void *act_as(void *ud)
{
    struct caller c = {0};
    struct err err = {0};
    tenants_act_as(ud, &c, "acme", &err);
    return NULL;
}

TEST(limits_are_their_makers_alone)
{
    SKIP_WITH_TSAN;
    struct err err = {0};
    struct ledger *ledger = ledger_new(1, &err);
    ASSERT(ledger);
    struct limits *l = limits_new(&(struct limits_opts){.ledger = ledger});
    struct server s = {.limits = l};
    struct exchange x = {.server = &s, .caller = {.tenant = 1}};
    tick(l);
    take(&x);
    EXPECT(is_ended_elsewhere(tick, l));
    EXPECT(is_ended_elsewhere(take, &x));
    limits_free(l);
    ledger_free(ledger);
}

TEST(tenants_are_their_makers_alone)
{
    SKIP_WITH_TSAN;
    struct tenants *t = tenants_new(&(struct tenants_opts){0});
    act_as(t);
    EXPECT(is_ended_elsewhere(act_as, t));
    tenants_free(t);
}
