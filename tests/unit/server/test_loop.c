/* Work on the pool: what blocks has its lanes, what is short never waits for it. */
#include "server/loop.h"

#include "core/base/check.h"
#include "tests/test.h"

#include <semaphore.h>
#include <unistd.h>
#include <stdatomic.h>

enum { EACH = 40, SHORT = 10 };

struct bench {
    struct loop *loop;
    struct loop_timer *late;
    sem_t go;
    atomic_int n_running[LOOP_N_LANES], most[LOOP_N_LANES];
    int n_blocked, n_short; /* done */
};

struct job {
    struct bench *b;
    enum loop_lane lane;
    int number, *order;
};

static void block(void *ud)
{
    const struct job *j = ud;
    int n = atomic_fetch_add(&j->b->n_running[j->lane], 1) + 1;
    int most = atomic_load(&j->b->most[j->lane]);
    while (n > most && !atomic_compare_exchange_weak(&j->b->most[j->lane], &most, n))
        ;
    while (sem_wait(&j->b->go) < 0)
        ;
    atomic_fetch_sub(&j->b->n_running[j->lane], 1);
}

static void on_unblocked(void *ud)
{
    const struct job *j = ud;
    j->b->n_blocked++;
}

static void do_nothing(void *ud)
{
    (void)ud;
}

static void on_short(void *ud)
{
    struct bench *b = ud;
    if (++b->n_short == SHORT)
        loop_stop(b->loop);
}

static void on_late(void *ud)
{
    const struct bench *b = ud;
    loop_stop(b->loop);
}

TEST(loop_short_work_finds_a_thread_whatever_blocks)
{
    static const int at_once[LOOP_N_LANES] = {
#define XX(name, n) n,
        LOOP_LANES(XX)
#undef XX
    };
    static const struct loop_handlers none;
    static struct job jobs[LOOP_N_LANES][EACH];
    struct bench b = {0};
    struct err err = {0};
    b.loop = loop_new(&none, &err);
    CHECK(b.loop && sem_init(&b.go, 0, 0) == 0);
    b.late = loop_timer_new(b.loop, on_late, &b);
    for (int lane = 0; lane < LOOP_N_LANES; lane++)
        for (int i = 0; i < EACH; i++) {
            jobs[lane][i] = (struct job){.b = &b, .lane = (enum loop_lane)lane};
            loop_block(b.loop, (enum loop_lane)lane, 0, block, on_unblocked, &jobs[lane][i]);
        }
    for (int i = 0; i < LOOP_N_LANES; i++)
        while (atomic_load(&b.n_running[i]) < at_once[i]) /* every lane is full */
            usleep(1000);
    for (int i = 0; i < SHORT; i++)
        loop_work(b.loop, do_nothing, on_short, &b);
    loop_timer_start(b.late, 5000);
    loop_run(b.loop);
    EXPECT_EQ(b.n_short, SHORT);
    EXPECT_EQ(b.n_blocked, 0);
    for (int i = 0; i < LOOP_N_LANES * EACH; i++)
        sem_post(&b.go);
    loop_free(b.loop); /* and what waited has had its turn */
    EXPECT_EQ(b.n_blocked, LOOP_N_LANES * EACH);
    for (int i = 0; i < LOOP_N_LANES; i++)
        EXPECT_EQ(b.most[i], at_once[i]);
    sem_destroy(&b.go);
}

static void note_order(void *ud)
{
    const struct job *j = ud;
    EXPECT_EQ(j->number, *j->order);
    (*j->order)++;
}

/* A lane that is full of the first tenant's, behind which jobs wait; they note their order once
 * one of its threads is free. */
static void run_behind(enum loop_lane lane, int n_threads, struct job *rest, const int64_t *whose)
{
    static const struct loop_handlers none;
    static struct job first[LOOP_REGISTRY_AT_ONCE];
    struct bench b = {0};
    struct err err = {0};
    int order = 0;
    b.loop = loop_new(&none, &err);
    CHECK(b.loop && sem_init(&b.go, 0, 0) == 0);
    for (int i = 0; i < n_threads; i++) {
        first[i] = (struct job){.b = &b, .lane = lane};
        loop_block(b.loop, lane, whose[0], block, on_unblocked, &first[i]);
    }
    for (int i = 0; i < EACH; i++) {
        rest[i].order = &order;
        loop_block(b.loop, lane, whose[i], note_order, do_nothing, &rest[i]);
    }
    sem_post(&b.go); /* one thread for all that wait */
    for (int i = 0; order < EACH && i < EACH; i++) {
        b.late = loop_timer_new(b.loop, on_late, &b);
        loop_timer_start(b.late, 20);
        loop_run(b.loop);
    }
    EXPECT_EQ(order, EACH);
    for (int i = 1; i < n_threads; i++)
        sem_post(&b.go);
    loop_free(b.loop);
    sem_destroy(&b.go);
}

/* What waits in a lane begins in the order in which it came. */
TEST(loop_lanes_keep_their_order)
{
    static struct job jobs[EACH];
    static const int64_t whose[EACH];
    for (int i = 0; i < EACH; i++)
        jobs[i] = (struct job){.number = i};
    run_behind(LOOP_LOADS, LOOP_LOADS_AT_ONCE, jobs, whose);
}

/* Who fills a lane is behind those who have nothing in it, however late they come. */
TEST(loop_lanes_give_tenants_their_turn)
{
    enum { LATE = 2 };
    static struct job jobs[EACH];
    int64_t whose[EACH];
    for (int i = 0; i < EACH; i++) {
        bool is_late = i >= EACH - LATE;
        whose[i] = is_late ? i : 1;
        jobs[i] = (struct job){.number = is_late ? i - (EACH - LATE) : i + LATE};
    }
    run_behind(LOOP_FILES, LOOP_FILES_AT_ONCE, jobs, whose);
}
