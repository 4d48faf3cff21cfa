/* How many prompt rows a step takes, against made-up machines whose costs are known. */
#include "core/pace.h"

#include "tests/support/rng.h"
#include "tests/test.h"

enum { MOST = 256, FAR = 1 << 20 };

struct machine { /* microseconds */
    double fixed, decode, row, context;
    double noise; /* a step takes up to so much of its time more */
};

static const struct machine plain = {8000, 800, 400, 1000, 0};

struct desk {
    struct machine m;
    struct pace pace;
    struct rng rng;
};

static struct desk desk_of(const struct machine *m, int target_ms)
{
    struct desk d = {.m = *m, .rng = {7}};
    pace_init(&d.pace, MOST, target_ms, 1000);
    return d;
}

static double time_of(struct desk *d, int n_decoding, int n, int pos)
{
    double rows = n + ((double)n * pos + n * (n - 1) / 2.0) / d->m.context;
    double us = d->m.fixed + d->m.decode * n_decoding + d->m.row * rows;
    return us * (1 + d->m.noise * rng_below(&d->rng, 1000) / 1000.0);
}

/* A step with the rows that the pace gives; how many they were, and in *us how long it took. */
static int step(struct desk *d, int n_decoding, int64_t left, int pos, double *us)
{
    struct pace_load load = {n_decoding, left, pos};
    int n = pace_rows(&d->pace, &load);
    n = n < left ? n : (int)left;
    struct pace_step s = {n_decoding, n, (int64_t)n * pos + (int64_t)n * (n - 1) / 2};
    *us = time_of(d, n_decoding, n, pos);
    pace_learn(&d->pace, &s, *us);
    return n;
}

static void decode_alone(struct desk *d, int n_decoding, int n_steps)
{
    double us;
    while (n_steps-- > 0)
        step(d, n_decoding, 0, 0, &us);
}

TEST(pace_takes_all_where_nobody_waits)
{
    struct desk d = desk_of(&plain, 0);
    double us;
    EXPECT_EQ(step(&d, 0, FAR, 0, &us), MOST);
    decode_alone(&d, 8, 10);
    for (int i = 0; i < 20; i++)
        step(&d, 8, FAR, 0, &us);
    EXPECT_EQ(step(&d, 0, FAR, 5000, &us), MOST);
    d = desk_of(&plain, -1);
    EXPECT_EQ(step(&d, 8, FAR, 0, &us), MOST);
}

/* Twice 8000 + 8 * 800 leaves 14400: 36 rows of 400. */
TEST(pace_settles_at_twice_the_decoding_rows)
{
    struct desk d = desk_of(&plain, 0);
    double us;
    decode_alone(&d, 8, 5);
    EXPECT_EQ(step(&d, 8, FAR, 0, &us), PACE_LEAST);
    int n = 0;
    for (int i = 0; i < 10; i++)
        n = step(&d, 8, FAR, 0, &us);
    EXPECT(n >= 34 && n <= 36);
    EXPECT(us <= 2 * 14400);
}

TEST(pace_keeps_a_target_in_milliseconds)
{
    struct desk d = desk_of(&plain, 40);
    double us = 0;
    decode_alone(&d, 8, 5);
    for (int i = 0; i < 12; i++)
        step(&d, 8, FAR, 0, &us);
    EXPECT(us > 37000 && us <= 40000);
    d = desk_of(&plain, 1); /* less than decoding takes */
    decode_alone(&d, 8, 5);
    for (int i = 0; i < 12; i++)
        EXPECT_EQ(step(&d, 8, FAR, 0, &us), PACE_LEAST);
}

/* Whatever the context, the time stays and the rows become fewer; also where the machine's attention is
 * dearer than the pace was told, and at once where the next prompt has a long prefix. */
TEST(pace_follows_the_context)
{
    static const double contexts[] = {1000, 600};
    for (int c = 0; c < 2; c++) {
        struct desk d = desk_of(&plain, 0);
        d.m.context = contexts[c];
        double us;
        int first = 0, last = 0;
        decode_alone(&d, 40, 5);
        for (int pos = 0; pos < 2000; pos += last) {
            last = step(&d, 40, FAR, pos, &us);
            EXPECT(us <= 2.1 * 40000);
            first = last > first ? last : first;
        }
        EXPECT(last <= first / 2);
    }
    struct desk d = desk_of(&plain, 0);
    double us;
    decode_alone(&d, 16, 5);
    for (int i = 0; i < 10; i++)
        step(&d, 16, FAR, 0, &us);
    int near = step(&d, 16, FAR, 0, &us), distant = step(&d, 16, FAR, 1000, &us);
    EXPECT(near >= 50 && distant <= near / 2 + 2);
    EXPECT(us <= 2 * (8000 + 16 * 800));
}

