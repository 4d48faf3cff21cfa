/* Three deaths within ten minutes quarantine a version, for ten minutes; other processes
 * see it. */
#include "server/quarantine.h"

#include "tests/test.h"

#include <signal.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

enum { T = 1700000000, OWNER = 3 };

static const char *digest_no(int i)
{
    static char d[DIGEST_HEX + 1];
    snprintf(d, sizeof d, "%064x", i);
    return d;
}

static bool has(const struct quarantine *q, int i, int64_t now)
{
    int64_t until = 0;
    return quarantine_has(q, OWNER, digest_no(i), now, &until);
}

TEST(quarantine_counts_three_deaths)
{
    struct quarantine *q = quarantine_new();
    int64_t until = 0;
    EXPECT(!has(q, 1, T));
    EXPECT(!quarantine_add_death(q, OWNER, digest_no(1), T));
    EXPECT(!quarantine_add_death(q, OWNER, digest_no(1), T + 1));
    EXPECT(!quarantine_add_death(q, OWNER, digest_no(2), T + 1));
    EXPECT(!has(q, 1, T + 2));
    EXPECT(quarantine_add_death(q, OWNER, digest_no(1), T + 2));
    EXPECT(quarantine_has(q, OWNER, digest_no(1), T + 3, &until));
    EXPECT_EQ(until, T + 2 + QUARANTINE_S);
    EXPECT(!has(q, 2, T + 3));
    EXPECT(has(q, 1, until - 1));
    EXPECT(!has(q, 1, until));
    quarantine_free(q);
}

TEST(quarantine_forgets_deaths_long_ago)
{
    struct quarantine *q = quarantine_new();
    quarantine_add_death(q, OWNER, digest_no(1), T);
    quarantine_add_death(q, OWNER, digest_no(1), T + 300);
    EXPECT(!quarantine_add_death(q, OWNER, digest_no(1), T + QUARANTINE_WINDOW_S + 1));
    EXPECT(quarantine_add_death(q, OWNER, digest_no(1), T + QUARANTINE_WINDOW_S + 2));
    quarantine_free(q);
}

TEST(quarantine_starts_anew_after_its_time)
{
    struct quarantine *q = quarantine_new();
    for (int i = 0; i < 3; i++)
        quarantine_add_death(q, OWNER, digest_no(1), T + i);
    int64_t later = T + 2 + QUARANTINE_S;
    EXPECT(!quarantine_add_death(q, OWNER, digest_no(1), later));
    EXPECT(!quarantine_add_death(q, OWNER, digest_no(1), later + 1));
    EXPECT(!has(q, 1, later + 1));
    EXPECT(quarantine_add_death(q, OWNER, digest_no(1), later + 2));
    quarantine_free(q);
}

/* Or one tenant would learn from the other's deaths that it has the same. */
TEST(quarantine_tells_owners_of_the_same_content_apart)
{
    struct quarantine *q = quarantine_new();
    int64_t until = 0;
    for (int i = 0; i < QUARANTINE_DEATHS - 1; i++) {
        EXPECT(!quarantine_add_death(q, OWNER, digest_no(1), T));
        EXPECT(!quarantine_add_death(q, OWNER + 1, digest_no(1), T));
    }
    EXPECT(quarantine_add_death(q, OWNER, digest_no(1), T));
    EXPECT(quarantine_has(q, OWNER, digest_no(1), T + 1, &until));
    EXPECT(!quarantine_has(q, OWNER + 1, digest_no(1), T + 1, &until));
    quarantine_free(q);
}

TEST(quarantine_refuses_what_is_no_digest)
{
    struct quarantine *q = quarantine_new();
    for (int i = 0; i < 4; i++) {
        EXPECT(!quarantine_add_death(q, OWNER, "", T));
        EXPECT(!quarantine_add_death(q, OWNER, "abc", T));
    }
    EXPECT_EQ(q->entries[0].n_deaths, 0);
    quarantine_free(q);
}

/* Many versions die once; one that is quarantined keeps its place. */
TEST(quarantine_is_bounded)
{
    struct quarantine *q = quarantine_new();
    for (int i = 0; i < 3; i++)
        quarantine_add_death(q, OWNER, digest_no(1), T);
    for (int i = 2; i < 3 * QUARANTINE_MAX; i++)
        quarantine_add_death(q, OWNER, digest_no(i), T + i % 5);
    EXPECT(has(q, 1, T + 5));
    for (int i = 0; i < 3; i++)
        quarantine_add_death(q, OWNER, digest_no(100000), T + 5);
    EXPECT(has(q, 100000, T + 6));
    quarantine_free(q);
}

static void keep(int64_t owner, const char *digest, int64_t until, void *ud)
{
    char(*out)[200] = ud;
    EXPECT_EQ(owner, OWNER);
    snprintf(out[0], 200, "%s", digest);
    snprintf(out[1], 200, "%lld", (long long)until);
}

TEST(quarantine_tells_other_processes)
{
    struct quarantine *q = quarantine_new();
    uint32_t seen = 0;
    char got[2][200] = {"", ""};
    EXPECT(!quarantine_changed(q, &seen));
    pid_t pid = fork();
    if (pid == 0) {
        for (int i = 0; i < 3; i++)
            quarantine_add_death(q, OWNER, digest_no(9), T);
        _exit(0);
    }
    waitpid(pid, NULL, 0);
    EXPECT(quarantine_changed(q, &seen));
    EXPECT(!quarantine_changed(q, &seen));
    quarantine_each(q, T + 10, keep, got);
    EXPECT_STR(got[0], digest_no(9));
    EXPECT_STR(got[1], "1700000600");
    got[0][0] = '\0';
    quarantine_each(q, T + QUARANTINE_S, keep, got);
    EXPECT_STR(got[0], "");
    quarantine_free(q);
}

/* A supervisor that dies in the middle of a change does not stop its workers. */
TEST(quarantine_half_written_blocks_nobody)
{
    struct quarantine *q = quarantine_new();
    uint32_t seen = 0;
    quarantine_add_death(q, OWNER, digest_no(1), T);
    q->seq |= 1;
    EXPECT(!has(q, 1, T));
    EXPECT(!quarantine_changed(q, &seen));
    quarantine_add_death(q, OWNER, digest_no(2), T);
    EXPECT(quarantine_changed(q, &seen));
    quarantine_free(q);
}
