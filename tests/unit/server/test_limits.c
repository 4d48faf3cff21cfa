/* Requests meeting their tenant's limits, with a clock of the test's own and no loop. */
#include "server/limits.h"

#include "core/base/check.h"
#include "server/exchange.h"
#include "server/loop.h"
#include "server/server.h"
#include "tests/test.h"

#include <string.h>

#define S INT64_C(1000000)

enum { MAX_RUN = 64 };

/* What the test's wake and clock reach: they have no argument of their own. */
static struct {
    int64_t now_us;
    struct exchange *run[MAX_RUN]; /* in the order of their waking */
    int n_run, depth;
    bool settles_at_once; /* what is woken ends inside it */
} world;

static int64_t now_us(void)
{
    return world.now_us;
}

static void note_run(struct exchange *x)
{
    struct err err = {0};
    CHECK(world.n_run < MAX_RUN);
    world.run[world.n_run++] = x;
    EXPECT_EQ(limits_take(x, 99, 99, &err), 1); /* granted, as it was asked for at first */
    EXPECT_EQ(world.depth++, 0);                /* never one inside the other */
    if (world.settles_at_once)
        limits_settle(x, 0);
    world.depth--;
}

struct bench {
    struct ledger *ledger;
    struct server server, other; /* two workers */
};

static void open_bench(struct bench *b)
{
    struct err err = {0};
    memset(b, 0, sizeof *b);
    memset(&world, 0, sizeof world);
    world.now_us = 1000 * S;
    b->ledger = ledger_new(2, &err);
    CHECK(b->ledger);
    struct limits_opts o = {.ledger = b->ledger, .now_us = now_us, .wake = note_run};
    b->server.limits = limits_new(&o);
    o.place = 1;
    b->other.limits = limits_new(&o);
}

static void close_bench(struct bench *b)
{
    limits_free(b->server.limits);
    limits_free(b->other.limits);
    ledger_free(b->ledger);
}

static struct exchange request(struct server *s, int64_t tenant)
{
    struct exchange x = {.server = s, .caller = {.tenant = tenant}};
    x.caller.limits = (struct tenant_limits){.requests_per_minute = 60,
                                             .tokens_per_minute = 6000,
                                             .max_running = 2,
                                             .max_queued = 4};
    return x;
}

TEST(limits_say_what_can_never_fit)
{
    struct bench b;
    struct err err = {0};
    open_bench(&b);
    struct exchange x = request(&b.server, 1);
    EXPECT_EQ(limits_take(&x, 1, 6001, &err), -1);
    EXPECT_EQ(err.code, ERR_FORBIDDEN);
    EXPECT(strstr(err.msg, "6001") && strstr(err.msg, "6000"));
    EXPECT_EQ(limits_take(&x, 3, 10, &err), -1);
    EXPECT_EQ(err.code, ERR_FORBIDDEN);
    EXPECT(strstr(err.msg, "3 sequences") && strstr(err.msg, "2 running"));
    EXPECT_EQ(x.retry_after_s, 0);
    EXPECT_EQ(limits_take(&x, 2, 6000, &err), 1);
    limits_settle(&x, 6000);
    close_bench(&b);
}

TEST(limits_say_how_long_to_wait)
{
    struct bench b;
    struct err err = {0};
    open_bench(&b);
    struct exchange x = request(&b.server, 1), y = request(&b.server, 1);
    EXPECT_EQ(limits_take(&x, 1, 6000, &err), 1);
    limits_settle(&x, 5000);
    EXPECT_EQ(limits_take(&y, 1, 1250, &err), -1); /* 1000 are there, 100 come a second */
    EXPECT_EQ(err.code, ERR_QUEUE_FULL);
    EXPECT(strstr(err.msg, "6000 tokens a minute") != NULL);
    EXPECT_EQ(y.retry_after_s, 3);
    world.now_us += 3 * S;
    EXPECT_EQ(limits_take(&y, 1, 1250, &err), 1);
    limits_settle(&y, 0);
    close_bench(&b);
}

