/* A small unit-test harness: cases register themselves, the runner decides by exit code.
 *
 *     TEST(buf_grows_by_doubling)
 *     {
 *         struct buf b = {0};
 *         buf_add_str(&b, "abc");
 *         EXPECT_EQ(b.len, 3);
 *         buf_free(&b);
 *     }
 *
 * A failed EXPECT is printed with its place and marks the case; ASSERT also leaves the case. SKIP says
 * why a case cannot run here, leaves it, and is counted apart from passed ones. */
#ifndef PREFIXD_TEST_H
#define PREFIXD_TEST_H

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

struct test_case {
    const char *name, *file;
    void (*run)(void);
    struct test_case *next;
};

void test_register(struct test_case *c);
void test_fail(const char *file, int line, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
void test_skip(const char *why);
const char *test_root(void);   /* the project's root folder, from PREFIXD_ROOT or "." */
const char *test_shared(void); /* "<root>/../shared" if it exists, else NULL */
char *test_path(const char *rel); /* "<root>/rel"; caller frees */

#define TEST(name)                                                                               \
    static void test_##name(void);                                                               \
    static struct test_case case_##name = {#name, __FILE__, test_##name, NULL};                  \
    __attribute__((constructor)) static void register_##name(void)                               \
    {                                                                                            \
        test_register(&case_##name);                                                             \
    }                                                                                            \
    static void test_##name(void)

#define EXPECT(cond)                                                                             \
    do {                                                                                         \
        if (!(cond))                                                                             \
            test_fail(__FILE__, __LINE__, "expected %s", #cond);                                 \
    } while (0)

#define EXPECT_EQ(a, b)                                                                          \
    do {                                                                                         \
        long long a_ = (long long)(a), b_ = (long long)(b);                                      \
        if (a_ != b_)                                                                            \
            test_fail(__FILE__, __LINE__, "%s is %lld, expected %s = %lld", #a, a_, #b, b_);     \
    } while (0)

#define EXPECT_STR(a, b)                                                                         \
    do {                                                                                         \
        const char *a_ = (a), *b_ = (b);                                                         \
        if (!a_ || !b_ || strcmp(a_, b_) != 0)                                                   \
            test_fail(__FILE__, __LINE__, "%s is \"%s\", expected \"%s\"", #a,                   \
                      a_ ? a_ : "(null)", b_ ? b_ : "(null)");                                   \
    } while (0)

#define ASSERT(cond)                                                                             \
    do {                                                                                         \
        if (!(cond)) {                                                                           \
            test_fail(__FILE__, __LINE__, "needed %s", #cond);                                   \
            return;                                                                              \
        }                                                                                        \
    } while (0)

#define SKIP(why)                                                                                \
    do {                                                                                         \
        test_skip(why);                                                                          \
        return;                                                                                  \
    } while (0)

#endif
