/* Counts of several workers add up, never go back over deaths, and have few enough rows. */
#include "server/metrics_text.h"

#include "adapters/adapters.h"
#include "core/base/mem.h"
#include "core/engine.h"
#include "server/shared.h"
#include "tests/test.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

static bool page_has(const struct metrics_slots *all, const char *text)
{
    struct buf page = {0};
    metrics_text_render(all, "a\"base", &page);
    bool found = strstr(page.data, text) != NULL;
    buf_free(&page);
    return found;
}

#define EXPECT_LINE(all, text)                                                             \
    do {                                                                                   \
        if (!page_has(all, text "\n"))                                                     \
            test_fail(__FILE__, __LINE__, "no line %s", text);                             \
    } while (0)

TEST(metrics_add_up_over_workers)
{
    struct metrics_slots *all = metrics_slots_new(2);
    for (int i = 0; i < 2; i++) {
        const struct metrics m = {all, i};
        metrics_enter(all, i);
        metrics_set_engine(&m, &(struct engine_stats){.steps = 10,
                                                      .step_us = 1500000,
                                                      .step_times = {1, 2, [41] = 7},
                                                      .decode_rows = 30,
                                                      .prefix_reads = 4,
                                                      .prefix_rows = 6,
                                                      .running = 3,
                                                      .kv_blocks_used = 1,
                                                      .kv_blocks_total = 4,
                                                      .kv_block_bytes = 512});
        metrics_set_adapters(&m, &(struct adapters_stats){.hits = 7,
                                                          .evictions = 2,
                                                          .load_us = 250000,
                                                          .bytes = 1000,
                                                          .n_resident = 5});
        metrics_add_throttle(&m, "tokens_per_minute");
        metrics_add_throttle(&m, "no such reason");
    }
    EXPECT_LINE(all, "prefixd_workers 2");
    EXPECT_LINE(all, "prefixd_worker_deaths_total 0");
    EXPECT_LINE(all, "prefixd_steps_total 20");
    EXPECT_LINE(all, "prefixd_step_seconds_total 3.000000");
    EXPECT_LINE(all, "prefixd_step_duration_seconds_bucket{le=\"0.0001\"} 2");
    EXPECT_LINE(all, "prefixd_step_duration_seconds_bucket{le=\"0.000125\"} 6");
    EXPECT_LINE(all, "prefixd_step_duration_seconds_bucket{le=\"+Inf\"} 20");
    EXPECT_LINE(all, "prefixd_step_duration_seconds_count 20");
    EXPECT_LINE(all, "prefixd_rows_per_step 3");
    EXPECT_LINE(all, "prefixd_rows_per_prefix_read 1.5");
    EXPECT_LINE(all, "prefixd_num_requests_running{model_name=\"a\\\"base\"} 6");
    EXPECT_LINE(all, "prefixd_kv_cache_usage_perc{model_name=\"a\\\"base\"} 0.25");
    EXPECT_LINE(all, "prefixd_kv_block_bytes 512");
    EXPECT_LINE(all, "prefixd_adapters_resident 10");
    EXPECT_LINE(all, "prefixd_adapters_resident_bytes 2000");
    EXPECT_LINE(all, "prefixd_adapter_hits_total 14");
    EXPECT_LINE(all, "prefixd_adapter_evictions_total 4");
    EXPECT_LINE(all, "prefixd_adapter_load_seconds_total 0.500000");
    EXPECT_LINE(all, "prefixd_throttles_total{reason=\"tokens_per_minute\"} 2");
    EXPECT_LINE(all, "prefixd_throttles_total{reason=\"other\"} 2");
    metrics_slots_free(all);
}

/* A worker lives, says what its engine counted, and is killed. */
static void live_once(struct metrics_slots *all, uint64_t steps)
{
    pid_t pid = fork();
    if (pid == 0) {
        const struct metrics m = {all, 0};
        metrics_enter(all, 0);
        metrics_set_engine(&m, &(struct engine_stats){.steps = steps, .running = 2});
        metrics_set_adapters(&m, &(struct adapters_stats){.loads = steps, .n_resident = 1});
        metrics_tenant(&m, 1, "acme")->prompt_tokens += steps;
        raise(SIGKILL);
    }
    waitpid(pid, NULL, 0);
}

