/* broken: pauses that double, marks, changed files, and the bound of the table. */
#include "adapters/broken.h"

#include <stdio.h>

#include "tests/test.h"

static const struct broken_stamp stamp = {7, 100, 5};

static const char *digest_of(int i)
{
    static char digest[DIGEST_HEX + 1];
    snprintf(digest, sizeof digest, "%08x%056d", (unsigned)i * 2654435761u, i);
    return digest;
}

TEST(broken_pauses_double)
{
    static const int pauses[] = {5, 10, 20, 40, 80, 160, 300, 300};
    struct broken b = {0};
    int64_t now = 1000;
    EXPECT(broken_find(&b, 1, digest_of(1), &stamp, now) == NULL);
    for (size_t i = 0; i < sizeof pauses / sizeof pauses[0]; i++) {
        broken_note(&b, 1, digest_of(1), &stamp, "why", now);
        const struct broken_version *v = broken_find(&b, 1, digest_of(1), &stamp, now);
        ASSERT(v);
        EXPECT_STR(v->why, "why");
        EXPECT_EQ(v->until, now + pauses[i]);
        EXPECT(broken_find(&b, 1, digest_of(1), &stamp, now + pauses[i] - 1) != NULL);
        now += pauses[i];
        EXPECT(broken_find(&b, 1, digest_of(1), &stamp, now) == NULL);
    }
    EXPECT_EQ(b.n, 1);
    EXPECT(broken_find(&b, 2, digest_of(1), &stamp, 1000) == NULL);
    EXPECT(broken_find(&b, 1, digest_of(2), &stamp, 1000) == NULL);
    broken_clear(&b, 1, digest_of(1));
    EXPECT_EQ(broken_note(&b, 1, digest_of(1), &stamp, "why", now)->until, now + 5);
    broken_fini(&b);
}

TEST(broken_is_tried_again_with_other_files)
{
    struct broken b = {0};
    const struct broken_stamp others[] = {{8, 100, 5}, {7, 101, 5}, {7, 100, 6}, {0, 0, 0}};
    broken_note(&b, 1, digest_of(1), &stamp, "why", 1000);
    broken_note(&b, 1, digest_of(1), &stamp, "why", 1000);
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++)
        EXPECT(broken_find(&b, 1, digest_of(1), &others[i], 1000) == NULL);
    EXPECT_EQ(broken_note(&b, 1, digest_of(1), &others[0], "why", 1000)->until, 1005);
    broken_fini(&b);
}

TEST(broken_marks_hold_for_one_tenants_version)
{
    struct broken b = {0};
    const struct broken_stamp changed = {8, 1, 1};
    broken_mark(&b, 1, digest_of(1), 2000, "taken out");
    const struct broken_version *v = broken_find(&b, 1, digest_of(1), &changed, 1999);
    ASSERT(v);
    EXPECT_STR(v->why, "taken out");
    EXPECT(broken_find(&b, 1, digest_of(1), &stamp, 2000) == NULL);
    EXPECT(broken_find(&b, 2, digest_of(1), &stamp, 1999) == NULL);
    EXPECT(broken_find(&b, 1, digest_of(2), &stamp, 1999) == NULL);
    broken_note(&b, 1, digest_of(1), &stamp, "does not load", 1000);
    broken_clear(&b, 1, digest_of(1)); /* it loads, and stays out */
    broken_clear(&b, 1, digest_of(1));
    EXPECT(broken_find(&b, 1, digest_of(1), &stamp, 1000) != NULL);
    broken_mark(&b, 1, digest_of(1), 0, "");
    EXPECT(broken_find(&b, 1, digest_of(1), &stamp, 1000) == NULL);
    broken_fini(&b);
}

TEST(broken_is_bounded)
{
    struct broken b = {0};
    broken_mark(&b, 1, digest_of(0), 1001, "taken out");
    for (int i = 1; i < 3 * BROKEN_MAX; i++)
        broken_note(&b, 1, digest_of(i), &stamp, "why", 1000 + i);
    EXPECT_EQ(b.n, BROKEN_MAX);
    EXPECT(broken_find(&b, 1, digest_of(0), &stamp, 1000) != NULL); /* a mark is not pushed out */
    EXPECT(broken_find(&b, 1, digest_of(1), &stamp, 1001) == NULL);
    EXPECT(broken_find(&b, 1, digest_of(3 * BROKEN_MAX - 1), &stamp, 1000) != NULL);
    broken_fini(&b);
}
