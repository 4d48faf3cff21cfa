/* What a worker runs is seen by other processes and is there after its death; nothing that
 * is torn, or that is no digest, is believed. */
#include "server/running.h"

#include "tests/test.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *digest_no(int i)
{
    static char d[DIGEST_HEX + 1];
    snprintf(d, sizeof d, "%064x", i);
    return d;
}

static struct running_entry *begin(struct running *r, const char *id, const char *digest)
{
    struct running_request request = {.n = {.tenant = 7, .start_us = 12, .station = 3}};
    snprintf(request.texts.id, sizeof request.texts.id, "%s", id);
    strcpy(request.texts.tenant_name, "acme");
    struct running_entry *e = running_begin(r, &request);
    if (digest)
        running_set_version(e, "support", 7, digest);
    return e;
}

static void add_up(int64_t owner, const char *digest, int n, void *ud)
{
    (void)owner;
    int *sums = ud;
    sums[0]++;
    sums[1] += n;
    sums[2] += strlen(digest) == DIGEST_HEX;
}

static void expect_versions(const struct running *r, int n_versions, int n_requests)
{
    int sums[3] = {0};
    running_each_version(r, add_up, sums);
    EXPECT_EQ(sums[0], n_versions);
    EXPECT_EQ(sums[1], n_requests);
    EXPECT_EQ(sums[2], n_versions);
}

static void count_one(const struct running_request *request, void *ud)
{
    (void)request;
    (*(int *)ud)++;
}

static int n_requests(const struct running *r)
{
    int n = 0;
    running_each(r, count_one, &n);
    return n;
}

static void keep_last(const struct running_request *request, void *ud)
{
    *(struct running_request *)ud = *request;
}

TEST(running_tells_what_was_noted)
{
    struct running *r = running_new(1);
    struct running_request got = {0};
    running_start(r);
    EXPECT_EQ(r->pid, getpid());
    struct running_entry *e = begin(r, "req-1", NULL);
    running_each(r, keep_last, &got);
    EXPECT_STR(got.texts.id, "req-1");
    EXPECT_STR(got.texts.tenant_name, "acme");
    EXPECT_STR(got.texts.adapter, "");
    EXPECT_STR(got.texts.version, "");
    EXPECT_EQ(got.n.tenant, 7);
    EXPECT_EQ(got.n.start_us, 12);
    EXPECT_EQ(got.n.station, 3);
    running_set_version(e, "support", 7, digest_no(5));
    running_set_station(e, 6);
    running_set_tokens(e, 11, 20, 3);
    running_each(r, keep_last, &got);
    EXPECT_STR(got.texts.adapter, "support");
    EXPECT_STR(got.texts.version, digest_no(5));
    EXPECT_EQ(got.texts.owner, 7);
    EXPECT_EQ(got.n.station, 6);
    EXPECT_EQ(got.n.prompt_tokens, 11);
    EXPECT_EQ(got.n.virtual_tokens, 20);
    EXPECT_EQ(got.n.generated_tokens, 3);
    running_end(r, e);
    EXPECT_EQ(n_requests(r), 0);
    running_free(r, 1);
}

TEST(running_counts_requests_of_versions)
{
    struct running *r = running_new(1);
    expect_versions(r, 0, 0);
    struct running_entry *a = begin(r, "a", digest_no(1));
    struct running_entry *b = begin(r, "b", digest_no(2));
    begin(r, "c", digest_no(1));
    begin(r, "d", NULL);
    expect_versions(r, 2, 3);
    running_end(r, a);
    running_end(r, b);
    expect_versions(r, 1, 1);
    begin(r, "e", "short");
    expect_versions(r, 1, 1);
    EXPECT_EQ(n_requests(r), 3);
    running_clear(r);
    EXPECT_EQ(n_requests(r), 0);
    EXPECT_EQ(r->pid, 0);
    running_free(r, 1);
}

static void note_owner(int64_t owner, const char *digest, int n, void *ud)
{
    int *requests = ud;
    EXPECT_STR(digest, digest_no(1));
    if (owner >= 0 && owner < 4)
        requests[owner] += n;
}

TEST(running_tells_owners_of_the_same_content_apart)
{
    struct running *r = running_new(1);
    static const int owners[] = {2, 1, 2, 3};
    int requests[4] = {0};
    for (int i = 0; i < 4; i++)
        running_set_version(begin(r, "x", NULL), "support", owners[i], digest_no(1));
    expect_versions(r, 3, 4);
    running_each_version(r, note_owner, requests);
    EXPECT(requests[1] == 1 && requests[2] == 2 && requests[3] == 1);
    running_free(r, 1);
}

