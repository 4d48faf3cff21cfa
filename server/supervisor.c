/* Forking, waiting, restarting, stopping.
 *
 * Signals are read from a descriptor, so that there is one place where the process waits.
 * Stop signals are not passed on as signals: a terminal or a service manager may send them
 * to the workers as well, and two would mean "at once". */
#define _GNU_SOURCE /* pipe2 */
#include "server/supervisor.h"

#include "core/base/buf.h"
#include "core/base/check.h"
#include "core/base/clock.h"
#include "core/base/log.h"
#include "core/base/mem.h"
#include "server/metrics.h"
#include "server/quarantine.h"
#include "server/restart.h"
#include "server/running.h"
#include "server/shared.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

struct worker { /* a place for one, through all its deaths */
    pid_t pid;  /* 0: none now */
    bool is_ready, has_died;
    int64_t start_us, due_us;
};

struct supervisor {
    const struct supervisor_opts *opts;
    pid_t pid;
    int signals, life[2], ready[2]; /* descriptors */
    sigset_t old_mask;
    struct worker *workers; /* [n_workers] */
    struct shared shared;
    int64_t n_started;
    struct restart restart;
    bool is_up;       /* a worker was ready once */
    bool is_stopping; /* nothing is started any more */
    bool is_killing;  /* out of patience: nothing that dies is news */
    int64_t kill_us;  /* stopping: when patience ends */
    int status;
};

static void close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

/* ---- while loading ------------------------------------------------------------------- */

static void exit_now(int signum)
{
    (void)signum;
    _exit(0);
}

/* Until a loop takes the signals over there is nothing to drain. As the first process of a
 * container, the daemon would not even be ended without this. */
void supervisor_early_signals(void)
{
    signal(SIGTERM, exit_now);
    signal(SIGINT, exit_now);
}

/* ---- opening and closing ------------------------------------------------------------- */

static void open_signals(struct supervisor *sv)
{
    static const int numbers[] = {SIGTERM, SIGINT, SIGCHLD};
    sigset_t set;
    sigemptyset(&set);
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        sigaddset(&set, numbers[i]);
    CHECK(sigprocmask(SIG_BLOCK, &set, &sv->old_mask) == 0);
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        signal(numbers[i], SIG_DFL);
    sv->signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    CHECK(sv->signals >= 0);
}

static void open_all(struct supervisor *sv, const struct supervisor_opts *opts)
{
    *sv = (struct supervisor){.opts = opts, .pid = getpid()};
    CHECK(pipe2(sv->life, O_CLOEXEC) == 0 &&
          pipe2(sv->ready, O_CLOEXEC | O_NONBLOCK) == 0);
    sv->workers = xcalloc((size_t)opts->n_workers, sizeof *sv->workers);
    shared_open(&sv->shared, opts->n_workers);
    open_signals(sv);
}

static void close_all(struct supervisor *sv)
{
    close_fd(&sv->signals);
    for (int i = 0; i < 2; i++) {
        close_fd(&sv->life[i]);
        close_fd(&sv->ready[i]);
    }
    shared_close(&sv->shared);
    free(sv->workers);
}

/* ---- a worker's side ----------------------------------------------------------------- */

void supervisor_tell_ready(const struct supervisor_child *c)
{
    pid_t pid = getpid();
    ssize_t n = write(c->ready_fd, &pid, sizeof pid);
    (void)n; /* a supervisor that is gone needs no word */
}

void supervisor_outlive(void)
{
    prctl(PR_SET_PDEATHSIG, 0);
}

/* The standard output is the supervisor's alone. */
static void leave_stdout(void)
{
    int null = open("/dev/null", O_WRONLY | O_CLOEXEC);
    if (null >= 0) {
        dup2(null, STDOUT_FILENO);
        close(null);
    }
}

static int place_of(const struct supervisor *sv, const struct worker *w)
{
    return (int)(w - sv->workers);
}

static int be_worker(struct supervisor *sv, const struct worker *w)
{
    const struct supervisor_child child = {.life_fd = sv->life[0],
                                           .ready_fd = sv->ready[1],
                                           .place = place_of(sv, w),
                                           .is_first = sv->n_started == 1,
                                           .is_successor = w->has_died,
                                           .shared = &sv->shared};
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != sv->pid)
        return 1; /* it died before it could be watched */
    close_fd(&sv->life[1]);
    close_fd(&sv->ready[0]);
    close_fd(&sv->signals);
    leave_stdout();
    sigprocmask(SIG_SETMASK, &sv->old_mask, NULL);
    return sv->opts->work(&child, sv->opts->ud);
}

