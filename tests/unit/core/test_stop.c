/* Stop strings against a naive search, on texts of few letters in random pieces. */
#include "core/stop.h"

#include <string.h>

#include "tests/support/rng.h"
#include "tests/test.h"

enum { MAX_TEXT = 40, MAX_STOPS = 4, MAX_LEN = 6 };

struct search {
    char text[MAX_TEXT], strings[MAX_STOPS][MAX_LEN];
    struct job_stop stops[MAX_STOPS];
    int n_text, n_stops;
};

static void make_search(struct search *s, struct rng *r)
{
    int letters = rng_between(r, 1, 3);
    s->n_text = rng_between(r, 0, MAX_TEXT);
    s->n_stops = rng_between(r, 1, MAX_STOPS);
    for (int i = 0; i < s->n_text; i++)
        s->text[i] = (char)('a' + rng_below(r, letters));
    for (int i = 0; i < s->n_stops; i++) {
        int n = rng_between(r, 1, MAX_LEN);
        for (int j = 0; j < n; j++)
            s->strings[i][j] = (char)('a' + rng_below(r, letters + (letters == 1)));
        s->stops[i] = (struct job_stop){s->strings[i], (size_t)n};
    }
}

static bool ends_with(const struct search *s, int end, int i, size_t len)
{
    return (size_t)end >= len && memcmp(s->text + end - len, s->strings[i], len) == 0;
}

/* The string complete at the first place where one is; the longest of those; -1. */
static int first_hit(const struct search *s, int *end)
{
    for (*end = 1; *end <= s->n_text; ++*end) {
        int best = -1;
        for (int i = 0; i < s->n_stops; i++)
            if (ends_with(s, *end, i, s->stops[i].len) &&
                (best < 0 || s->stops[i].len > s->stops[best].len))
                best = i;
        if (best >= 0)
            return best;
    }
    *end = s->n_text;
    return -1;
}

/* Bytes before `end` that may still become a string. */
static size_t must_hold(const struct search *s, int end)
{
    size_t most = 0;
    for (int i = 0; i < s->n_stops; i++)
        for (size_t n = 1; n < s->stops[i].len; n++)
            if (n > most && ends_with(s, end, i, n))
                most = n;
    return most;
}

static bool is_text(const struct search *s, const struct buf *b, size_t len)
{
    return b->len == len && (!len || memcmp(b->data, s->text, len) == 0);
}

static void check_search(const struct search *s, struct rng *r)
{
    struct stop stop;
    struct buf safe = {0};
    int end, expected = first_hit(s, &end), hit = -1, fed = 0;
    stop_init(&stop, s->stops, s->n_stops);
    while (fed < s->n_text && hit < 0) {
        int n = rng_between(r, 0, s->n_text - fed < 7 ? s->n_text - fed : 7);
        hit = stop_feed(&stop, s->text + fed, (size_t)n, &safe);
        fed += n;
        if (hit < 0)
            EXPECT(is_text(s, &safe, (size_t)fed - must_hold(s, fed)));
    }
    EXPECT_EQ(hit, expected);
    if (hit >= 0) {
        EXPECT(fed >= end && is_text(s, &safe, (size_t)end - s->stops[hit].len));
    } else {
        stop_end(&stop, &safe);
        EXPECT(is_text(s, &safe, (size_t)s->n_text));
    }
    buf_free(&safe);
    stop_fini(&stop);
}

TEST(stop_equals_a_naive_search)
{
    struct rng r = {41};
    for (int i = 0; i < 30000; i++) {
        struct search s;
        make_search(&s, &r);
        check_search(&s, &r);
    }
}

TEST(stop_without_strings_lets_all_pass)
{
    struct stop stop;
    struct buf safe = {0};
    stop_init(&stop, NULL, 0);
    EXPECT_EQ(stop_feed(&stop, "abc", 3, &safe), -1);
    EXPECT_EQ(stop_feed(&stop, NULL, 0, &safe), -1);
    EXPECT_STR(safe.data, "abc");
    stop_end(&stop, &safe);
    EXPECT_EQ(safe.len, 3);
    buf_free(&safe);
    stop_fini(&stop);
}

TEST(stop_finds_bytes_of_every_kind)
{
    struct stop stop;
    struct buf safe = {0};
    char longest[STOP_MAX_LEN];
    memset(longest, '\xff', sizeof longest);
    longest[STOP_MAX_LEN - 1] = '\0';
    struct job_stop stops[2] = {{longest, sizeof longest}, {"\xc3\xa9", 2}};
    stop_init(&stop, stops, 2);
    for (int i = 0; i < 2000; i++)
        EXPECT_EQ(stop_feed(&stop, "\xff", 1, &safe), -1);
    EXPECT_EQ(safe.len, 2000 - (STOP_MAX_LEN - 1));
    EXPECT_EQ(stop_feed(&stop, "\0tail", 5, &safe), 0);
    EXPECT_EQ(safe.len, 2000 - (STOP_MAX_LEN - 1));
    buf_free(&safe);
    stop_fini(&stop);
}

/* Before min_tokens nothing is complete, but what begins there may be completed later. */
TEST(stop_across_the_border_of_passed_text)
{
    static const struct job_stop stops[] = {{"?\n\n", 3}, {"ab", 2}};
    struct stop s;
    struct buf safe = {0};
    stop_init(&s, stops, 2);
    stop_pass(&s, "ab x?", 5, &safe);
    EXPECT_STR(safe.data, "ab x");
    stop_pass(&s, "\n", 1, &safe);
    EXPECT_EQ(stop_feed(&s, "\n tail", 6, &safe), 0);
    EXPECT_STR(safe.data, "ab x");
    stop_fini(&s);
    buf_clear(&safe);
    stop_init(&s, stops, 2);
    stop_pass(&s, "?\n\n", 3, &safe); /* complete too early: it does not count */
    EXPECT_EQ(stop_feed(&s, "c", 1, &safe), -1);
    EXPECT_STR(safe.data, "?\n\nc");
    stop_fini(&s);
    buf_free(&safe);
}
