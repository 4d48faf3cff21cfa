/* The compute pool: fork and join over numbered tasks.
 *
 * An operation is published by a new `epoch`; every worker answers every epoch once. A worker that has
 * spun in vain sleeps on `wake`; the caller broadcasts only if somebody may sleep. */
#include "core/par.h"

#include "core/base/check.h"
#include "core/base/mem.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>

enum { SPINS = 4000, YIELDS = 40 };

struct par {
    int n_threads;
    pthread_t *threads;
    par_fn fn;
    void *arg;
    int n_tasks;
    atomic_uint epoch;
    atomic_int next_task, n_busy, n_asleep;
    atomic_bool is_closing;
    pthread_mutex_t lock;
    pthread_cond_t wake;
};

struct par_worker {
    struct par *p;
    int index;
};

static inline void relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

static void run_tasks(struct par *p, int thread)
{
    for (;;) {
        int task = atomic_fetch_add(&p->next_task, 1);
        if (task >= p->n_tasks)
            return;
        p->fn(p->arg, task, thread);
    }
}

static void sleep_until_new(struct par *p, unsigned seen)
{
    pthread_mutex_lock(&p->lock);
    atomic_fetch_add(&p->n_asleep, 1);
    while (atomic_load(&p->epoch) == seen)
        pthread_cond_wait(&p->wake, &p->lock);
    atomic_fetch_sub(&p->n_asleep, 1);
    pthread_mutex_unlock(&p->lock);
}

static void wait_for_new(struct par *p, unsigned seen)
{
    for (int i = 0; i < SPINS; i++) {
        if (atomic_load_explicit(&p->epoch, memory_order_acquire) != seen)
            return;
        relax();
    }
    for (int i = 0; i < YIELDS; i++) {
        if (atomic_load(&p->epoch) != seen)
            return;
        sched_yield();
    }
    sleep_until_new(p, seen);
}

static void *worker_main(void *ud)
{
    struct par_worker *w = ud;
    struct par *p = w->p;
    int index = w->index;
    free(w);
    for (unsigned seen = 0;; seen++) {
        wait_for_new(p, seen);
        if (atomic_load(&p->is_closing))
            return NULL;
        run_tasks(p, index);
        atomic_fetch_sub(&p->n_busy, 1);
    }
}

static void publish(struct par *p)
{
    atomic_fetch_add(&p->epoch, 1);
    if (atomic_load(&p->n_asleep) > 0) {
        pthread_mutex_lock(&p->lock);
        pthread_cond_broadcast(&p->wake);
        pthread_mutex_unlock(&p->lock);
    }
}

struct par *par_new(int n_threads)
{
    CHECK(n_threads >= 1);
    struct par *p = xcalloc(1, sizeof *p);
    p->n_threads = n_threads;
    p->threads = xcalloc((size_t)n_threads, sizeof *p->threads);
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->wake, NULL);
    for (int i = 1; i < n_threads; i++) {
        struct par_worker *w = xmalloc(sizeof *w);
        *w = (struct par_worker){p, i};
        CHECK(pthread_create(&p->threads[i], NULL, worker_main, w) == 0);
    }
    return p;
}

void par_free(struct par *p)
{
    if (!p)
        return;
    atomic_store(&p->is_closing, true);
    publish(p);
    for (int i = 1; i < p->n_threads; i++)
        pthread_join(p->threads[i], NULL);
    pthread_mutex_destroy(&p->lock);
    pthread_cond_destroy(&p->wake);
    free(p->threads);
    free(p);
}

int par_n_threads(const struct par *p)
{
    return p->n_threads;
}

void par_for(struct par *p, int n_tasks, par_fn fn, void *arg)
{
    if (n_tasks == 1 || p->n_threads == 1) {
        for (int i = 0; i < n_tasks; i++)
            fn(arg, i, 0);
        return;
    }
    p->fn = fn;
    p->arg = arg;
    p->n_tasks = n_tasks;
    atomic_store(&p->next_task, 0);
    atomic_store(&p->n_busy, p->n_threads - 1);
    publish(p);
    run_tasks(p, 0);
    for (int i = 0; atomic_load(&p->n_busy) > 0; i++) {
        relax();
        if (i > SPINS)
            sched_yield();
    }
}