TEST(metrics_go_on_over_deaths)
{
    struct metrics_slots *all = metrics_slots_new(1);
    live_once(all, 10);
    EXPECT_LINE(all, "prefixd_steps_total 10");
    metrics_leave(all, 0);
    metrics_add_death(all);
    EXPECT_LINE(all, "prefixd_steps_total 10");
    EXPECT_LINE(all, "prefixd_num_requests_running{model_name=\"a\\\"base\"} 0");
    EXPECT_LINE(all, "prefixd_adapters_resident 0");
    EXPECT_LINE(all, "prefixd_workers 0");
    metrics_enter(all, 0); /* the next one, before it has counted anything */
    EXPECT_LINE(all, "prefixd_steps_total 10");
    EXPECT_LINE(all, "prefixd_workers 1");
    live_once(all, 5);
    live_once(all, 0);
    EXPECT_LINE(all, "prefixd_steps_total 15");
    EXPECT_LINE(all, "prefixd_adapter_loads_total 15");
    EXPECT_LINE(all, "prefixd_worker_deaths_total 1");
    EXPECT_LINE(all, "prefixd_tenant_prompt_tokens_total{tenant=\"acme\"} 15");
    metrics_slots_free(all);
}

/* ---- rows ---------------------------------------------------------------------------- */

enum { N_WORKERS = 4, N_TENANTS = METRICS_TENANTS + 50 };

/* Each counts one request for each tenant, in an order of its own. */
static void count_tenants(struct metrics_slots *all, int place)
{
    static const int strides[N_WORKERS] = {1, 3, 7, 9}; /* coprime to their number */
    const struct metrics m = {all, place};
    for (int i = 0; i < N_TENANTS; i++) {
        int64_t id = (i * strides[place] + place * 40) % N_TENANTS;
        char name[16];
        snprintf(name, sizeof name, "t%d", (int)id);
        metrics_tenant(&m, id, name)->outcomes[METRICS_OUTCOME_ok]++;
        (*metrics_adapter_requests(&m, id, name, "support"))++;
    }
}

/* All begin at once: when the pipe comes to its end. */
static void run_workers(struct metrics_slots *all)
{
    pid_t pids[N_WORKERS];
    int gate[2];
    char c;
    if (pipe(gate) < 0)
        return;
    for (int i = 0; i < N_WORKERS; i++)
        if ((pids[i] = fork()) == 0) {
            close(gate[1]);
            if (read(gate[0], &c, 1) == 0)
                count_tenants(all, i);
            _exit(0);
        }
    close(gate[0]);
    close(gate[1]);
    for (int i = 0; i < N_WORKERS; i++)
        waitpid(pids[i], NULL, 0);
}

static struct metrics_totals *sum_of(const struct metrics_slots *all)
{
    struct metrics_totals *sum = xcalloc(1, sizeof *sum);
    metrics_sum(all, sum);
    return sum;
}

static void expect_rows_once(const struct metrics_slots *all)
{
    struct metrics_totals *sum = sum_of(all);
    bool seen[N_TENANTS] = {0};
    for (int i = 0; i < METRICS_TENANTS; i++) {
        EXPECT_EQ(sum->tenants[i].outcomes[METRICS_OUTCOME_ok], N_WORKERS);
        EXPECT(sum->tenant_rows[i].key != 0);
        int id = atoi(sum->tenant_rows[i].tenant + 1);
        EXPECT(!seen[id]);
        seen[id] = true;
    }
    EXPECT_EQ(sum->tenants[METRICS_TENANTS].outcomes[METRICS_OUTCOME_ok],
              N_WORKERS * (N_TENANTS - METRICS_TENANTS));
    free(sum);
}

TEST(metrics_rows_are_claimed_once_by_many_processes)
{
    for (int i = 0; i < 30; i++) {
        struct metrics_slots *all = metrics_slots_new(N_WORKERS);
        run_workers(all);
        expect_rows_once(all);
        EXPECT_LINE(all,
                    "prefixd_tenant_requests_total{tenant=\"_other\",outcome=\"ok\"} 200");
        EXPECT_LINE(all, "prefixd_adapter_requests_total{tenant=\"_other\","
                         "adapter=\"_other\"} 200");
        metrics_slots_free(all);
    }
}


/* ---- shares of the rows -------------------------------------------------------------- */

