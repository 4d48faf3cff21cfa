/* The sampler against a brute-force reference, and its noise. */
#include "core/sampler.h"

#include <math.h>
#include <stdlib.h>

#include "core/base/mem.h"
#include "tests/support/rng.h"
#include "tests/test.h"

enum { MAX_VOCAB = 5000 };

struct dist { /* what the filters leave of the softmax, in double */
    int n;
    float logits[MAX_VOCAB];
    double p[MAX_VOCAB];
    int order[MAX_VOCAB]; /* by logit, ties by lower id */
};

static struct dist *sorting; /* qsort has no argument for it */

static int by_logit(const void *a, const void *b)
{
    int x = *(const int *)a, y = *(const int *)b;
    if (sorting->logits[x] != sorting->logits[y])
        return sorting->logits[x] > sorting->logits[y] ? -1 : 1;
    return x < y ? -1 : 1;
}

static double total_of(const struct dist *d)
{
    double sum = 0;
    for (int i = 0; i < d->n; i++)
        sum += d->p[i];
    return sum;
}

static void keep_top_p(struct dist *d, double top_p)
{
    double sum = 0, total = total_of(d);
    for (int i = 0; i < d->n; i++) {
        double p = d->p[d->order[i]];
        if (i && sum >= top_p * total)
            d->p[d->order[i]] = 0;
        sum += p;
    }
}

/* temperature, min_p, top_k, top_p, in this order, each by its definition. */
static void dist_filter(struct dist *d, const struct sampling *s)
{
    sorting = d;
    for (int i = 0; i < d->n; i++)
        d->order[i] = i;
    qsort(d->order, (size_t)d->n, sizeof *d->order, by_logit);
    double max = (double)d->logits[d->order[0]];
    for (int i = 0; i < d->n; i++) {
        d->p[i] = exp(((double)d->logits[i] - max) / (double)s->temperature);
        if (d->p[i] < (double)s->min_p * (1 - 1e-6))
            d->p[i] = 0;
    }
    for (int i = s->top_k; s->top_k && i < d->n; i++)
        d->p[d->order[i]] = 0;
    if (s->top_p < 1)
        keep_top_p(d, (double)s->top_p);
    double total = total_of(d);
    for (int i = 0; i < d->n; i++)
        d->p[i] /= total;
}

static int32_t pick(const struct dist *d, const struct sampling *s, uint32_t choice,
                    uint32_t pos)
{
    static float copy[MAX_VOCAB];
    memcpy(copy, d->logits, sizeof copy);
    return sampler_pick(copy, d->n, s, choice, pos, (struct sampler_ban){NULL, 0},
                        kernels_get());
}

/* Frequencies over many positions: none outside, and chi-square within five sigma of its
 * mean. */
static void expect_frequencies(const struct dist *d, const struct sampling *s, int n_draws)
{
    int *seen = xcalloc((size_t)d->n, sizeof *seen), n_cells = 0;
    double chi = 0, rest_expected = 0, rest_seen = 0;
    for (int i = 0; i < n_draws; i++) {
        int32_t id = pick(d, s, (uint32_t)i % 3, (uint32_t)i / 3);
        if (id < 0 || id >= d->n || d->p[id] <= 0)
            test_fail(__FILE__, __LINE__, "token %d should have been filtered out", id);
        else
            seen[id]++;
    }
    for (int i = 0; i < d->n; i++) {
        double expected = d->p[i] * n_draws;
        if (expected < 8) {
            rest_expected += expected;
            rest_seen += seen[i];
            continue;
        }
        chi += (seen[i] - expected) * (seen[i] - expected) / expected;
        n_cells++;
    }
    if (rest_expected >= 8) {
        chi += (rest_seen - rest_expected) * (rest_seen - rest_expected) / rest_expected;
        n_cells++;
    }
    if (chi > n_cells - 1 + 5 * sqrt(2.0 * n_cells))
        test_fail(__FILE__, __LINE__,
                  "chi-square %.1f over %d cells (T %g, top_p %g, top_k %d, min_p %g)", chi,
                  n_cells, (double)s->temperature, (double)s->top_p, s->top_k,
                  (double)s->min_p);
    free(seen);
}

