/* The ledger of limits, with a clock of the test's own. */
#include "server/ledger.h"

#include "core/base/check.h"
#include "tests/test.h"

#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#define S INT64_C(1000000)

static const struct tenant_limits small = {.requests_per_minute = 6,
                                           .tokens_per_minute = 600,
                                           .max_running = 4,
                                           .max_queued = 2,
                                           .max_adapters = 1,
                                           .max_adapter_bytes = 1,
                                           .max_virtual_tokens = 1};

static struct ledger *open_ledger(int n_places)
{
    struct err err = {0};
    struct ledger *l = ledger_new(n_places, &err);
    CHECK(l);
    return l;
}

static struct ledger_ask ask(int64_t tenant, int n, int64_t tokens, int64_t now_us)
{
    return (struct ledger_ask){.tenant = tenant,
                               .limits = &small,
                               .n_sequences = n,
                               .n_tokens = tokens,
                               .now_us = now_us};
}

static enum ledger_answer take(struct ledger *l, const struct ledger_ask *a)
{
    int64_t wait_us = 0;
    return ledger_take(l, a, &wait_us);
}

static struct ledger_state look(struct ledger *l, const struct ledger_ask *a)
{
    struct ledger_state s;
    ledger_look(l, a, &s);
    return s;
}

TEST(ledger_requests_of_a_minute)
{
    struct ledger *l = open_ledger(1);
    struct ledger_ask a = ask(1, 1, 1, 100 * S);
    int64_t wait_us = 0;
    for (int i = 0; i < 6; i++) {
        EXPECT_EQ(take(l, &a), LEDGER_GRANTED);
        ledger_settle(l, &a, 1);
    }
    EXPECT_EQ(ledger_take(l, &a, &wait_us), LEDGER_NO_REQUESTS);
    EXPECT(wait_us >= 10 * S &&
           wait_us <= 10 * S + 2); /* six a minute: one in ten seconds */
    a.now_us += wait_us - 1000;
    EXPECT_EQ(take(l, &a), LEDGER_NO_REQUESTS);
    a.now_us += 1000;
    EXPECT_EQ(take(l, &a), LEDGER_GRANTED); /* waiting for so long is enough */
    ledger_free(l);
}

TEST(ledger_tokens_of_a_minute)
{
    struct ledger *l = open_ledger(1);
    struct ledger_ask a = ask(1, 1, 400, 5 * S);
    int64_t wait_us = 0;
    EXPECT_EQ(take(l, &a), LEDGER_GRANTED);
    EXPECT_EQ(look(l, &a).tokens_left, 200);
    EXPECT_EQ(ledger_take(l, &a, &wait_us), LEDGER_NO_TOKENS);
    EXPECT(wait_us >= 20 * S && wait_us <= 20 * S + 2); /* ten a second, 200 are missing */
    ledger_settle(l, &a, 100);                          /* 300 come back */
    EXPECT_EQ(look(l, &a).tokens_left, 500);
    EXPECT_EQ(look(l, &a).tokens_full_us / S, 10);
    EXPECT_EQ(take(l, &a), LEDGER_GRANTED);
    a.now_us += 3600 * S;
    EXPECT_EQ(look(l, &a).tokens_left, 600); /* never more than a minute's */
    EXPECT_EQ(look(l, &a).requests_left, 6);
    ledger_settle(l, &a, 0);
    EXPECT_EQ(look(l, &a).tokens_left, 600);
    EXPECT_EQ(look(l, &a).tokens_full_us, 0);
    ledger_free(l);
}

TEST(ledger_refusals_cost_nothing)
{
    struct ledger *l = open_ledger(1);
    struct ledger_ask a = ask(1, 4, 600, S);
    EXPECT_EQ(take(l, &a), LEDGER_GRANTED);
    for (int i = 0; i < 10; i++)
        EXPECT_EQ(take(l, &a), LEDGER_NO_TOKENS);
    EXPECT_EQ(look(l, &a).requests_left, 5);
    ledger_settle(l, &a, 0);
    a.n_tokens = 1;
    EXPECT_EQ(take(l, &a), LEDGER_GRANTED);
    for (int i = 0; i < 10; i++)
        EXPECT_EQ(take(l, &a), LEDGER_NO_ROOM); /* four do not fit into the queue of two */
    EXPECT_EQ(look(l, &a).requests_left, 4);
    EXPECT_EQ(look(l, &a).tokens_left, 599);
    ledger_free(l);
}

