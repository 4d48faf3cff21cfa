/* The compute pool: fork and join over numbered tasks.
 *
 * An operation is one 64-bit ticket: its number, how many tasks it has, and the next one to take. Taking
 * a task is one compare-and-swap on it, so a thread that comes late can never take a task of an operation
 * that is over, and the caller waits for tasks, not for threads: a worker that the kernel has put aside
 * before it took anything delays nobody. A worker says once how many tasks it has done, when it finds no
 * more: until then the operation is not over, so the number never mixes two. What threads write lies in
 * cache lines of its own, as every other access would wait for the line.
 *
 * A worker that has spun in vain, for some 200 us, sleeps on `wake`: that is more than the engine needs
 * between two steps, since to wake it costs the caller 8 us. The later half gives way to whoever wants
 * the core. */
#include "core/par.h"

#include "core/base/check.h"
#include "core/base/mem.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

enum { SPINS = 4000, YIELDS = 200, MAX_TASKS = 0xffff, CACHE_LINE = 64 };

struct par {
    int n_threads;
    pthread_t *threads;
    par_fn fn; /* fn and arg stand still while a task of the ticket is not done */
    void *arg;
    int first; /* what the ticket's tasks are counted from */
    pthread_mutex_t lock;
    pthread_cond_t wake;
    atomic_int n_asleep;
    atomic_bool is_closing;
    _Alignas(CACHE_LINE) atomic_uint_least64_t ticket; /* operation << 32 | n_tasks << 16 | next task */
    _Alignas(CACHE_LINE) atomic_int n_done; /* by workers */
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

static bool has_task(uint64_t ticket)
{
    return (ticket & MAX_TASKS) < (ticket >> 16 & MAX_TASKS);
}

/* How many it has done. After a task the ticket is tried as it was left: a look would cost as much. */
static int run_tasks(struct par *p, int thread)
{
    int n = 0;
    uint64_t t = atomic_load(&p->ticket);
    while (has_task(t)) {
        if (!atomic_compare_exchange_weak(&p->ticket, &t, t + 1))
            continue;
        p->fn(p->arg, p->first + (int)(t & MAX_TASKS), thread);
        n++;
        t++;
    }
    return n;
}

/* An operation that was over before this thread was awake ends the sleep too: others follow at once. */
static void sleep_until_operation(struct par *p)
{
    pthread_mutex_lock(&p->lock);
    atomic_fetch_add(&p->n_asleep, 1);
    uint64_t before = atomic_load(&p->ticket), t = before;
    while (!has_task(t) && t == before && !atomic_load(&p->is_closing)) {
        pthread_cond_wait(&p->wake, &p->lock);
        t = atomic_load(&p->ticket);
    }
    atomic_fetch_sub(&p->n_asleep, 1);
    pthread_mutex_unlock(&p->lock);
}

static void wait_for_task(struct par *p)
{
    for (int i = 0; i < SPINS + YIELDS; i++) {
        if (has_task(atomic_load(&p->ticket)) || atomic_load(&p->is_closing))
            return;
        if (i < SPINS)
            relax();
        else
            sched_yield();
    }
    sleep_until_operation(p);
}

static void *worker_main(void *ud)
{
    struct par_worker *w = ud;
    struct par *p = w->p;
    int index = w->index;
    free(w);
    while (!atomic_load(&p->is_closing)) {
        wait_for_task(p);
        atomic_fetch_add(&p->n_done, run_tasks(p, index));
    }
    return NULL;
}

static void wake_sleepers(struct par *p)
{
    if (atomic_load(&p->n_asleep) == 0)
        return;
    pthread_mutex_lock(&p->lock);
    pthread_cond_broadcast(&p->wake);
    pthread_mutex_unlock(&p->lock);
}

struct par *par_new(int n_threads)
{
    CHECK(n_threads >= 1);
    struct par *p = mem_try_aligned(1, sizeof *p);
    CHECK(p);
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
    wake_sleepers(p);
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

/* Tasks first .. first + n_tasks - 1, joined. */
static void run_operation(struct par *p, int first, int n_tasks, par_fn fn, void *arg)
{
    uint64_t operation = (atomic_load(&p->ticket) >> 32) + 1;
    p->fn = fn;
    p->arg = arg;
    p->first = first;
    atomic_store(&p->n_done, 0);
    atomic_store(&p->ticket, operation << 32 | (uint64_t)n_tasks << 16);
    wake_sleepers(p);
    int n_left = n_tasks - run_tasks(p, 0);
    for (int i = 0; atomic_load(&p->n_done) < n_left; i++) {
        relax();
        if (i > SPINS)
            sched_yield();
    }
}

void par_for(struct par *p, int n_tasks, par_fn fn, void *arg)
{
    int first = 0;
    if (n_tasks <= 1 || p->n_threads == 1) {
        for (int i = 0; i < n_tasks; i++)
            fn(arg, i, 0);
        return;
    }
    for (; n_tasks > MAX_TASKS; n_tasks -= MAX_TASKS, first += MAX_TASKS)
        run_operation(p, first, MAX_TASKS, fn, arg);
    run_operation(p, first, n_tasks, fn, arg);
}