static void check_case(struct rng *r, int vocab, struct sampling s, int n_draws)
{
    static struct dist d;
    d.n = vocab;
    rng_fill(r, d.logits, (size_t)vocab, 2);
    for (int i = 0; i + 5 < vocab; i += 5)
        d.logits[i + 2] = d.logits[i]; /* ties */
    s.seed = rng_next(r);
    dist_filter(&d, &s);
    expect_frequencies(&d, &s, n_draws);
}

static const struct sampling filters[] = {
    {1, 1, 0, 0, 0},        {0.5f, 1, 0, 0, 0},      {2, 1, 0, 0, 0},
    {1, 0.9f, 0, 0, 0},     {1, 0.5f, 0, 0, 0},      {1, 0.01f, 0, 0, 0},
    {1, 1, 0, 1, 0},        {1, 1, 0, 7, 0},         {1.3f, 1, 0.1f, 0, 0},
    {0.7f, 1, 0.02f, 0, 0}, {1, 1, 1, 0, 0},         {1, 0.8f, 0, 10, 0},
    {2, 0.7f, 0.05f, 0, 0}, {2, 0.9f, 0.01f, 12, 0}, {1, 0.95f, 0, 100000, 0},
    {1, 1e-6f, 0, 0, 0},    {2, 0.99999f, 0, 0, 0},  {1, 1, 0, 300, 0},
    {2, 0.9f, 0, 300, 0},   {1, 0.8f, 1e-4f, 90, 0}, {2, 1, 1e-30f, 0, 0},
};

enum { N_FILTERS = sizeof filters / sizeof filters[0] };

TEST(sampler_frequencies_of_small_vocabularies)
{
    struct rng r = {31};
    for (int i = 0; i < N_FILTERS; i++)
        for (int vocab = 1; vocab <= 60; vocab = vocab * 3 + 1)
            check_case(&r, vocab, filters[i], 3000);
}

/* Large enough that few candidates do not decide and the plain walk takes several pieces. */
TEST(sampler_frequencies_of_large_vocabularies)
{
    struct rng r = {32};
    for (int i = 0; i < N_FILTERS; i++)
        check_case(&r, MAX_VOCAB - i, filters[i], 1500);
}

TEST(sampler_greedy_takes_the_lowest_id_of_the_best)
{
    float x[6] = {1, 3, -2, 3, 3, 0};
    struct sampling s = {.top_p = 1};
    struct sampler_ban none = {NULL, 0};
    EXPECT_EQ(sampler_pick(x, 6, &s, 0, 0, none, kernels_get()), 1);
    int32_t ids[2] = {1, 3};
    EXPECT_EQ(sampler_pick(x, 6, &s, 0, 0, (struct sampler_ban){ids, 2}, kernels_get()), 4);
}

TEST(sampler_never_takes_what_is_banned)
{
    struct rng r = {33};
    static struct dist d;
    int32_t ids[3] = {0, 4, 7};
    d.n = 8;
    for (int i = 0; i < N_FILTERS; i++)
        for (uint32_t pos = 0; pos < 300; pos++) {
            rng_fill(&r, d.logits, 8, 1);
            d.logits[4] = 9;
            struct sampling s = filters[i];
            int32_t id = sampler_pick(d.logits, 8, &s, 0, pos, (struct sampler_ban){ids, 3},
                                      kernels_get());
            EXPECT(id > 0 && id < 7 && id != 4);
        }
}

/* As the temperature falls, sampling becomes greedy: also where 1 / temperature leaves f32.
 */
TEST(sampler_at_tiny_temperatures_is_greedy)
{
    static const float cold[] = {1e-3f, 1e-6f, 1e-20f, 1e-38f, 1e-39f, 1e-45f};
    struct rng r = {34};
    static struct dist d;
    for (size_t i = 0; i < sizeof cold / sizeof cold[0]; i++)
        for (int f = 0; f < N_FILTERS; f++) {
            d.n = 300;
            rng_fill(&r, d.logits, 300, 2);
            d.logits[123] = 40;
            d.logits[7] = 39;
            struct sampling s = filters[f];
            s.temperature = cold[i];
            for (uint32_t pos = 0; pos < 20; pos++)
                EXPECT_EQ(pick(&d, &s, 0, pos), 123);
        }
}