TEST(ledger_sequences_wait_for_each_other)
{
    struct ledger *l = open_ledger(2);
    struct ledger_ask a = ask(1, 3, 1, S), b = ask(1, 2, 1, S), c = ask(1, 1, 1, S);
    b.place = 1;
    EXPECT_EQ(take(l, &a), LEDGER_GRANTED);
    EXPECT_EQ(take(l, &b), LEDGER_QUEUED);
    EXPECT_EQ(look(l, &a).n_running, 3);
    EXPECT_EQ(look(l, &a).n_queued, 2);
    EXPECT(!ledger_start(l, &b));
    EXPECT_EQ(take(l, &c),
              LEDGER_NO_ROOM); /* it would fit, but not before those who wait */
    ledger_settle(l, &a, 1);
    EXPECT(ledger_start(l, &b));
    EXPECT_EQ(look(l, &a).n_running, 2);
    EXPECT_EQ(look(l, &a).n_queued, 0);
    EXPECT_EQ(take(l, &c), LEDGER_GRANTED);
    EXPECT_EQ(take(l, &b), LEDGER_QUEUED);
    ledger_give_up(l, &b);
    EXPECT_EQ(look(l, &a).n_queued, 0);
    EXPECT_EQ(look(l, &a).n_running, 3);
    EXPECT_EQ(look(l, &a).tokens_left,
              600 - 3); /* of a, b and c; what was given up is back */
    ledger_free(l);
}

TEST(ledger_changed_limits_hold_at_once)
{
    struct ledger *l = open_ledger(1);
    struct tenant_limits more = small;
    struct ledger_ask a = ask(1, 1, 600, S);
    EXPECT_EQ(take(l, &a), LEDGER_GRANTED);
    a.n_tokens = 100;
    EXPECT_EQ(take(l, &a), LEDGER_NO_TOKENS);
    more.tokens_per_minute = 1200;
    a.limits = &more;
    EXPECT_EQ(look(l, &a).tokens_left, 600);
    EXPECT_EQ(take(l, &a), LEDGER_GRANTED);
    more.tokens_per_minute = 500;
    EXPECT_EQ(look(l, &a).tokens_left, 0);
    EXPECT_EQ(take(l, &a), LEDGER_NO_TOKENS);
    ledger_free(l);
}

/* All or nothing, with no request and no sequence counted. */
TEST(ledger_spends_tokens_alone)
{
    struct ledger *l = open_ledger(2);
    struct ledger_ask a = ask(1, 1, 250, S), other = a;
    int64_t wait_us = 0;
    other.place = 1;
    EXPECT_EQ(ledger_spend(l, &a, &wait_us), LEDGER_GRANTED);
    EXPECT_EQ(ledger_spend(l, &other, &wait_us), LEDGER_GRANTED);
    EXPECT_EQ(wait_us, 0);
    EXPECT_EQ(ledger_spend(l, &a, &wait_us), LEDGER_NO_TOKENS);
    EXPECT_EQ(wait_us, 15 * S); /* 150 at ten a second */
    struct ledger_state now = look(l, &a);
    EXPECT(now.tokens_left == 100 && now.requests_left == 6);
    EXPECT(now.n_running == 0 && now.n_queued == 0);
    ledger_forget_worker(l, 0); /* what was computed was computed */
    EXPECT_EQ(look(l, &a).tokens_left, 100);
    a.now_us += wait_us;
    EXPECT_EQ(ledger_spend(l, &a, &wait_us), LEDGER_GRANTED);
    EXPECT_EQ(look(l, &a).tokens_left, 0);
    ledger_free(l);
}

