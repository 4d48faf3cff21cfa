/* The supervisor over workers without a server: what becomes of them and of its own exit
 * status. Each case is a process of its own, told what its workers do. */
#define _GNU_SOURCE /* prlimit */
#include "server/supervisor.h"

#include "core/base/check.h"
#include "server/running.h"
#include "tests/server/fixture.h"
#include "tests/test.h"

#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

enum { FIRST_FAILS = 1, FIRST_CRASHES, NEVER_READY, CRASHES_LATER, IGNORES_THE_END };

struct scene { /* shared with the processes */
    int kind;
    int n_started, n_up, n_stopped, n_ended, n_first;
    int lives[4], deaths[4]; /* by place */
    bool may_not_fork;
    pid_t last;
    int64_t start_ms[16];
};

static int wait_for_end(const struct supervisor_child *c, int ms)
{
    struct pollfd p = {.fd = c->life_fd, .events = POLLIN};
    return poll(&p, 1, ms);
}

static int work(const struct supervisor_child *c, void *ud)
{
    struct scene *s = ud;
    int n = __atomic_fetch_add(&s->n_started, 1, __ATOMIC_SEQ_CST);
    s->last = getpid();
    if (n < 16)
        s->start_ms[n] = now_ms();
    s->n_first += c->is_first;
    __atomic_fetch_add(&s->lives[c->place], 1, __ATOMIC_SEQ_CST);
    if (s->kind == FIRST_FAILS)
        return 3;
    if (s->kind == FIRST_CRASHES)
        raise(SIGKILL);
    if (s->kind == NEVER_READY)
        sleep(20); /* busy with something else than the pipe */
    supervisor_outlive();
    supervisor_tell_ready(c);
    if (s->kind == CRASHES_LATER) {
        wait_for_end(c, 20);
        raise(SIGKILL);
    }
    wait_for_end(c, 20000);
    if (s->kind == IGNORES_THE_END)
        sleep(20);
    __atomic_fetch_add(&s->n_ended, 1, __ATOMIC_SEQ_CST);
    return 0;
}

static void on_up(void *ud)
{
    ((struct scene *)ud)->n_up++;
}

static void on_stop(void *ud)
{
    ((struct scene *)ud)->n_stopped++;
}

/* In the supervisor: the next one of this place is not there yet. */
static void on_death(int place, void *ud)
{
    struct scene *s = ud;
    int n = ++s->deaths[place];
    EXPECT_EQ(__atomic_load_n(&s->lives[place], __ATOMIC_SEQ_CST), n);
}