TEST(limits_run_those_who_wait_in_order)
{
    struct bench b;
    struct err err = {0};
    open_bench(&b);
    struct exchange x[5];
    for (int i = 0; i < 5; i++)
        x[i] = request(&b.server, 1);
    EXPECT_EQ(limits_take(&x[0], 2, 10, &err), 1);
    for (int i = 1; i < 4; i++)
        EXPECT_EQ(limits_take(&x[i], 1, 10, &err), 0);
    EXPECT_EQ(limits_take(&x[1], 1, 10, &err), 0); /* it is not counted twice */
    EXPECT_EQ(limits_take(&x[4], 2, 10, &err), -1);
    EXPECT_EQ(err.code, ERR_QUEUE_FULL);
    EXPECT_EQ(world.n_run, 0);
    limits_settle(&x[0], 10);
    EXPECT_EQ(world.n_run, 2);
    EXPECT(world.run[0] == &x[1] && world.run[1] == &x[2]);
    limits_settle(&x[0], 10); /* nothing happens */
    EXPECT_EQ(world.n_run, 2);
    limits_settle(&x[2], 10);
    EXPECT(world.n_run == 3 && world.run[2] == &x[3]);
    limits_settle(&x[1], 10);
    limits_settle(&x[3], 10);
    EXPECT_EQ(limits_take(&x[4], 2, 10, &err), 1);
    limits_settle(&x[4], 10);
    close_bench(&b);
}

TEST(limits_of_one_hold_back_no_other)
{
    struct bench b;
    struct err err = {0};
    open_bench(&b);
    struct exchange a = request(&b.server, 1), a2 = request(&b.server, 1);
    struct exchange c = request(&b.server, 2), c2 = request(&b.server, 2);
    EXPECT_EQ(limits_take(&a, 2, 10, &err), 1);
    EXPECT_EQ(limits_take(&a2, 2, 10, &err), 0);
    EXPECT_EQ(limits_take(&c, 2, 10, &err), 1);
    EXPECT_EQ(limits_take(&c2, 2, 10, &err), 0);
    limits_settle(&c, 10);
    EXPECT(world.n_run == 1 && world.run[0] == &c2);
    limits_settle(&a2, 0); /* its client went away */
    limits_settle(&a, 10);
    EXPECT_EQ(world.n_run, 1);
    limits_settle(&c2, 10);
    close_bench(&b);
}

TEST(limits_notice_what_other_workers_settle)
{
    struct bench b;
    struct err err = {0};
    open_bench(&b);
    struct exchange there = request(&b.other, 1), here = request(&b.server, 1);
    EXPECT_EQ(limits_take(&there, 2, 10, &err), 1);
    EXPECT_EQ(limits_take(&here, 1, 10, &err), 0);
    limits_tick(b.server.limits);
    EXPECT_EQ(world.n_run, 0);
    limits_settle(&there, 10);
    EXPECT_EQ(world.n_run, 0);
    limits_tick(b.server.limits);
    EXPECT(world.n_run == 1 && world.run[0] == &here);
    limits_settle(&here, 10);
    close_bench(&b);
}

/* The head of a line leaves, who is woken ends at once: the line goes on, in order. */
TEST(limits_lines_survive_ends_inside_of_wakes)
{
    struct bench b;
    struct err err = {0};
    open_bench(&b);
    struct exchange first = request(&b.server, 1), x[4];
    EXPECT_EQ(limits_take(&first, 2, 10, &err), 1);
    for (int i = 0; i < 4; i++) {
        x[i] = request(&b.server, 1);
        EXPECT_EQ(limits_take(&x[i], 1, 10, &err), 0);
    }
    limits_settle(&x[0], 0);
    limits_settle(&x[3], 0);
    EXPECT_EQ(world.n_run, 0);
    EXPECT_EQ(limits_take(&x[3], 1, 10, &err), 0); /* again, at the end */
    world.settles_at_once = true;
    limits_settle(&first, 0);
    EXPECT_EQ(world.n_run, 3);
    EXPECT(world.run[0] == &x[1] && world.run[1] == &x[2] && world.run[2] == &x[3]);
    close_bench(&b);
}

/* The tenant is not at any limit of its own, so none is named. */
TEST(limits_say_that_too_many_tenants_are_active)
{
    struct bench b;
    struct err err = {0};
    open_bench(&b);
    struct exchange x = {0}, late = request(&b.server, LEDGER_MAX_TENANTS + 1);
    for (int64_t t = 1; t <= LEDGER_MAX_TENANTS; t++) {
        x = request(&b.server, t);
        EXPECT_EQ(limits_take(&x, 1, 10, &err), 1);
    }
    EXPECT_EQ(limits_take(&late, 1, 10, &err), -1);
    EXPECT_EQ(err.code, ERR_QUEUE_FULL);
    EXPECT_EQ(late.retry_after_s, 1);
    EXPECT(strstr(err.msg, "More tenants are active") != NULL);
    limits_settle(&x, 10);
    world.now_us += S;
    EXPECT_EQ(limits_take(&late, 1, 10, &err), -1); /* the set of another */
    close_bench(&b);
}

