/* Memory freed all at once. */
#include "core/base/arena.h"

#include <stdint.h>

#include "tests/test.h"

TEST(arena_gives_aligned_zeroed_memory_that_does_not_overlap)
{
    struct arena a = {0};
    unsigned char *p[300];
    size_t total = 0;
    for (int i = 0; i < 300; i++) {
        size_t size = (size_t)(i * 37 % 900) + (i % 50 == 0 ? 10000 : 0);
        p[i] = arena_alloc(&a, size);
        EXPECT_EQ((uintptr_t)p[i] % 16, 0);
        for (size_t j = 0; j < size; j++)
            EXPECT(p[i][j] == 0);
        memset(p[i], i % 255 + 1, size);
        total += size;
    }
    EXPECT(a.total >= total);
    for (int i = 0; i < 300; i++) {
        size_t size = (size_t)(i * 37 % 900) + (i % 50 == 0 ? 10000 : 0);
        for (size_t j = 0; j < size; j++)
            EXPECT(p[i][j] == i % 255 + 1);
    }
    arena_free(&a);
    EXPECT(a.chunks == NULL && a.total == 0);
}

TEST(arena_copies_strings)
{
    struct arena a = {0};
    EXPECT_STR(arena_strdup(&a, "hello"), "hello");
    EXPECT_STR(arena_strndup(&a, "hello", 2), "he");
    EXPECT_STR(arena_strndup(&a, "", 0), "");
    int *x = arena_array(&a, 10, sizeof *x);
    EXPECT(x[0] == 0 && x[9] == 0);
    arena_free(&a);
    arena_free(&a); /* an empty one is fine */
}
