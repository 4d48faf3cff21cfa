/* What the machine gives at this moment: the way between two threads, memory, multipliers. Each is
 * the best of some tries, because what else runs can only make it worse. */
#define _GNU_SOURCE /* CPU sets */
#include "scripts/bench/probe.h"

#include "core/base/check.h"
#include "core/base/mem.h"
#include "scripts/bench/peak.h"

#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>

enum { TRIES = 5, BARRIER_TRIES = 160, TRIPS = 50, SPINS = 100000, LINE = 64 };

/* Seconds: on a busy machine a trip may take many milliseconds. */
static const double barrier_patience = 0.05;

static double now(void) /* clock_us is too coarse for a barrier */
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* Spins until *word is value; gives the core away now and then, as there may be one only. false if
 * it is then later than the deadline. */
static bool await(const atomic_int *word, int value, double deadline)
{
    for (int i = 1; atomic_load_explicit(word, memory_order_acquire) != value; i++) {
        if (i % SPINS)
            continue;
        if (now() > deadline)
            return false;
        sched_yield();
    }
    return true;
}

/* ---- threads that begin together ------------------------------------------------------------- */

typedef void (*crew_fn)(void *arg, int thread);

struct crew {
    int n;
    atomic_int n_ready, go;
    crew_fn fn;
    void *arg;
};

struct crew_member {
    struct crew *crew;
    int index;
    double start, end;
    pthread_t thread;
};

/* To the index-th CPU that the program may use, or two threads would at times begin on one. */
static void pin(int index)
{
    cpu_set_t all, one;
    if (sched_getaffinity(0, sizeof all, &all) < 0)
        return;
    int nth = index % CPU_COUNT(&all), cpu = 0;
    for (; !CPU_ISSET(cpu, &all) || nth > 0; cpu++)
        nth -= CPU_ISSET(cpu, &all) != 0;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    pthread_setaffinity_np(pthread_self(), sizeof one, &one); /* or else as well as can be */
}

static void *member_main(void *ud)
{
    struct crew_member *m = ud;
    pin(m->index);
    atomic_fetch_add(&m->crew->n_ready, 1);
    await(&m->crew->go, 1, INFINITY);
    m->start = now();
    m->crew->fn(m->crew->arg, m->index);
    m->end = now();
    return NULL;
}

/* Seconds from the first thread's beginning to the last one's end. */
static double at_once(int n, crew_fn fn, void *arg)
{
    struct crew crew = {.n = n, .fn = fn, .arg = arg};
    struct crew_member *members = xcalloc((size_t)n, sizeof *members);
    for (int i = 0; i < n; i++) {
        members[i] = (struct crew_member){.crew = &crew, .index = i};
        CHECK(pthread_create(&members[i].thread, NULL, member_main, &members[i]) == 0);
    }
    await(&crew.n_ready, n, INFINITY);
    atomic_store(&crew.go, 1);
    for (int i = 0; i < n; i++)
        pthread_join(members[i].thread, NULL);
    double start = members[0].start, end = members[0].end;
    for (int i = 1; i < n; i++) {
        start = members[i].start < start ? members[i].start : start;
        end = members[i].end > end ? members[i].end : end;
    }
    free(members);
    return end - start;
}

/* ---- what is probed -------------------------------------------------------------------------- */

struct barrier {
    _Alignas(LINE) atomic_int ping;
    _Alignas(LINE) atomic_int pong;
    _Alignas(LINE) double best, deadline;
};

/* One trip of either end: thread 0 asks, thread 1 answers. */
static bool trip(struct barrier *b, int thread, int n)
{
    if (thread == 0)
        atomic_store_explicit(&b->ping, n, memory_order_release);
    if (!await(thread == 0 ? &b->pong : &b->ping, n, b->deadline))
        return false;
    if (thread == 1)
        atomic_store_explicit(&b->pong, n, memory_order_release);
    return true;
}

