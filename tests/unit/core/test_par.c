/* The compute pool: every task once, on one thread at a time, and workers that wake up
 * again. */
#include "core/par.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "core/base/mem.h"
#include "tests/test.h"

enum { MAX_TASKS = 3000, MAX_THREADS = 5 };

struct count {
    atomic_int runs[MAX_TASKS];
    atomic_int inside[MAX_THREADS];
    atomic_int n_bad; /* a thread number out of range, or used twice at once */
    int n_threads;
};

static void count_task(void *arg, int task, int thread)
{
    struct count *c = arg;
    if (thread < 0 || thread >= c->n_threads || task < 0 || task >= MAX_TASKS) {
        c->n_bad++;
        return;
    }
    if (c->inside[thread]++)
        c->n_bad++;
    c->runs[task]++;
    c->inside[thread]--;
}

TEST(par_runs_every_task_once)
{
    static const int sizes[] = {0, 1, 2, 3, 4, 5, 7, 8, 16, 31, 64, 100, 1000, MAX_TASKS};
    for (int n_threads = 1; n_threads <= MAX_THREADS; n_threads++) {
        struct par *p = par_new(n_threads);
        EXPECT_EQ(par_n_threads(p), n_threads);
        for (int round = 0; round < 20; round++)
            for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
                struct count *c = xcalloc(1, sizeof *c);
                c->n_threads = n_threads;
                par_for(p, sizes[i], count_task, c);
                EXPECT_EQ(c->n_bad, 0);
                for (int t = 0; t < MAX_TASKS; t++)
                    EXPECT_EQ(c->runs[t], t < sizes[i]);
                free(c);
            }
        par_free(p);
    }
}

static void count_many(void *arg, int task, int thread)
{
    (void)thread;
    atomic_fetch_add((atomic_int *)arg + task, 1);
}

TEST(par_takes_more_tasks_than_a_ticket_holds)
{
    enum { MANY = 140000 };
    struct par *p = par_new(3);
    atomic_int *runs = xcalloc(MANY, sizeof *runs);
    par_for(p, MANY, count_many, runs);
    for (int i = 0; i < MANY; i++)
        EXPECT_EQ(runs[i], 1);
    free(runs);
    par_free(p);
}

/* Plain memory written by the tasks of one operation is seen by those of the next, and by
 * the caller. */
static void mirror(void *arg, int task, int thread)
{
    (void)thread;
    int *x = arg; /* [0]: which half is written; two halves of 64 follow */
    int *from = x + 1 + 64 * (1 - x[0]), *to = x + 1 + 64 * x[0];
    to[task] = from[63 - task] + 1;
}

TEST(par_hands_results_from_operation_to_operation)
{
    struct par *p = par_new(3);
    int x[129] = {0};
    for (int round = 0; round < 2000; round++) {
        x[0] = round % 2;
        par_for(p, 64, mirror, x);
    }
    for (int i = 0; i < 64; i++)
        EXPECT(x[1 + i] == 1999 && x[65 + i] == 2000);
    par_free(p);
}

struct meeting { /* tasks that wait for one another: all threads must take part */
    atomic_int n_here;
    int n_all;
    atomic_bool is_late;
};

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void meet(void *arg, int task, int thread)
{
    (void)task;
    (void)thread;
    struct meeting *m = arg;
    double start = now();
    atomic_fetch_add(&m->n_here, 1);
    while (atomic_load(&m->n_here) < m->n_all && !atomic_load(&m->is_late)) {
        usleep(50);
        if (now() - start > 20)
            atomic_store(&m->is_late, true);
    }
}

TEST(par_wakes_sleeping_workers)
{
    for (int n_threads = 2; n_threads <= MAX_THREADS; n_threads++) {
        struct par *p = par_new(n_threads);
        for (int round = 0; round < 15; round++) {
            struct meeting m = {.n_all = n_threads};
            usleep((useconds_t)(round % 3) * 7000); /* long enough to fall asleep, or not */
            par_for(p, n_threads, meet, &m);
            EXPECT(!m.is_late && m.n_here == n_threads);
        }
        par_free(p);
    }
}

TEST(par_ends_whether_workers_sleep_or_spin)
{
    for (int i = 0; i < 40; i++) {
        struct par *p = par_new(1 + i % 4);
        if (i % 2)
            usleep(3000);
        par_free(p);
    }
    par_free(NULL);
}
