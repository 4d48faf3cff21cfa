/* Something done aside: its result, its error, nothing at all. */
#include "adapters/aside.h"

#include "tests/test.h"

static int add_one(void *ud, struct err *err)
{
    int *n = ud;
    if (++*n < 3)
        return 0;
    return err_set(err, ERR_IO, "three is too many");
}

TEST(aside_brings_results_and_errors)
{
    struct aside a = {0};
    struct err err = {0};
    int n = 0;
    EXPECT_EQ(aside_end(&a, &err), 0);
    for (int i = 1; i <= 3; i++) {
        aside_begin(&a, add_one, &n);
        EXPECT_EQ(aside_end(&a, &err), i < 3 ? 0 : -1);
        EXPECT_EQ(n, i);
    }
    EXPECT_EQ(err.code, ERR_IO);
    EXPECT_STR(err.msg, "three is too many");
    EXPECT_EQ(aside_end(&a, NULL), 0);
    EXPECT_EQ(n, 3);
}