TEST(running_is_bounded)
{
    struct running *r = running_new(2);
    struct running_entry **all = calloc(RUNNING_MAX, sizeof *all);
    for (int i = 0; i < RUNNING_MAX; i++)
        all[i] = begin(&r[0], "x", digest_no(i));
    EXPECT(begin(&r[0], "one too many", digest_no(1)) == NULL);
    running_set_tokens(NULL, 1, 1, 1);
    running_end(r, NULL);
    expect_versions(&r[0], RUNNING_MAX, RUNNING_MAX);
    expect_versions(&r[1], 0, 0);
    running_end(r, all[500]);
    EXPECT(begin(&r[0], "again", digest_no(1)) == all[500]);
    for (int i = 0; i < RUNNING_MAX; i++)
        running_end(&r[0], all[i]);
    EXPECT_EQ(n_requests(&r[0]), 0);
    EXPECT(begin(&r[0], "x", NULL) != NULL);
    free(all);
    running_free(r, 2);
}

TEST(running_outlives_the_process_that_wrote_it)
{
    struct running *r = running_new(1);
    pid_t pid = fork();
    if (pid == 0) {
        begin(r, "x", digest_no(7));
        raise(SIGKILL);
    }
    int status;
    EXPECT_EQ(waitpid(pid, &status, 0), pid);
    EXPECT(WIFSIGNALED(status));
    expect_versions(r, 1, 1);
    running_free(r, 1);
}

TEST(running_believes_nothing)
{
    struct running *r = running_new(1);
    struct running_request got = {0};
    struct running_entry *a = begin(r, "a", digest_no(1));
    struct running_entry *b = begin(r, "b", digest_no(2));
    a->r.texts.version[5] = '/'; /* was overwritten */
    memset(&b->r.texts, 'a', sizeof b->r.texts);
    expect_versions(r, 1, 1); /* of 64 a's; what follows them is cut */
    running_end(r, a);
    running_each(r, keep_last, &got);
    EXPECT_EQ(strlen(got.texts.id), RUNNING_ID_MAX);
    EXPECT_EQ(strlen(got.texts.adapter), RUNNING_NAME_MAX);
    memset(&b->r.texts, '\n', sizeof b->r.texts);
    running_each(r, keep_last, &got);
    EXPECT_STR(got.texts.id, "");
    b->seq |= 1; /* died while writing */
    EXPECT_EQ(n_requests(r), 0);
    running_start(r);
    EXPECT_EQ(b->seq & 1, 0);
    EXPECT(begin(r, "c", NULL) != NULL);
    EXPECT_EQ(n_requests(r), 1);
    running_free(r, 1);
}

/* ---- a reader beside a writer -------------------------------------------------------- */

struct texts_seen {
    int n, n_torn;
};

/* The writer's texts agree with each other: adapter "n7" has the digest of 7, and is 7's. */
static void check_pair(const struct running_request *request, void *ud)
{
    struct texts_seen *seen = ud;
    const char *adapter = request->texts.adapter;
    seen->n++;
    if (adapter[0] && (strcmp(digest_no(atoi(adapter + 1)), request->texts.version) != 0 ||
                       atoi(adapter + 1) != request->texts.owner))
        seen->n_torn++;
}

TEST(running_knows_what_is_used)
{
    struct running *r = running_new(1);
    struct running_entry *e = begin(r, "x", NULL);
    running_set_version(e, "x", 7, digest_no(1));
    EXPECT(running_has(r, 7, digest_no(1)));
    EXPECT(!running_has(r, 8, digest_no(1)) && !running_has(r, 7, digest_no(2)));
    e->seq |= 1; /* being written, maybe for ever */
    EXPECT(!running_has(r, 7, digest_no(1)));
    e->seq++;
    running_end(r, e);
    EXPECT(!running_has(r, 7, digest_no(1)));
    running_free(r, 1);
}

TEST(running_is_never_read_torn)
{
    struct running *r = running_new(1);
    struct texts_seen seen = {0};
    pid_t pid = fork();
    if (pid == 0) {
        struct running_entry *e = begin(r, "x", NULL);
        for (int i = 0;; i++) {
            char name[16];
            snprintf(name, sizeof name, "n%d", i);
            running_set_version(e, name, i, digest_no(i));
        }
    }
    while (seen.n < 20000)
        running_each(r, check_pair, &seen);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    EXPECT_EQ(seen.n_torn, 0);
    running_free(r, 1);
}
