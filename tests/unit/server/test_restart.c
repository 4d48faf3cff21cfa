/* Restarts: three at once, then waits that double up to a cap. */
#include "server/restart.h"

#include "tests/test.h"

enum { SECOND = 1000000 };

TEST(restart_is_free_three_times_in_ten_seconds)
{
    struct restart r = {0};
    int64_t t = 5 * SECOND;
    for (int i = 0; i < 3; i++)
        EXPECT_EQ(restart_delay_us(&r, t + i * SECOND), 0);
    EXPECT_EQ(restart_delay_us(&r, t + 3 * SECOND), RESTART_MIN_US);
    EXPECT_EQ(restart_delay_us(&r, t + 4 * SECOND), 2 * RESTART_MIN_US);
}

TEST(restart_is_free_for_deaths_far_apart)
{
    struct restart r = {0};
    for (int i = 0; i < 50; i++)
        EXPECT_EQ(restart_delay_us(&r, i * (int64_t)(RESTART_WINDOW_US / 3 + 1)), 0);
}

TEST(restart_forgets_after_a_quiet_time)
{
    struct restart r = {0};
    int64_t t = 0;
    for (int i = 0; i < 6; i++)
        t += restart_delay_us(&r, t);
    EXPECT(restart_delay_us(&r, t) > RESTART_MIN_US);
    t += r.last_us + RESTART_WINDOW_US;
    for (int i = 0; i < 3; i++)
        EXPECT_EQ(restart_delay_us(&r, t), 0);
    EXPECT_EQ(restart_delay_us(&r, t), RESTART_MIN_US);
}

/* A worker that dies as soon as it starts: its waits grow for ever, though it dies less
 * and less often. */
TEST(restart_backs_off_to_the_cap_and_stays_there)
{
    struct restart r = {0};
    int64_t t = 0, last = 0;
    for (int i = 0; i < 40; i++) {
        int64_t wait = restart_delay_us(&r, t);
        EXPECT(wait >= last && wait <= RESTART_MAX_US);
        last = wait;
        t += wait + SECOND / 10;
    }
    EXPECT_EQ(last, RESTART_MAX_US);
}