/* A number of decoding rows that was never alone: after a few steps of the least they are timed. */
TEST(pace_times_decoding_rows_that_are_never_alone)
{
    struct desk d = desk_of(&plain, 0);
    double us;
    int n_alone = 0, most = 0;
    for (int i = 0; i < 300; i++) {
        int n = step(&d, 20, FAR, 0, &us);
        n_alone += n == 0;
        most = n > most ? n : most;
        EXPECT(i >= PACE_NEW || n == PACE_LEAST);
    }
    EXPECT(n_alone >= 1 && n_alone <= 1 + 300 / PACE_AGE);
    EXPECT(most >= 55 && most <= 60); /* (8000 + 20 * 800) / 400 */
}

/* A short rest does not cost another step; what is longer than the piece itself does. */
TEST(pace_takes_a_short_rest_along)
{
    struct desk d = desk_of(&plain, 0);
    double us;
    decode_alone(&d, 8, 5);
    EXPECT_EQ(step(&d, 8, 2 * PACE_LEAST, 0, &us), 2 * PACE_LEAST);
    d = desk_of(&plain, 0);
    decode_alone(&d, 8, 5);
    EXPECT_EQ(step(&d, 8, 2 * PACE_LEAST + 1, 0, &us), PACE_LEAST);
    pace_init(&d.pace, PACE_LEAST + 2, 0, 1000);
    decode_alone(&d, 8, 5);
    EXPECT_EQ(step(&d, 8, 2 * PACE_LEAST, 0, &us), PACE_LEAST + 2); /* but there is room for no more */
}

/* The least is no more than there is room for, and few rows teach nothing. */
TEST(pace_has_a_floor_and_a_ceiling)
{
    struct desk d = desk_of(&plain, 0);
    double us;
    d.m.row = 20000;
    decode_alone(&d, 8, 5);
    for (int i = 0; i < 20; i++)
        EXPECT_EQ(step(&d, 8, FAR, 0, &us), PACE_LEAST);
    d.m.row = 1;
    for (int i = 0; i < 60; i++)
        EXPECT(step(&d, 8, FAR, 0, &us) <= MOST);
    pace_init(&d.pace, 3, 0, 1000);
    decode_alone(&d, 8, 5);
    for (int i = 0; i < 20; i++)
        EXPECT_EQ(step(&d, 8, FAR, 0, &us), 3);
    EXPECT(d.pace.row_us <= 0);
}

/* A first mixed step that took no longer than decoding alone: rows are not free for that. */
TEST(pace_does_not_trust_one_time)
{
    struct desk d = desk_of(&plain, 0);
    double us;
    decode_alone(&d, 8, 5);
    d.m.row = 0;
    EXPECT_EQ(step(&d, 8, FAR, 0, &us), PACE_LEAST);
    d.m.row = 400;
    EXPECT(step(&d, 8, FAR, 0, &us) <= 2 * PACE_LEAST);
}

/* On a machine whose steps take up to 40 % longer at random, so that the decoding rows alone often take 1.4
 * times what they need, and where one step in fifty takes far longer. */
TEST(pace_bears_noise)
{
    struct machine noisy = plain;
    struct desk d = desk_of(&noisy, 0);
    double us;
    int n_rows = 0, n_steps = 0, n_late = 0;
    d.m.noise = 0.4;
    decode_alone(&d, 8, 20);
    for (int i = 0; i < 2000; i++) {
        struct machine m = d.m;
        if (i % 50 == 49)
            d.m.fixed *= 10;
        int n = step(&d, 8, FAR, 0, &us);
        d.m = m;
        if (i % 50 == 49 || n == 0)
            continue;
        n_steps++;
        n_rows += n;
        n_late += us > 2.5 * 1.4 * 14400;
    }
    EXPECT(n_late * 100 <= n_steps);
    EXPECT(n_rows >= n_steps * 20); /* and prompts still move */
}