TEST(ledger_tenants_do_not_meet)
{
    struct ledger *l = open_ledger(1);
    for (int64_t t = 1; t <= 2000; t++) {
        struct ledger_ask a = ask(t, 4, 600, S);
        EXPECT_EQ(take(l, &a), LEDGER_GRANTED);
    }
    for (int64_t t = 1; t <= 2000; t++) {
        struct ledger_ask a = ask(t, 1, 1, S);
        EXPECT_EQ(look(l, &a).n_running, 4);
        EXPECT_EQ(look(l, &a).tokens_left, 0);
    }
    ledger_free(l);
}

/* Far more tenants than entries, one after the other. */
TEST(ledger_takes_over_what_is_full_again)
{
    struct ledger *l = open_ledger(1);
    struct ledger_ask busy = ask(5, 1, 300, S);
    EXPECT_EQ(take(l, &busy), LEDGER_GRANTED);
    for (int64_t t = 6; t <= 20000; t++) {
        struct ledger_ask a = ask(t, 1, 600, S + t * S / 100);
        EXPECT_EQ(take(l, &a), LEDGER_GRANTED);
        ledger_settle(l, &a, 600);
    }
    EXPECT_EQ(look(l, &busy).n_running, 1); /* what runs is never forgotten */
    ledger_settle(l, &busy, 0);
    ledger_free(l);
}

/* Every tenant has its six of the minute, however many there are. */
TEST(ledger_forgets_no_debts_of_many_tenants)
{
    struct ledger *l = open_ledger(1);
    int n_granted = 0;
    for (int round = 0; round < 10; round++) {
        for (int64_t t = 1; t <= 5000; t++) {
            struct ledger_ask a = ask(t, 1, 1, S);
            if (take(l, &a) != LEDGER_GRANTED)
                continue;
            ledger_settle(l, &a, 1);
            n_granted++;
        }
    }
    EXPECT_EQ(n_granted, 5000 * 6);
    ledger_free(l);
}

TEST(ledger_says_when_it_is_full)
{
    struct ledger *l = open_ledger(1);
    struct ledger_ask first = ask(1, 1, 100, S);
    struct ledger_ask late = ask(LEDGER_MAX_TENANTS + 1, 1, 1, S);
    int n_granted = 0;
    for (int64_t t = 1; t <= LEDGER_MAX_TENANTS; t++) {
        struct ledger_ask a = ask(t, 1, 100, S);
        n_granted += take(l, &a) == LEDGER_GRANTED;
    }
    EXPECT_EQ(n_granted, LEDGER_MAX_TENANTS);
    EXPECT_EQ(take(l, &late), LEDGER_FULL);
    int64_t wait_us = 0;
    EXPECT_EQ(ledger_spend(l, &late, &wait_us), LEDGER_FULL); /* nowhere to be noted */
    ledger_settle(l, &first, 100);
    late.now_us += 9 * S; /* request and tokens of the first are back after ten seconds */
    EXPECT_EQ(take(l, &late), LEDGER_FULL);
    late.now_us += 1 * S;
    EXPECT_EQ(take(l, &late), LEDGER_GRANTED);
    ledger_free(l);
}

/* Limits of nothing never give anything back: such a debt would be there for good. */
TEST(ledger_waits_for_no_limits_of_nothing)
{
    struct ledger *l = open_ledger(1);
    struct tenant_limits nothing = {0};
    for (int64_t t = 1; t <= LEDGER_MAX_TENANTS; t++) {
        struct ledger_ask a = ask(t, 1, 1, S);
        EXPECT_EQ(take(l, &a), LEDGER_GRANTED);
        ledger_settle(l, &a, 1);
        a.limits = &nothing;
        look(l, &a);
    }
    struct ledger_ask late = ask(LEDGER_MAX_TENANTS + 1, 1, 1, S);
    EXPECT_EQ(take(l, &late), LEDGER_GRANTED);
    ledger_free(l);
}

