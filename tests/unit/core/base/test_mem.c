/* Allocation wrappers. */
#include "core/base/mem.h"

#include <stdint.h>
#include <stdlib.h>

#include "tests/test.h"

TEST(mem_mul_sees_overflow)
{
    size_t out = 0;
    EXPECT(mem_mul(SIZE_MAX / 2, 2, &out) && out == SIZE_MAX - 1);
    EXPECT(!mem_mul(SIZE_MAX / 2 + 1, 2, &out));
    EXPECT(mem_mul(0, SIZE_MAX, &out) && out == 0);
}

/* Sanitizers' allocators end the program where the C library gives NULL. */
#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define HAS_SANITIZER 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define HAS_SANITIZER 1
#endif

TEST(mem_try_gives_null_where_x_would_abort)
{
#ifdef HAS_SANITIZER
    SKIP("the sanitizer's allocator does not give NULL");
#endif
    EXPECT(mem_try_calloc(SIZE_MAX / 2, 3) == NULL);
    EXPECT(mem_try_aligned(SIZE_MAX / 2, 3) == NULL);
    EXPECT(mem_try_aligned(1, SIZE_MAX - 10) == NULL);
    EXPECT(mem_try_aligned(1, SIZE_MAX - 64) == NULL);
}

TEST(mem_try_aligned_is_aligned_and_zeroed)
{
    for (size_t n = 0; n < 300; n += 7) {
        unsigned char *p = mem_try_aligned(n, 1);
        ASSERT(p != NULL);
        EXPECT_EQ((uintptr_t)p % 64, 0);
        for (size_t i = 0; i < n; i++)
            EXPECT(p[i] == 0);
        free(p);
    }
}

TEST(mem_copies_strings_and_takes_empty_sizes)
{
    char *s = xstrdup("abc"), *t = xstrndup("abc", 2), *u = xstrndup("", 0);
    EXPECT_STR(s, "abc");
    EXPECT_STR(t, "ab");
    EXPECT_STR(u, "");
    free(s);
    free(t);
    free(u);
    void *p = xmalloc(0), *q = xcalloc(0, 8), *r = xrealloc(NULL, 0);
    EXPECT(p && q && r);
    free(p);
    free(q);
    free(r);
}
