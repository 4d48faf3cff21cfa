/* Counts of several workers add up, never go back over deaths, and have few enough rows. */
#include "server/metrics_text.h"

#include "adapters/adapters.h"
#include "core/base/mem.h"
#include "core/engine.h"
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

static void expect_rows_once(const struct metrics_slots *all)
{
    struct metrics_counts *sum = xcalloc(1, sizeof *sum);
    struct metrics_gauges gauges;
    struct metrics_row row;
    uint64_t deaths;
    bool seen[N_TENANTS] = {0};
    metrics_sum(all, sum, &gauges, &deaths);
    for (int i = 0; i < METRICS_TENANTS; i++) {
        EXPECT_EQ(sum->tenants[i].outcomes[METRICS_OUTCOME_ok], N_WORKERS);
        EXPECT(metrics_tenant_row(all, i, &row));
        int id = atoi(row.tenant + 1);
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
        EXPECT_LINE(all,
                    "prefixd_adapter_requests_total{tenant=\"t3\",adapter=\"support\"} 4");
        metrics_slots_free(all);
    }
}

TEST(metrics_rows_of_adapters_are_bounded)
{
    struct metrics_slots *all = metrics_slots_new(1);
    const struct metrics m = {all, 0};
    char name[16];
    for (int i = 0; i < METRICS_ADAPTERS + 10; i++) {
        snprintf(name, sizeof name, "a%d", i);
        (*metrics_adapter_requests(&m, 1, "acme", name))++;
    }
    (*metrics_adapter_requests(&m, 2, "other", "a1"))++; /* another adapter */
    (*metrics_adapter_requests(&m, 1, "acme", "a1"))++;
    EXPECT_LINE(all, "prefixd_adapter_requests_total{tenant=\"acme\",adapter=\"a1\"} 2");
    EXPECT_LINE(all,
                "prefixd_adapter_requests_total{tenant=\"_other\",adapter=\"_other\"} 11");
    metrics_slots_free(all);
}