/* ---- starting ------------------------------------------------------------------------ */

static void put_off(struct supervisor *sv, struct worker *w)
{
    int64_t now = clock_us(), wait = restart_delay_us(&sv->restart, now);
    w->due_us = now + wait;
    if (wait)
        log_warn("workers", "many deaths: the next start waits %lld ms",
                 (long long)wait / 1000);
}

/* How many places are to have a worker: the first is alone until it is ready. */
static int n_wanted(const struct supervisor *sv)
{
    return sv->is_stopping ? 0 : sv->is_up ? sv->opts->n_workers : 1;
}

/* The place of the worker to start now, or NULL. */
static struct worker *find_due(struct supervisor *sv)
{
    for (int i = 0; i < n_wanted(sv); i++)
        if (!sv->workers[i].pid && sv->workers[i].due_us <= clock_us())
            return &sv->workers[i];
    return NULL;
}

/* True in the new process. */
static bool start(struct supervisor *sv, struct worker *w)
{
    w->start_us = clock_us();
    w->is_ready = false;
    fflush(NULL);
    sv->n_started++;
    pid_t pid = fork();
    if (pid < 0) {
        log_error("workers", "no process for a worker: %s", strerror(errno));
        sv->n_started--;
        put_off(sv, w);
        return false;
    }
    w->pid = pid;
    return pid == 0;
}

/* ---- what happened ------------------------------------------------------------------- */

static struct worker *worker_of(struct supervisor *sv, pid_t pid)
{
    for (int i = 0; i < sv->opts->n_workers; i++)
        if (sv->workers[i].pid == pid)
            return &sv->workers[i];
    return NULL;
}

static void hear_ready(struct supervisor *sv)
{
    pid_t pid;
    while (read(sv->ready[0], &pid, sizeof pid) == sizeof pid) {
        struct worker *w = pid ? worker_of(sv, pid) : NULL;
        if (!w)
            continue; /* dead already */
        w->is_ready = true;
        log_info("workers", "worker %d is ready after %lld ms", (int)pid,
                 (long long)(clock_us() - w->start_us) / 1000);
        if (!sv->is_up && !sv->is_stopping)
            sv->opts->on_up(sv->opts->ud);
        sv->is_up = true;
    }
}

static const struct running *table_of(const struct supervisor *sv, const struct worker *w)
{
    return &sv->shared.running[place_of(sv, w)];
}

static void add_version(int64_t owner, const char *digest, int n_requests, void *ud)
{
    (void)owner;
    buf_printf(ud, " %.12s (%d)", digest, n_requests);
}

/* The reason of a death, with what was running: whoever looks for an adapter that kills
 * workers finds it in each of these lines. */
static void log_death(struct supervisor *sv, const struct worker *w, int status)
{
    struct buf b = {0};
    long long ms = (long long)(clock_us() - w->start_us) / 1000;
    running_each_version(table_of(sv, w), add_version, &b);
    if (WIFSIGNALED(status))
        log_error("workers", "worker %d died after %lld ms: killed by signal %d (%s)%s%s",
                  (int)w->pid, ms, WTERMSIG(status), strsignal(WTERMSIG(status)),
                  b.len ? "; adapter versions it ran:" : "", b.len ? b.data : "");
    else
        log_error("workers", "worker %d died after %lld ms: exit status %d", (int)w->pid,
                  ms, WEXITSTATUS(status));
    buf_free(&b);
}

static void blame_version(int64_t owner, const char *digest, int n_requests, void *ud)
{
    (void)n_requests;
    if (quarantine_add_death(ud, owner, digest, (int64_t)time(NULL)))
        log_error("workers", "adapter version %.12s is quarantined for %d s: it ran in %d "
                             "workers that died",
                  digest, QUARANTINE_S, QUARANTINE_DEATHS);
}

static void count_death(struct supervisor *sv, const struct worker *w, int status)
{
    log_death(sv, w, status);
    metrics_add_death(sv->shared.metrics);
    running_each_version(table_of(sv, w), blame_version, sv->shared.quarantine);
}

/* Nobody else writes to its part of the shared memory now. */
static void clear_place(struct supervisor *sv, const struct worker *w)
{
    shared_leave(&sv->shared, place_of(sv, w));
    if (sv->opts->on_death)
        sv->opts->on_death(place_of(sv, w), sv->opts->ud);
}