/* A request for each of so many adapters of a tenant. */
static void count_adapters(const struct metrics *m, int64_t id, int n)
{
    char tenant[24], adapter[16];
    snprintf(tenant, sizeof tenant, "t%d", (int)id);
    for (int i = 0; i < n; i++) {
        snprintf(adapter, sizeof adapter, "a%d", i);
        (*metrics_adapter_requests(m, id, tenant, adapter))++;
    }
}

static int n_rows_of(const struct metrics_slots *all, int64_t id)
{
    struct metrics_totals *sum = sum_of(all);
    int n = 0;
    char tenant[24];
    snprintf(tenant, sizeof tenant, "t%d", (int)id);
    for (int i = 0; i < METRICS_ADAPTERS; i++)
        n += sum->adapter_rows[i].key && strcmp(sum->adapter_rows[i].tenant, tenant) == 0;
    free(sum);
    return n;
}

/* Whoever has more adapters than there are rows leaves rows to all others. */
TEST(metrics_rows_of_adapters_are_shared)
{
    struct metrics_slots *all = metrics_slots_new(1);
    const struct metrics m = {all, 0};
    const int common = METRICS_ADAPTERS - METRICS_TENANTS * METRICS_OWN;
    count_adapters(&m, 1, METRICS_ADAPTERS + 10);
    EXPECT_EQ(n_rows_of(all, 1), METRICS_OWN + common / 2);
    count_adapters(&m, 2, METRICS_ADAPTERS + 10);
    EXPECT_EQ(n_rows_of(all, 2), METRICS_OWN + common / 4);
    for (int id = 3; id <= METRICS_TENANTS + 5; id++)
        count_adapters(&m, id, 2 * METRICS_ADAPTERS / METRICS_TENANTS);
    for (int id = 3; id <= METRICS_TENANTS; id++)
        EXPECT(n_rows_of(all, id) >= METRICS_OWN);
    for (int id = METRICS_TENANTS + 1; id <= METRICS_TENANTS + 5; id++)
        EXPECT_EQ(n_rows_of(all, id), 0);
    (*metrics_adapter_requests(&m, 1, "t1", "a1"))++;
    EXPECT_LINE(all, "prefixd_adapter_requests_total{tenant=\"t1\",adapter=\"a1\"} 2");
    EXPECT_LINE(all, "prefixd_adapter_requests_total{tenant=\"t2\",adapter=\"a1\"} 1");
    metrics_slots_free(all);
}

TEST(metrics_rows_outlive_who_dies_taking_one)
{
    struct metrics_rows *r = shared_map(sizeof *r);
    uint64_t key;
    metrics_rows_init(r);
    pid_t pid = fork();
    if (pid == 0) {
        pthread_mutex_lock(&r->lock);
        raise(SIGKILL);
    }
    waitpid(pid, NULL, 0);
    EXPECT_EQ(metrics_rows_tenant(r, 1, "acme", &key), 0);
    EXPECT_EQ(metrics_rows_adapter(r, 1, "acme", "a", &key), 0);
    shared_unmap(r, sizeof *r);
}

/* ---- rows of tenants that are gone --------------------------------------------------- */

static bool is_even(int64_t id, void *ud)
{
    (void)ud;
    return id % 2 == 0;
}

TEST(metrics_rows_of_removed_tenants_are_others_later)
{
    struct metrics_slots *all = metrics_slots_new(2);
    const struct metrics one = {all, 0}, two = {all, 1};
    for (int id = 1; id <= METRICS_TENANTS; id++) {
        count_adapters(id % 3 ? &one : &two, id, METRICS_OWN + 2);
        metrics_tenant(&one, id, "x")->prompt_tokens += 100;
        metrics_tenant(&two, id, "x")->prompt_tokens += 10;
    }
    EXPECT_LINE(all, "prefixd_tenant_prompt_tokens_total{tenant=\"t7\"} 110");
    metrics_forget(all, is_even, NULL);
    EXPECT(!page_has(all, "tenant=\"t8\""));
    EXPECT_EQ(n_rows_of(all, 8), 0);
    for (int id = 1001; id < 1001 + METRICS_TENANTS / 2; id++) {
        count_adapters(&two, id, METRICS_OWN);
        EXPECT_EQ(n_rows_of(all, id), METRICS_OWN);
        metrics_tenant(&two, id, "x")->prompt_tokens += 1;
    }
    EXPECT_LINE(all, "prefixd_tenant_prompt_tokens_total{tenant=\"t1001\"} 1");
    EXPECT_LINE(all, "prefixd_adapter_requests_total{tenant=\"t1001\",adapter=\"a0\"} 1");
    EXPECT_LINE(all, "prefixd_tenant_prompt_tokens_total{tenant=\"t7\"} 110");
    EXPECT_LINE(all, "prefixd_adapter_requests_total{tenant=\"t7\",adapter=\"a0\"} 1");
    EXPECT(!page_has(all, "=\"_other\""));
    metrics_tenant(&one, 8, "t8")->prompt_tokens++; /* was still running; no row is left */
    EXPECT_LINE(all, "prefixd_tenant_prompt_tokens_total{tenant=\"_other\"} 1");
    metrics_slots_free(all);
}

