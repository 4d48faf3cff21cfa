/* Counting what is used, over a real registry and a real loop. */
#include "server/usage.h"

#include "core/base/check.h"
#include "server/exchange.h"
#include "server/generation.h"
#include "server/loop.h"
#include "tests/test.h"

#include <sqlite3.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { HOUR = 3600 };

struct bench {
    char dir[64];
    struct store *store;
    struct loop *loop;
    struct usage *usage;
    struct loop_timer *end;
};

static void stop(void *ud)
{
    const struct bench *b = ud;
    loop_stop(b->loop);
}

static void open_bench(struct bench *b)
{
    static const struct loop_handlers none;
    struct err err = {0};
    strcpy(b->dir, "/tmp/prefixd-usage-XXXXXX");
    CHECK(mkdtemp(b->dir));
    b->store = store_open(&(struct store_opts){.dir = b->dir}, &err);
    CHECK(b->store);
    b->loop = loop_new(&none, &err);
    CHECK(b->loop);
    b->usage = usage_new(&(struct usage_opts){.store = b->store, .loop = b->loop});
    b->end = loop_timer_new(b->loop, stop, b);
}

static void run(struct bench *b, int ms)
{
    loop_timer_start(b->end, ms);
    loop_run(b->loop);
}

static void stop_counting(struct bench *b)
{
    usage_stop(b->usage);
    loop_free(b->loop);
    usage_free(b->usage);
}

static void close_bench(struct bench *b)
{
    char command[128];
    store_close(b->store);
    snprintf(command, sizeof command, "rm -rf '%s'", b->dir);
    CHECK(system(command) == 0);
}

static void count(struct bench *b, int64_t hour, int64_t tenant, const char *adapter,
                  int64_t generated)
{
    const struct usage_row row = {
        .hour = hour,
        .tenant = tenant,
        .adapter = adapter,
        .n = {.requests = 1, .prompt_tokens = 10, .generated_tokens = generated}};
    usage_add(b->usage, &row);
}

static void keep(void *ud, const struct usage_row *r)
{
    struct usage_counters *n = ud;
    *n = r->n;
}

static struct usage_counters sum_of(const struct bench *b, int64_t tenant, int64_t start,
                                    int64_t end)
{
    struct usage_counters n = {0};
    struct err err = {0};
    bool more = false;
    const struct usage_query q = {.tenant = tenant, .start = start, .end = end, .limit = 1};
    CHECK(store_each_usage(b->store, &q, &more, keep, &n, &err) == 0);
    return n;
}

static void add_one(void *ud, const struct usage_row *r)
{
    int *n = ud;
    *n += r->n.requests > 0;
}

static int rows_of(const struct bench *b, unsigned by)
{
    int n = 0;
    struct err err = {0};
    bool more = false;
    const struct usage_query q = {.group_by = by, .limit = 1000};
    CHECK(store_each_usage(b->store, &q, &more, add_one, &n, &err) == 0);
    return n;
}

TEST(usage_is_written_within_about_a_second)
{
    struct bench b;
    open_bench(&b);
    for (int i = 0; i < 1000; i++) {
        count(&b, 5 * HOUR + i, 1, "a", i);
        count(&b, 5 * HOUR + 1, 2, i % 2 ? "a" : "b", 1);
    }
    EXPECT_EQ(sum_of(&b, 0, 0, 0).requests, 0);
    run(&b, USAGE_FLUSH_MS + 500);
    EXPECT_EQ(sum_of(&b, 1, 0, 0).requests, 1000);
    EXPECT_EQ(sum_of(&b, 1, 0, 0).prompt_tokens, 10000);
    EXPECT_EQ(sum_of(&b, 1, 0, 0).generated_tokens, 999 * 1000 / 2);
    EXPECT_EQ(sum_of(&b, 2, 0, 0).requests, 1000);
    EXPECT_EQ(rows_of(&b, USAGE_BY_TENANT | USAGE_BY_ADAPTER | USAGE_BY_HOUR), 3);
    count(&b, 5 * HOUR, 1, "a", 5); /* the next second's */
    run(&b, USAGE_FLUSH_MS + 500);
    EXPECT_EQ(sum_of(&b, 1, 0, 0).requests, 1001);
    stop_counting(&b);
    EXPECT_EQ(sum_of(&b, 0, 0, 0).requests, 2001);
    close_bench(&b);
}

TEST(usage_of_two_hours_is_two_rows)
{
    struct bench b;
    open_bench(&b);
    count(&b, 5 * HOUR + HOUR - 1, 1, "", 1);
    count(&b, 6 * HOUR, 1, "", 2);
    stop_counting(&b); /* what is left is written at the end */
    EXPECT_EQ(sum_of(&b, 1, 5 * HOUR, 6 * HOUR).generated_tokens, 1);
    EXPECT_EQ(sum_of(&b, 1, 6 * HOUR, 7 * HOUR).generated_tokens, 2);
    close_bench(&b);
}

static void execute(const struct bench *b, const char *sql)
{
    char path[128];
    sqlite3 *db = NULL;
    snprintf(path, sizeof path, "%s/registry.db", b->dir);
    CHECK(sqlite3_open(path, &db) == SQLITE_OK);
    CHECK(sqlite3_exec(db, sql, NULL, NULL, NULL) == SQLITE_OK);
    sqlite3_close(db);
}