/* ---- several processes --------------------------------------------------------------- */

static int wait_for(pid_t pid)
{
    int status = 0;
    CHECK(waitpid(pid, &status, 0) == pid);
    return status;
}

TEST(ledger_is_shared_by_processes)
{
    struct ledger *l = open_ledger(4);
    pid_t pids[4];
    struct ledger_ask a = ask(9, 1, 1, S);
    struct tenant_limits wide = {.requests_per_minute = 1000000,
                                 .tokens_per_minute = 1000000,
                                 .max_running = 1000000};
    a.limits = &wide;
    for (int p = 0; p < 4; p++) {
        pids[p] = fork();
        CHECK(pids[p] >= 0);
        a.place = p;
        for (int i = 0; pids[p] == 0 && i < 5000; i++) {
            CHECK(take(l, &a) == LEDGER_GRANTED);
            if (i % 2)
                ledger_settle(l, &a, 0);
        }
        if (pids[p] == 0)
            _exit(0);
    }
    for (int p = 0; p < 4; p++)
        EXPECT_EQ(wait_for(pids[p]), 0);
    EXPECT_EQ(look(l, &a).n_running, 4 * 2500);
    EXPECT_EQ(look(l, &a).tokens_left, 1000000 - 4 * 2500);
    EXPECT_EQ(look(l, &a).requests_left, 1000000 - 4 * 5000);
    ledger_forget_worker(l, 2);
    EXPECT_EQ(look(l, &a).n_running, 3 * 2500);
    EXPECT_EQ(look(l, &a).tokens_left, 1000000 - 3 * 2500);
    ledger_free(l);
}

TEST(ledger_gives_back_what_the_dead_held)
{
    struct ledger *l = open_ledger(2);
    struct ledger_ask mine = ask(3, 1, 100, S), its = ask(3, 3, 200, S), more = its;
    its.place = 1;
    more.place = 1;
    more.n_sequences = 2;
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        CHECK(take(l, &its) == LEDGER_GRANTED && take(l, &more) == LEDGER_QUEUED);
        kill(getpid(), SIGKILL);
    }
    wait_for(pid);
    EXPECT_EQ(look(l, &mine).n_running, 3);
    EXPECT_EQ(take(l, &mine), LEDGER_NO_ROOM);
    ledger_forget_worker(l, 1);
    EXPECT_EQ(look(l, &mine).n_running, 0);
    EXPECT_EQ(look(l, &mine).n_queued, 0);
    EXPECT_EQ(look(l, &mine).tokens_left, 600);
    EXPECT_EQ(take(l, &mine), LEDGER_GRANTED);
    ledger_forget_worker(l, 1); /* nothing of others' */
    EXPECT_EQ(look(l, &mine).n_running, 1);
    EXPECT_EQ(look(l, &mine).tokens_left, 500);
    ledger_free(l);
}

/* Killed at random moments of thousands of calls, so some while it holds a lock. */
TEST(ledger_outlives_who_dies_inside)
{
    struct ledger *l = open_ledger(2);
    struct ledger_ask a = ask(3, 1, 10, S);
    struct tenant_limits wide = {.requests_per_minute = INT64_C(1) << 50,
                                 .tokens_per_minute = INT64_C(1) << 50,
                                 .max_running = 1000,
                                 .max_queued = 1};
    a.limits = &wide;
    for (int round = 0; round < 100; round++) {
        pid_t pid = fork();
        CHECK(pid >= 0);
        a.place = pid == 0 ? 1 : 0;
        while (pid == 0)
            if (take(l, &a) == LEDGER_GRANTED)
                ledger_settle(l, &a, 5);
        usleep(1000 + (unsigned)round * 13 % 997);
        kill(pid, SIGKILL);
        wait_for(pid);
        ledger_forget_worker(l, 1);
        EXPECT_EQ(look(l, &a).n_running, 0);
        EXPECT_EQ(take(l, &a), LEDGER_GRANTED);
        ledger_settle(l, &a, 10);
    }
    ledger_free(l);
}