/* The same name again is another tenant, who begins with nothing. */
TEST(metrics_rows_are_by_tenant_not_by_name)
{
    struct metrics_slots *all = metrics_slots_new(1);
    const struct metrics m = {all, 0};
    metrics_tenant(&m, 2, "acme")->prompt_tokens += 5;
    metrics_forget(all, is_even, NULL);
    metrics_tenant(&m, 3, "acme")->prompt_tokens += 1;
    EXPECT_LINE(all, "prefixd_tenant_prompt_tokens_total{tenant=\"acme\"} 1");
    metrics_tenant(&m, 2, "gone")->prompt_tokens += 1;
    EXPECT_LINE(all, "prefixd_tenant_prompt_tokens_total{tenant=\"gone\"} 1");
    EXPECT_LINE(all, "prefixd_tenant_prompt_tokens_total{tenant=\"acme\"} 1");
    metrics_slots_free(all);
}

/* One counts on and on for tenants that stay, others come and go beside it. */
static void churn(struct metrics_slots *all, int place)
{
    const struct metrics m = {all, place};
    for (int64_t i = 0;; i++) {
        int64_t id = 1001 + i % (2 * METRICS_TENANTS) + place;
        char name[24];
        snprintf(name, sizeof name, "t%d", (int)id);
        metrics_tenant(&m, id, name)->prompt_tokens += 1000;
        (*metrics_adapter_requests(&m, id, name, "a")) += 1000;
    }
}

static bool comes_and_goes(int64_t id, void *ud)
{
    (void)ud;
    return id > 1000;
}

static void expect_names_once(const struct metrics_totals *t)
{
    bool seen[1001 + 2 * METRICS_TENANTS + N_WORKERS] = {0};
    for (int i = 0; i < METRICS_TENANTS; i++) {
        if (!t->tenant_rows[i].key)
            continue;
        int id = atoi(t->tenant_rows[i].tenant + 1);
        EXPECT_EQ(t->tenant_rows[i].key, id + 1);
        EXPECT(!seen[id]);
        seen[id] = true;
    }
}

TEST(metrics_rows_that_stay_never_go_back)
{
    struct metrics_slots *all = metrics_slots_new(N_WORKERS);
    const struct metrics m = {all, 0};
    pid_t pids[N_WORKERS];
    for (int id = 1; id <= 20; id++)
        count_adapters(&m, id, 3);
    for (int i = 1; i < N_WORKERS; i++)
        if ((pids[i] = fork()) == 0)
            churn(all, i);
    for (int n = 0; n < 300; n++) {
        for (int id = 1; id <= 20; id++)
            metrics_tenant(&m, id, "x")->prompt_tokens++;
        struct metrics_totals *sum = sum_of(all);
        expect_names_once(sum);
        for (int i = 0; i < 20; i++)
            EXPECT_EQ(sum->tenants[i].prompt_tokens, n + 1);
        for (int i = 0; i < 60; i++)
            EXPECT_EQ(sum->adapter_requests[i], 1);
        free(sum);
        metrics_forget(all, comes_and_goes, NULL);
        if (n == 150)
            kill(pids[1], SIGKILL); /* perhaps while it takes a row */
    }
    for (int i = 1; i < N_WORKERS; i++) {
        kill(pids[i], SIGKILL);
        waitpid(pids[i], NULL, 0);
    }
    metrics_slots_free(all);
}