TEST(limits_charge_for_compiling)
{
    struct bench b;
    struct err err = {0};
    open_bench(&b);
    struct exchange put = request(&b.server, 1), x = request(&b.other, 1);
    struct limits_compile *c = limits_compile_new(&put);
    EXPECT_EQ(limits_charge_compile(c, 6001, &err), -1); /* no waiting helps */
    EXPECT_EQ(err.code, ERR_FORBIDDEN);
    EXPECT(strstr(err.msg, "6001 tokens") && strstr(err.msg, "6000 tokens a minute"));
    limits_note_compile(&put, c);
    EXPECT_EQ(put.retry_after_s, 0);
    EXPECT_EQ(limits_charge_compile(c, 5000, &err), 0);
    EXPECT_EQ(limits_take(&x, 1, 1100, &err), -1); /* another worker knows */
    EXPECT_EQ(x.retry_after_s, 1);
    EXPECT_EQ(limits_charge_compile(c, 4000, &err), -1);
    EXPECT_EQ(err.code, ERR_QUEUE_FULL);
    EXPECT(strstr(err.msg, "6000 tokens a minute is reached: try again in 30 s") != NULL);
    EXPECT_EQ(put.retry_after_s, 0);
    limits_note_compile(&put, c);
    EXPECT_EQ(put.retry_after_s, 30); /* 3000 at a hundred a second */
    world.now_us += 30 * S;
    EXPECT_EQ(limits_charge_compile(c, 4000, &err), 0);
    arena_free(&put.arena);
    close_bench(&b);
}

/* ---- on a loop ----------------------------------------------------------------------- */

static void no_event(void *ud)
{
    (void)ud;
}

static void no_signal(void *ud, int signum)
{
    (void)ud, (void)signum;
}

struct joiner { /* joins the line of its tenant every millisecond */
    struct loop *loop;
    struct loop_timer *timer;
    struct exchange x[300];
    int n;
};

static void join_next(void *ud)
{
    struct joiner *j = ud;
    struct err err = {0};
    if (world.n_run || j->n == 300) {
        loop_stop(j->loop);
        return;
    }
    EXPECT_EQ(limits_take(&j->x[j->n++], 1, 1, &err), 0);
    loop_timer_start(j->timer, 1);
}

static void open_joiner(struct joiner *j, struct bench *b)
{
    static const struct loop_handlers none = {
        .on_wake = no_event, .on_tick = no_event, .on_signal = no_signal};
    struct err err = {0};
    memset(j, 0, sizeof *j);
    j->loop = loop_new(&none, &err);
    CHECK(j->loop);
    j->timer = loop_timer_new(j->loop, join_next, j);
    limits_free(b->server.limits);
    b->server.limits = limits_new(&(struct limits_opts){
        .ledger = b->ledger, .loop = j->loop, .now_us = now_us, .wake = note_run});
    for (int i = 0; i < 300; i++) {
        j->x[i] = request(&b->server, 2);
        j->x[i].caller.limits.max_queued = 1000;
        j->x[i].caller.limits.requests_per_minute = 1000;
    }
}

TEST(limits_are_looked_at_while_others_keep_joining)
{
    struct bench b;
    struct joiner j;
    struct err err = {0};
    open_bench(&b);
    open_joiner(&j, &b);
    struct exchange there = request(&b.other, 1), here = request(&b.server, 1);
    struct exchange full = request(&b.server, 2);
    EXPECT_EQ(limits_take(&there, 2, 10, &err), 1);
    EXPECT_EQ(limits_take(&here, 1, 10, &err), 0);
    EXPECT_EQ(limits_take(&full, 2, 10, &err), 1);
    limits_settle(&there, 10);
    join_next(&j);
    loop_run(j.loop);
    EXPECT(world.n_run == 1 && world.run[0] == &here);
    EXPECT(j.n < 150); /* some ten, and more on a busy machine */
    limits_settle(&here, 10);
    for (int i = 0; i < j.n; i++)
        limits_settle(&j.x[i], 0);
    limits_settle(&full, 10);
    close_bench(&b);
    loop_free(j.loop);
}