static void note_death(struct supervisor *sv, struct worker *w, int status)
{
    bool is_planned = WIFEXITED(status) && WEXITSTATUS(status) == 0;
    bool is_refusal = !sv->is_up && WIFEXITED(status); /* it has said why */
    bool is_ours = sv->is_killing || (sv->is_stopping && !w->is_ready);
    if (!is_planned && !is_refusal && !is_ours)
        count_death(sv, w, status);
    clear_place(sv, w);
    w->pid = 0;
    if (sv->is_stopping) {
        if (!is_planned && !is_ours && !sv->status)
            sv->status = 1;
    } else if (!sv->is_up) {
        sv->is_stopping = true;
        sv->status = is_refusal ? WEXITSTATUS(status) : 1;
    } else if (is_planned) {
        w->due_us = 0; /* somebody ended this one alone, to have a fresh one */
    } else {
        w->has_died = true;
        put_off(sv, w);
    }
}

static void reap(struct supervisor *sv)
{
    int status;
    for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;) {
        struct worker *w = worker_of(sv, pid);
        if (w) /* as process 1 of a container it gets strangers too */
            note_death(sv, w, status);
    }
}

/* ---- stopping ------------------------------------------------------------------------ */

static void kill_workers(const struct supervisor *sv, int signum, bool only_unready)
{
    for (int i = 0; i < sv->opts->n_workers; i++)
        if (sv->workers[i].pid && !(only_unready && sv->workers[i].is_ready))
            kill(sv->workers[i].pid, signum);
}

/* A worker that is not ready yet does not watch the pipe. */
static void stop(struct supervisor *sv, int signum)
{
    if (sv->is_stopping) {
        log_warn("stop", "signal %d again: exit", signum);
        kill_workers(sv, SIGKILL, false);
        sv->is_killing = true;
        sv->status = 128 + signum;
        return;
    }
    log_info("stop", "signal %d: draining", signum);
    sv->is_stopping = true;
    sv->kill_us = clock_us() + sv->opts->stop_ms * 1000;
    sv->opts->on_stop(sv->opts->ud);
    close_fd(&sv->life[1]);
    kill_workers(sv, SIGTERM, true);
}

static void end_patience(struct supervisor *sv)
{
    if (!sv->is_stopping || !sv->kill_us || clock_us() < sv->kill_us)
        return;
    log_error("stop", "a worker does not end and is killed");
    kill_workers(sv, SIGKILL, false);
    sv->is_killing = true;
    sv->kill_us = 0;
    sv->status = 1;
}

static void hear_signals(struct supervisor *sv)
{
    struct signalfd_siginfo info;
    while (read(sv->signals, &info, sizeof info) == sizeof info)
        if (info.ssi_signo != SIGCHLD)
            stop(sv, (int)info.ssi_signo);
    reap(sv);
}

/* ---- the life ------------------------------------------------------------------------ */

static bool is_over(const struct supervisor *sv)
{
    bool is_alone = true;
    for (int i = 0; i < sv->opts->n_workers; i++)
        is_alone = is_alone && !sv->workers[i].pid;
    return sv->is_stopping && is_alone;
}

/* Milliseconds until something is due, -1: nothing is. */
static int time_left(const struct supervisor *sv)
{
    int64_t next = sv->is_stopping && sv->kill_us ? sv->kill_us : INT64_MAX;
    for (int i = 0; i < n_wanted(sv); i++)
        if (!sv->workers[i].pid && sv->workers[i].due_us < next)
            next = sv->workers[i].due_us;
    if (next == INT64_MAX)
        return -1;
    int64_t ms = (next - clock_us()) / 1000 + 1;
    return ms < 0 ? 0 : ms > 60000 ? 60000 : (int)ms;
}

static void wait_for_news(struct supervisor *sv)
{
    struct pollfd fds[] = {{.fd = sv->signals, .events = POLLIN},
                           {.fd = sv->ready[0], .events = POLLIN}};
    poll(fds, 2, time_left(sv));
    hear_ready(sv);
    hear_signals(sv);
    end_patience(sv);
}

static int run(struct supervisor *sv)
{
    while (!is_over(sv)) {
        for (struct worker *w; (w = find_due(sv));)
            if (start(sv, w))
                return be_worker(sv, w);
        wait_for_news(sv);
    }
    if (sv->is_up)
        log_info("stop", "all workers ended");
    return sv->status;
}

int supervisor_run(const struct supervisor_opts *opts)
{
    struct supervisor sv;
    open_all(&sv, opts);
    int status = run(&sv);
    close_all(&sv);
    return status;
}