static struct scene *scene_new(int kind)
{
    struct scene *s = mmap(NULL, sizeof *s, PROT_READ | PROT_WRITE,
                           MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    s->kind = kind;
    return s;
}

/* Root may always fork, and may not always change limits of others. */
static void leave_root(void)
{
    if (getuid() == 0)
        CHECK(setgid(65534) == 0 && setuid(65534) == 0);
}

static void forbid_forks(void)
{
    struct rlimit r;
    leave_root();
    CHECK(getrlimit(RLIMIT_NPROC, &r) == 0);
    r.rlim_cur = 0;
    CHECK(setrlimit(RLIMIT_NPROC, &r) == 0);
}

static int allow_forks(pid_t pid)
{
    struct rlimit r;
    leave_root();
    if (prlimit(pid, RLIMIT_NPROC, NULL, &r) < 0)
        return 1;
    r.rlim_cur = r.rlim_max;
    return prlimit(pid, RLIMIT_NPROC, &r, NULL) == 0 ? 0 : 1;
}

static pid_t supervise(struct scene *s, int n_workers)
{
    const struct supervisor_opts opts = {.n_workers = n_workers,
                                         .stop_ms = 300,
                                         .work = work,
                                         .on_up = on_up,
                                         .on_stop = on_stop,
                                         .on_death = on_death,
                                         .ud = s};
    pid_t pid = fork();
    if (pid == 0 && s->may_not_fork)
        forbid_forks();
    if (pid == 0)
        _exit(supervisor_run(&opts));
    return pid;
}

/* Polls a count that other processes write; the cases fail when it does not come. */
static bool comes_to(const int *count, int want, int ms)
{
    int64_t end = now_ms() + ms;
    while (__atomic_load_n(count, __ATOMIC_SEQ_CST) < want && now_ms() < end)
        usleep(1000);
    return __atomic_load_n(count, __ATOMIC_SEQ_CST) >= want;
}

static int status_of(pid_t pid)
{
    int status = -1;
    waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

TEST(supervisor_hands_on_why_the_first_worker_does_not_start)
{
    struct scene *s = scene_new(FIRST_FAILS);
    EXPECT_EQ(status_of(supervise(s, 3)), 3);
    EXPECT_EQ(s->n_started, 1);
    EXPECT_EQ(s->n_up, 0);
    s->kind = FIRST_CRASHES;
    EXPECT_EQ(status_of(supervise(s, 3)), 1);
    EXPECT_EQ(s->n_started, 2);
    munmap(s, sizeof *s);
}

TEST(supervisor_starts_all_workers_and_ends_them)
{
    struct scene *s = scene_new(0);
    pid_t pid = supervise(s, 3);
    EXPECT(comes_to(&s->n_started, 3, 5000));
    EXPECT_EQ(s->n_up, 1);
    kill(pid, SIGINT);
    EXPECT_EQ(status_of(pid), 0);
    EXPECT_EQ(s->n_started, 3);
    EXPECT_EQ(s->n_ended, 3);
    EXPECT_EQ(s->n_stopped, 1);
    EXPECT_EQ(s->n_first, 1);
    for (int i = 0; i < 3; i++) {
        EXPECT_EQ(s->lives[i], 1);
        EXPECT_EQ(s->deaths[i], 1);
    }
    munmap(s, sizeof *s);
}

/* No news comes from a worker that there is not: the clock alone says when to try again. */
TEST(supervisor_tries_again_when_the_first_forks_fail)
{
    struct scene *s = scene_new(0);
    s->may_not_fork = true;
    pid_t pid = supervise(s, 2);
    usleep(200000);
    EXPECT_EQ(s->n_started, 0);
    pid_t other = fork();
    if (other == 0)
        _exit(allow_forks(pid));
    EXPECT_EQ(status_of(other), 0);
    EXPECT(comes_to(&s->n_started, 2, 10000));
    EXPECT_EQ(s->n_up, 1);
    EXPECT_EQ(s->n_first, 1);
    kill(pid, SIGTERM);
    EXPECT_EQ(status_of(pid), 0);
    munmap(s, sizeof *s);
}

/* The places of the others are free and due, but not before the first one is ready. */
TEST(supervisor_sleeps_while_the_first_worker_starts)
{
    struct scene *s = scene_new(NEVER_READY);
    struct rusage used;
    int status = 0;
    pid_t pid = supervise(s, 2);
    EXPECT(comes_to(&s->n_started, 1, 5000));
    usleep(300000);
    EXPECT_EQ(s->n_started, 1);
    kill(pid, SIGTERM);
    EXPECT_EQ(wait4(pid, &status, 0, &used), pid);
    EXPECT(used.ru_utime.tv_sec == 0 && used.ru_stime.tv_sec == 0);
    EXPECT(used.ru_utime.tv_usec + used.ru_stime.tv_usec < 100000);
    munmap(s, sizeof *s);
}

TEST(supervisor_stops_a_worker_that_is_not_ready_yet)
{
    struct scene *s = scene_new(NEVER_READY);
    pid_t pid = supervise(s, 2);
    EXPECT(comes_to(&s->n_started, 1, 5000));
    int64_t began = now_ms();
    kill(pid, SIGTERM);
    EXPECT_EQ(status_of(pid), 0);
    EXPECT(now_ms() - began < 5000);
    EXPECT_EQ(s->n_up, 0);
    munmap(s, sizeof *s);
}

TEST(supervisor_restarts_at_once_and_then_slower)
{
    struct scene *s = scene_new(CRASHES_LATER);
    pid_t pid = supervise(s, 1);
    EXPECT(comes_to(&s->n_started, 6, 20000));
    kill(pid, SIGTERM);
    status_of(pid);
    int64_t *t = s->start_ms;
    EXPECT(t[4] - t[3] >= 250);            /* the fourth death waits */
    EXPECT(t[5] - t[4] >= 500);            /* the fifth twice as long */
    EXPECT(t[3] - t[0] < t[5] - t[4] + 500); /* the first three did not */
    EXPECT_EQ(s->n_up, 1);
    EXPECT_EQ(s->n_first, 1);
    EXPECT_EQ(s->lives[0], s->n_started);
    EXPECT_EQ(s->deaths[0], s->n_started);
    munmap(s, sizeof *s);
}

TEST(supervisor_kills_a_worker_that_does_not_end)
{
    struct scene *s = scene_new(IGNORES_THE_END);
    pid_t pid = supervise(s, 1);
    EXPECT(comes_to(&s->n_up, 1, 5000));
    int64_t began = now_ms();
    kill(pid, SIGTERM);
    EXPECT_EQ(status_of(pid), 1);
    EXPECT(now_ms() - began < 10000);
    EXPECT_EQ(s->n_ended, 0);
    munmap(s, sizeof *s);
}

TEST(supervisor_kills_at_a_second_signal)
{
    struct scene *s = scene_new(IGNORES_THE_END);
    pid_t pid = supervise(s, 2);
    EXPECT(comes_to(&s->n_started, 2, 5000));
    kill(pid, SIGTERM);
    EXPECT(comes_to(&s->n_stopped, 1, 5000));
    kill(pid, SIGTERM);
    EXPECT_EQ(status_of(pid), 128 + SIGTERM);
    munmap(s, sizeof *s);
}

TEST(supervisor_that_is_killed_is_noticed_by_its_workers)
{
    struct scene *s = scene_new(0);
    pid_t pid = supervise(s, 2);
    EXPECT(comes_to(&s->n_started, 2, 5000));
    usleep(50000);
    kill(pid, SIGKILL);
    EXPECT_EQ(status_of(pid), -1);
    EXPECT(comes_to(&s->n_ended, 2, 5000));
    munmap(s, sizeof *s);
}

TEST(supervisor_that_is_killed_takes_starting_workers_with_it)
{
    struct scene *s = scene_new(NEVER_READY);
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    pid_t pid = supervise(s, 1);
    EXPECT(comes_to(&s->n_started, 1, 5000));
    usleep(50000);
    kill(pid, SIGKILL);
    status_of(pid);
    int64_t began = now_ms();
    int status = 0;
    EXPECT_EQ(waitpid(s->last, &status, 0), s->last); /* an orphan comes to this process */
    EXPECT(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    EXPECT(now_ms() - began < 5000);
    prctl(PR_SET_CHILD_SUBREAPER, 0);
    munmap(s, sizeof *s);
}