TEST(sampler_refuses_logits_that_are_not_finite)
{
    static struct dist d;
    const struct sampling greedy = {.top_p = 1}, hot = {.temperature = 1, .top_p = 0.9f};
    for (int i = 0; i < 3; i++) {
        float bad = i == 0 ? NAN : INFINITY;
        d.n = 50;
        for (int j = 0; j < 50; j++)
            d.logits[j] = i == 2 ? -INFINITY : 1;
        if (i < 2)
            d.logits[i * 40] = bad;
        struct token_score top[5];
        float score = sampler_score(d.logits, 50, 3, 5, top, kernels_get());
        EXPECT_EQ(pick(&d, &greedy, 0, 0), -1);
        EXPECT_EQ(pick(&d, &hot, 0, 0), -1);
        EXPECT(score != score);
    }
}

TEST(sampler_scores_are_log_probabilities)
{
    struct rng r = {35};
    static struct dist d;
    for (int vocab = 1; vocab < MAX_VOCAB; vocab = vocab * 4 + 1) {
        const struct sampling plain = {.temperature = 1, .top_p = 1};
        struct token_score top[20];
        int n_top = vocab < 20 ? vocab : 20;
        d.n = vocab;
        rng_fill(&r, d.logits, (size_t)vocab, 3);
        if (vocab > 30)
            d.logits[30] = d.logits[4] = 20; /* a tie at the top */
        dist_filter(&d, &plain);
        for (int id = 0; id < vocab; id += 1 + vocab / 50) {
            float score = sampler_score(d.logits, vocab, id, n_top, top, kernels_get());
            EXPECT(fabs((double)score - log(d.p[id])) < 3e-6 * (1 + fabs(log(d.p[id]))));
        }
        for (int i = 0; i < n_top; i++) {
            EXPECT_EQ(top[i].id, d.order[i]);
            EXPECT(top[i].logprob ==
                   sampler_score(d.logits, vocab, top[i].id, 0, NULL, kernels_get()));
        }
    }
}

/* ---- noise
 * ---------------------------------------------------------------------------------------
 */

static double chi_of_noise(uint64_t seed, uint32_t choice, uint32_t step)
{
    enum { CELLS = 64, DRAWS = 64 * 1000 };
    int seen[CELLS] = {0};
    double chi = 0;
    for (uint32_t i = 0; i < DRAWS; i++) {
        double u = sampler_noise(seed, choice + i * step, i * !step);
        EXPECT(u >= 0 && u < 1);
        seen[(int)(u * CELLS)]++;
    }
    for (int i = 0; i < CELLS; i++)
        chi += (seen[i] - 1000.0) * (seen[i] - 1000.0) / 1000;
    return chi;
}

TEST(sampler_noise_is_uniform)
{
    for (uint64_t seed = 0; seed < 6; seed++) {
        EXPECT(fabs(chi_of_noise(seed, 0, 0) - 63) < 5 * sqrt(2 * 63)); /* over positions */
        EXPECT(fabs(chi_of_noise(seed, 0, 1) - 63) < 5 * sqrt(2 * 63)); /* over choices */
    }
}

TEST(sampler_noise_of_neighbours_is_not_related)
{
    enum { DRAWS = 100000 };
    double by_pos = 0, by_choice = 0, by_seed = 0, limit = 5.0 / 12 / sqrt(DRAWS);
    for (uint32_t i = 0; i < DRAWS; i++) {
        double u = sampler_noise(1, 0, i) - 0.5;
        by_pos += u * (sampler_noise(1, 0, i + 1) - 0.5);
        by_choice += u * (sampler_noise(1, 1, i) - 0.5);
        by_seed += u * (sampler_noise(2, 0, i) - 0.5);
    }
    EXPECT(fabs(by_pos / DRAWS) < limit);
    EXPECT(fabs(by_choice / DRAWS) < limit);
    EXPECT(fabs(by_seed / DRAWS) < limit);
    EXPECT(sampler_noise(7, 3, 9) == sampler_noise(7, 3, 9));
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* Small seeds, choices and positions lie close together: no two of them may share a number.
 */
TEST(sampler_noise_streams_do_not_meet)
{
    enum { SEEDS = 16, CHOICES = 8, POSITIONS = 256, ALL = SEEDS * CHOICES * POSITIONS };
    double *u = xcalloc(ALL, sizeof *u);
    for (uint32_t i = 0; i < ALL; i++)
        u[i] = sampler_noise(i / (CHOICES * POSITIONS), i / POSITIONS % CHOICES,
                             i % POSITIONS);
    qsort(u, ALL, sizeof *u, by_value);
    for (int i = 1; i < ALL; i++)
        EXPECT(u[i] > u[i - 1]);
    free(u);
}
