/* The fairness of the engine over wall time: tokens per tenant, and what a flood of one does to another's
 * first token.
 * first token. Prints figures; SOAK_SECONDS (60) for each. For a machine that does nothing else. */
#include <stdio.h>
#include <stdlib.h>

#include "core/base/mem.h"
#include "tests/support/tenants.h"
#include "tests/support/tiny.h"
#include "tests/test.h"

enum { MAX_TENANTS = 20, REQUEST = 32, PLACES = 32, ROUNDS = 4 };

static const struct engine_opts opts = {.n_threads = 1, .max_batch = PLACES};
static int64_t duration_us(void)
{
    const char *s = getenv("SOAK_SECONDS");
    double seconds = s ? atof(s) : 60;
    return (int64_t)((seconds > 0 ? seconds : 60) * 1e6);
}

/* n tenants with full backlogs; the largest distance from the mean of tokens per weight, in percent. */
static void shares(int n, uint32_t weight, double limit)
{
    struct base_model *b = tiny_open(TINY_DEMO);
    struct tenant t[MAX_TENANTS] = {{0}};
    int64_t us = duration_us();
    double mean = 0, worst = 0;
    long all = 0;
    for (int i = 0; i < n; i++)
        t[i] = (struct tenant){.weight = i % 2 ? weight : 1, .backlog = 2 * PLACES, .n_prompt = 12,
                               .max_tokens = REQUEST};
    struct tenants *l = tenants_open(b, opts, t, n);
    tenants_run(l, 0, us);
    for (int i = 0; i < n; i++) {
        all += t[i].n_tokens;
        mean += (double)t[i].n_tokens / t[i].weight / n;
    }
    for (int i = 0; i < n; i++) {
        double off = 100 * ((double)t[i].n_tokens / t[i].weight / mean - 1);
        off = off < 0 ? -off : off;
        worst = off > worst ? off : worst;
    }
    tenants_close(l);
    base_model_free(b);
    printf("  %d tenants, weights 1:%u: %.0f tokens/s, %.2f %% off the mean at most\n", n, weight,
           (double)all * 1e6 / (double)us, worst);
    EXPECT(worst <= limit);
}

/* p95 of the light tenant's first token beside a heavy one with so many requests under way. */
static int64_t light_p95(const struct base_model *b, int backlog, int max_tokens, int64_t us)
{
    struct tenant t[2] = {
        {.weight = 1, .backlog = backlog, .n_prompt = 12, .max_tokens = max_tokens},
        {.weight = 1, .backlog = 1, .n_prompt = 12, .max_tokens = 8, .pause_us = 20000}};
    struct tenants *l = tenants_open(b, opts, t, 2);
    tenants_run(l, 0, us / 10);
    tenants_reset(l);
    tenants_run(l, 0, us);
    int64_t p95 = tenant_ttft(&t[1], 95);
    tenants_close(l);
    return p95;
}

/* In turns, so that a slow moment of the machine meets both. */
static void flood(int max_tokens)
{
    struct base_model *b = tiny_open(TINY_DEMO);
    int64_t us = duration_us();
    int64_t twice = 0, ten_times = 0;
    for (int i = 0; i < ROUNDS; i++) {
        twice += light_p95(b, 2 * PLACES / 2, max_tokens, us / ROUNDS) / ROUNDS;
        ten_times += light_p95(b, 10 * PLACES / 2, max_tokens, us / ROUNDS) / ROUNDS;
    }
    base_model_free(b);
    double ratio = (double)ten_times / (double)twice;
    printf("  light tenant's p95 of first token: %lld us beside 2 x the share, %lld us beside 10 x "
           "(requests of %d): %.2f\n",
           (long long)twice, (long long)ten_times, max_tokens, ratio);
    EXPECT(ratio <= 1.25);
}

TEST(soak_equal_weights_get_equal_tokens)
{
    shares(2, 1, 5);
    shares(7, 1, 5);
    shares(20, 1, 5);
}

TEST(soak_tokens_follow_weights)
{
    shares(2, 3, 10);
}

TEST(soak_a_flood_leaves_anothers_first_token_alone)
{
    flood(REQUEST);
    flood(1000);
}
