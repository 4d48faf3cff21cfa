/* broken: pauses that double, marks, changed files, the bound of the table, and other processes. */
#include "adapters/broken.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

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
    struct broken b;
    broken_open(&b, NULL, 0, 0);
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
    EXPECT_EQ(b.tables[0].n, 1);
    EXPECT(broken_find(&b, 2, digest_of(1), &stamp, 1000) == NULL);
    EXPECT(broken_find(&b, 1, digest_of(2), &stamp, 1000) == NULL);
    broken_clear(&b, 1, digest_of(1));
    EXPECT_EQ(broken_note(&b, 1, digest_of(1), &stamp, "why", now)->until, now + 5);
    broken_close(&b);
}

TEST(broken_is_tried_again_with_other_files)
{
    struct broken b;
    broken_open(&b, NULL, 0, 0);
    const struct broken_stamp others[] = {{8, 100, 5}, {7, 101, 5}, {7, 100, 6}, {0, 0, 0}};
    broken_note(&b, 1, digest_of(1), &stamp, "why", 1000);
    broken_note(&b, 1, digest_of(1), &stamp, "why", 1000);
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++)
        EXPECT(broken_find(&b, 1, digest_of(1), &others[i], 1000) == NULL);
    EXPECT_EQ(broken_note(&b, 1, digest_of(1), &others[0], "why", 1000)->until, 1005);
    broken_close(&b);
}

TEST(broken_marks_hold_for_one_tenants_version)
{
    struct broken b;
    broken_open(&b, NULL, 0, 0);
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
    broken_close(&b);
}

TEST(broken_is_bounded)
{
    struct broken b;
    broken_open(&b, NULL, 0, 0);
    broken_mark(&b, 1, digest_of(0), 1001, "taken out");
    for (int i = 1; i < 3 * BROKEN_MAX; i++)
        broken_note(&b, 1, digest_of(i), &stamp, "why", 1000 + i);
    EXPECT_EQ(b.tables[0].n, BROKEN_MAX);
    EXPECT(broken_find(&b, 1, digest_of(0), &stamp, 1000) != NULL); /* a mark is not pushed out */
    EXPECT(broken_find(&b, 1, digest_of(1), &stamp, 1001) == NULL);
    EXPECT(broken_find(&b, 1, digest_of(3 * BROKEN_MAX - 1), &stamp, 1000) != NULL);
    broken_close(&b);
}

/* ---- several processes ------------------------------------------------------------------- */

TEST(broken_is_broken_for_all)
{
    struct broken_table *tables = calloc(2, sizeof *tables);
    struct broken a, b;
    broken_open(&a, tables, 2, 0);
    broken_open(&b, tables, 2, 1);
    EXPECT(broken_is_empty(&a) && broken_is_empty(&b));
    broken_clear(&b, 1, digest_of(1));
    EXPECT(broken_is_empty(&a));
    broken_note(&a, 1, digest_of(1), &stamp, "why", 1000);
    const struct broken_version *v = broken_find(&b, 1, digest_of(1), &stamp, 1000);
    ASSERT(v);
    EXPECT_STR(v->why, "why");
    EXPECT_EQ(v->until, 1005);
    EXPECT_EQ(broken_note(&b, 1, digest_of(1), &stamp, "still", 1005)->until, 1015);
    v = broken_find(&a, 1, digest_of(1), &stamp, 1005);
    ASSERT(v);
    EXPECT_STR(v->why, "still");
    broken_clear(&a, 1, digest_of(1)); /* it loads here, so it does */
    EXPECT(broken_find(&a, 1, digest_of(1), &stamp, 1005) == NULL);
    EXPECT(broken_find(&b, 1, digest_of(1), &stamp, 1005) == NULL);
    EXPECT_EQ(broken_note(&b, 1, digest_of(1), &stamp, "why", 1005)->until, 1010);
    EXPECT(broken_find(&a, 1, digest_of(1), &stamp, 1005) != NULL);
    broken_close(&a);
    broken_close(&b);
    free(tables);
}

/* As one that died while it wrote leaves it. */
TEST(broken_half_written_is_nothing)
{
    struct broken_table *tables = calloc(2, sizeof *tables);
    struct broken a, b;
    broken_open(&a, tables, 2, 0);
    broken_open(&b, tables, 2, 1);
    broken_note(&a, 1, digest_of(1), &stamp, "why", 1000);
    memset(tables[0].entries[0].v.why, 0xff, BROKEN_WHY_SIZE); /* is believed in nothing */
    const struct broken_version *v = broken_find(&b, 1, digest_of(1), &stamp, 1000);
    ASSERT(v);
    EXPECT_STR(v->why, "");
    tables[0].entries[0].seq |= 1;
    EXPECT(broken_find(&b, 1, digest_of(1), &stamp, 1000) == NULL);
    tables[0].n = UINT32_MAX;
    EXPECT(broken_find(&b, 1, digest_of(2), &stamp, 1000) == NULL);
    broken_close(&a);
    broken_open(&a, tables, 2, 0); /* the next in its place */
    EXPECT_EQ(tables[0].entries[0].seq & 1, 0);
    broken_note(&a, 1, digest_of(1), &stamp, "again", 1000);
    EXPECT(broken_find(&b, 1, digest_of(1), &stamp, 1000) != NULL);
    broken_close(&a);
    broken_close(&b);
    free(tables);
}

TEST(broken_is_never_read_torn)
{
    struct broken_table *tables = mmap(NULL, 2 * sizeof *tables, PROT_READ | PROT_WRITE,
                                       MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    struct broken b;
    ASSERT(tables != MAP_FAILED);
    pid_t pid = fork();
    if (pid == 0) {
        broken_open(&b, tables, 2, 1);
        for (int i = 0;; i++) {
            char why[BROKEN_WHY_SIZE] = {0};
            memset(why, 'a' + i % 26, (size_t)(100 + i % 100));
            broken_mark(&b, 1, digest_of(1), 1000 + (100 + i % 100), why);
        }
    }
    broken_open(&b, tables, 2, 0);
    int n = 0, n_torn = 0;
    while (n < 20000) {
        const struct broken_version *v = broken_find(&b, 1, digest_of(1), &stamp, 0);
        if (!v)
            continue;
        n++;
        size_t len = strlen(v->why);
        n_torn += v->until != 1000 + (int64_t)len || strspn(v->why, (char[]){v->why[0], 0}) != len;
    }
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    EXPECT_EQ(n_torn, 0);
    broken_close(&b);
    munmap(tables, 2 * sizeof *tables);
}