TEST(usage_that_is_not_written_is_kept)
{
    struct bench b;
    open_bench(&b);
    execute(&b, "ALTER TABLE usage RENAME TO elsewhere");
    count(&b, 5 * HOUR, 1, "a", 1);
    run(&b, USAGE_FLUSH_MS + 300); /* in vain */
    count(&b, 5 * HOUR, 1, "a", 10);
    execute(&b, "ALTER TABLE elsewhere RENAME TO usage");
    EXPECT_EQ(sum_of(&b, 1, 0, 0).requests, 0);
    run(&b, USAGE_FLUSH_MS + 300);
    EXPECT_EQ(sum_of(&b, 1, 0, 0).requests, 2);
    EXPECT_EQ(sum_of(&b, 1, 0, 0).generated_tokens, 11);
    stop_counting(&b);
    EXPECT_EQ(sum_of(&b, 1, 0, 0).requests, 2); /* and not once more */
    close_bench(&b);
}

static void end_exchange(struct bench *b, int n_choices, int n_ended, int generated,
                         enum err_code code)
{
    struct generation g = {.n_choices = n_choices,
                           .n_ended = n_ended,
                           .adapter = "a",
                           .usage = {.prompt_tokens = 7,
                                     .virtual_tokens = 20,
                                     .completion_tokens = generated}};
    struct exchange x = {.gen = &g,
                         .caller = {.tenant = 4, .key = 9},
                         .is_answered = true,
                         .err = {.code = code}};
    usage_add_exchange(b->usage, &x, false); /* as a tick just before */
    usage_add_exchange(b->usage, &x, true);
}

TEST(usage_counts_what_was_made)
{
    struct bench b;
    open_bench(&b);
    struct exchange none = {0};
    usage_add_exchange(b.usage, &none, true);  /* no completion */
    end_exchange(&b, 0, 0, 0, ERR_QUEUE_FULL); /* never posted */
    end_exchange(&b, 1, 0, 0, ERR_CONTEXT);    /* refused by the engine */
    end_exchange(&b, 2, 2, 32, ERR_NONE);      /* whole */
    end_exchange(&b, 1, 0, 5, ERR_CANCELLED);  /* cut */
    end_exchange(&b, 1, 0, 0, ERR_NONE);       /* cut before its first token */
    stop_counting(&b);
    struct usage_counters n = sum_of(&b, 4, 0, 0);
    EXPECT_EQ(n.requests, 3);
    EXPECT_EQ(n.prompt_tokens, 14);
    EXPECT_EQ(n.virtual_tokens, 40);
    EXPECT_EQ(n.cached_tokens, 0);
    EXPECT_EQ(n.generated_tokens, 37);
    EXPECT_EQ(sum_of(&b, 0, time(NULL) - HOUR - 1, 0).requests, 3);
    EXPECT_EQ(rows_of(&b, USAGE_BY_KEY | USAGE_BY_ADAPTER), 1);
    close_bench(&b);
}

/* Of a long one, all but the last second outlives the process. */
TEST(usage_of_what_still_runs)
{
    struct bench b;
    open_bench(&b);
    struct generation g = {.n_choices = 2, .usage = {.prompt_tokens = 7}};
    struct exchange x = {.gen = &g, .caller = {.tenant = 4}};
    usage_add_exchange(b.usage, &x, false);
    run(&b, USAGE_FLUSH_MS + 300);
    EXPECT_EQ(sum_of(&b, 4, 0, 0).requests, 0); /* nothing is made yet */
    for (g.usage.completion_tokens = 1; g.usage.completion_tokens < 50;
         g.usage.completion_tokens++)
        usage_add_exchange(b.usage, &x, false);
    run(&b, USAGE_FLUSH_MS + 300);
    EXPECT_EQ(sum_of(&b, 4, 0, 0).requests, 1);
    EXPECT_EQ(sum_of(&b, 4, 0, 0).prompt_tokens, 7);
    EXPECT_EQ(sum_of(&b, 4, 0, 0).generated_tokens, 49);
    g.n_ended = 2;
    usage_add_exchange(b.usage, &x, true);
    stop_counting(&b);
    EXPECT_EQ(sum_of(&b, 4, 0, 0).requests, 1);
    EXPECT_EQ(sum_of(&b, 4, 0, 0).prompt_tokens, 7);
    EXPECT_EQ(sum_of(&b, 4, 0, 0).generated_tokens, 50);
    close_bench(&b);
}

TEST(usage_answers_few_questions_at_once)
{
    struct bench b;
    struct err err = {0};
    open_bench(&b);
    EXPECT_EQ(usage_begin_question(b.usage, 1, &err), 0);
    EXPECT_EQ(usage_begin_question(b.usage, 1, &err), 0);
    EXPECT_EQ(usage_begin_question(b.usage, 1, &err), -1);
    EXPECT_EQ(err.code, ERR_QUEUE_FULL);
    for (int64_t t = 2; t < 8; t++)
        EXPECT_EQ(usage_begin_question(b.usage, t, &err), 0);
    EXPECT_EQ(usage_begin_question(b.usage, 9, &err), -1);
    usage_end_question(b.usage, 1);
    EXPECT_EQ(usage_begin_question(b.usage, 9, &err), 0);
    stop_counting(&b);
    close_bench(&b);
}