static void barrier_task(void *arg, int thread)
{
    struct barrier *b = arg;
    for (int try = 0, n = 0; try < BARRIER_TRIES; try++) {
        double start = now();
        for (int i = 0; i < TRIPS; i++)
            if (!trip(b, thread, ++n))
                return;
        double mean = (now() - start) / TRIPS;
        if (thread == 0 && mean < b->best)
            b->best = mean;
    }
}

static double barrier(void)
{
    struct barrier b = {.best = barrier_patience, .deadline = now() + barrier_patience};
    at_once(2, barrier_task, &b);
    return b.best;
}

struct reading {
    const uint64_t *from; /* on a LINE */
    size_t n;             /* numbers of each thread */
    atomic_uint_least64_t sum;
};

typedef uint64_t u64x8 __attribute__((vector_size(64)));

static void read_task(void *arg, int thread)
{
    struct reading *r = arg;
    const u64x8 *from = (const u64x8 *)(r->from + (size_t)thread * r->n);
    u64x8 sum = {0};
    for (size_t i = 0; i < r->n / 8; i++)
        sum += from[i];
    atomic_fetch_add(&r->sum, sum[0] + sum[3]); /* or it need not be read */
}

uint64_t *probe_memory(size_t bytes)
{
    uint64_t *p = mem_try_aligned(bytes / sizeof *p, sizeof *p);
    CHECK(p);
    for (size_t i = 0; i < bytes / sizeof *p; i++)
        p[i] = i; /* or every page is the one of zeros */
    return p;
}

static double read_rate(int n_threads, const uint64_t *memory, size_t bytes)
{
    struct reading r = {.from = memory, .n = bytes / (size_t)n_threads / LINE * (LINE / 8)};
    double best = 0;
    for (int i = 0; i < TRIES; i++) {
        double rate = (double)(r.n * 8) * n_threads / at_once(n_threads, read_task, &r);
        best = rate > best ? rate : best;
    }
    return best;
}

struct peak_run {
    struct peak peak;
    long rounds;
};

static void peak_task(void *arg, int thread)
{
    (void)thread;
    const struct peak_run *r = arg;
    r->peak.loop(r->rounds);
}

/* Tries of about two milliseconds, the first of which finds out how many rounds that is. */
static double peak_rate(int n_threads, struct peak peak)
{
    struct peak_run r = {peak, 10000};
    double best = 0, took = at_once(1, peak_task, &r);
    r.rounds = (long)(10000 * 0.002 / took) + 1;
    for (int i = 0; i < TRIES; i++) {
        took = at_once(n_threads, peak_task, &r);
        double rate = peak.ops * (double)r.rounds * n_threads / took;
        best = rate > best ? rate : best;
    }
    return best;
}

/* The bounds lie between what Zen 4 shows: up to 100 ns and a little more for two cores of a die,
 * 480 to 650 for two dies, a third of the first for two threads of one core, whose rates are
 * halved. Microseconds are the scheduler's: other work runs. */
static const char *place_of(double barrier_ns)
{
    static const struct {
        double below;
        const char *place;
    } places[] = {{1, "one thread"}, {45, "one core"}, {220, "one die"}, {1500, "two dies"}};
    for (size_t i = 0; i < sizeof places / sizeof *places; i++)
        if (barrier_ns < places[i].below)
            return places[i].place;
    return "busy";
}

void probe_machine(int n_threads, const char *isa, const uint64_t *memory, size_t bytes,
                   struct probe *out)
{
    out->barrier_ns = n_threads > 1 ? barrier() * 1e9 : 0;
    out->read_gbs = read_rate(n_threads, memory, bytes) / 1e9;
    out->bf16_gflops = peak_rate(n_threads, peak_bf16(isa)) / 1e9;
    out->int8_gops = peak_rate(n_threads, peak_int8(isa)) / 1e9;
    out->place = place_of(out->barrier_ns);
}
