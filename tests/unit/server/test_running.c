/* What a worker ran is there after its death, and nothing that is no digest is believed. */
#include "server/running.h"

#include "tests/test.h"

#include <signal.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *digest_no(int i)
{
    static char d[DIGEST_HEX + 1];
    snprintf(d, sizeof d, "%064x", i);
    return d;
}

static void add_up(const char *digest, int n, void *ud)
{
    int *sums = ud;
    sums[0]++;
    sums[1] += n;
    sums[2] += strlen(digest) == DIGEST_HEX;
}

static void expect_sums(const struct running *r, int n_versions, int n_requests)
{
    int sums[3] = {0};
    running_each(r, add_up, sums);
    EXPECT_EQ(sums[0], n_versions);
    EXPECT_EQ(sums[1], n_requests);
    EXPECT_EQ(sums[2], n_versions);
}

TEST(running_counts_requests_of_versions)
{
    struct running *r = running_new(1);
    expect_sums(r, 0, 0);
    running_add(r, digest_no(1));
    running_add(r, digest_no(2));
    running_add(r, digest_no(1));
    expect_sums(r, 2, 3);
    running_remove(r, digest_no(1));
    running_remove(r, digest_no(2));
    running_remove(r, digest_no(3));
    expect_sums(r, 1, 1);
    running_add(r, "short");
    expect_sums(r, 1, 1);
    running_clear(r);
    expect_sums(r, 0, 0);
    running_free(r, 1);
}

TEST(running_is_bounded)
{
    struct running *r = running_new(2);
    for (int i = 0; i < 2 * RUNNING_MAX; i++)
        running_add(&r[0], digest_no(i));
    expect_sums(&r[0], RUNNING_MAX, RUNNING_MAX);
    expect_sums(&r[1], 0, 0);
    for (int i = 0; i < 2 * RUNNING_MAX; i++)
        running_remove(&r[0], digest_no(i));
    expect_sums(&r[0], 0, 0);
    running_free(r, 2);
}

TEST(running_outlives_the_process_that_wrote_it)
{
    struct running *r = running_new(1);
    pid_t pid = fork();
    if (pid == 0) {
        running_add(r, digest_no(7));
        raise(SIGKILL);
    }
    int status;
    EXPECT_EQ(waitpid(pid, &status, 0), pid);
    EXPECT(WIFSIGNALED(status));
    expect_sums(r, 1, 1);
    running_free(r, 1);
}

TEST(running_skips_what_is_no_digest)
{
    struct running *r = running_new(1);
    running_add(r, digest_no(1));
    running_add(r, digest_no(2));
    r->versions[0].digest[5] = '/'; /* died while writing, or was overwritten */
    memset(r->versions[1].digest, 'a', sizeof r->versions[1].digest);
    expect_sums(r, 0, 0);
    running_free(r, 1);
}
