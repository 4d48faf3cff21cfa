/* bpe: the heap gives what merging the best pair again and again gives, in bounded time. */
#include "core/text/bpe.h"

#include <stdlib.h>
#include <time.h>

#include "core/base/buf.h"

#include "tests/test.h"

static uint32_t next_random(uint32_t *seed)
{
    *seed = *seed * 1664525u + 1013904223u;
    return *seed >> 8;
}

/* Three letters, and rules that join any two pieces so far into a new one. */
static void fill(struct bpe *b, uint32_t *seed, int n_merges)
{
    static const char *const letters[] = {"a", "b", "c"};
    for (int32_t i = 0; i < 3; i++)
        vocab_add(&b->vocab, i, letters[i], 1, NULL);
    for (int tries = 0; tries < n_merges; tries++) {
        struct buf left = {0}, whole = {0};
        size_t len;
        int32_t n = (int32_t)b->vocab.n, l = (int32_t)(next_random(seed) % (uint32_t)n),
                r = (int32_t)(next_random(seed) % (uint32_t)n);
        const char *s = vocab_piece(&b->vocab, l, &len);
        buf_add(&left, s, len);
        buf_add(&whole, s, len);
        s = vocab_piece(&b->vocab, r, &len);
        struct buf right = {0};
        buf_add(&right, s, len);
        buf_add(&whole, s, len);
        if (whole.len < 12) {
            vocab_add(&b->vocab, n, whole.data, whole.len, NULL);
            EXPECT_EQ(bpe_add_merge(b, (uint32_t)tries, left.data, left.len, right.data,
                                    right.len, NULL),
                      0);
        }
        buf_free(&left);
        buf_free(&right);
        buf_free(&whole);
    }
    b->unk_id = -1;
    bpe_prepare(b);
}

/* The definition: while a pair merges, merge the leftmost of those with the lowest rank. */
static size_t merge_plainly(const struct bpe *b, int32_t *ids, size_t n)
{
    for (;;) {
        const struct merge *best = NULL;
        size_t at = 0;
        for (size_t i = 0; i + 1 < n; i++) {
            const struct merge *m = merges_find(&b->merges, ids[i], ids[i + 1]);
            if (m && (!best || m->rank < best->rank)) {
                best = m;
                at = i;
            }
        }
        if (!best)
            return n;
        ids[at] = best->token;
        memmove(ids + at + 1, ids + at + 2, (n - at - 2) * sizeof *ids);
        n--;
    }
}

TEST(bpe_equals_plain_merging)
{
    uint32_t seed = 1;
    struct bpe_scratch scratch = {0};
    for (int round = 0; round < 60; round++) {
        struct bpe b = {0};
        fill(&b, &seed, 5 + round);
        for (int w = 0; w < 40; w++) {
            char word[60];
            int32_t want[60];
            struct token_list got = {0};
            size_t len = next_random(&seed) % 60;
            for (size_t i = 0; i < len; i++) {
                want[i] = (int32_t)(next_random(&seed) % 3);
                word[i] = (char)('a' + want[i]);
            }
            size_t n = merge_plainly(&b, want, len);
            EXPECT_EQ(bpe_encode(&b, &scratch, word, len, &got, NULL), 0);
            EXPECT_EQ(got.n, n);
            EXPECT(got.n == n && (!n || memcmp(got.ids, want, n * sizeof *want) == 0));
            token_list_free(&got);
        }
        bpe_free(&b);
    }
    bpe_scratch_free(&scratch);
}

TEST(bpe_refuses_a_merge_of_unknown_pieces)
{
    struct bpe b = {0};
    struct err err = {0};
    vocab_add(&b.vocab, 0, "a", 1, NULL);
    vocab_add(&b.vocab, 1, "b", 1, NULL);
    EXPECT_EQ(bpe_add_merge(&b, 0, "a", 1, "b", 1, &err), -1);
    EXPECT(strstr(err.msg, "not in the vocabulary") != NULL);
    bpe_free(&b);
}

TEST(bpe_of_a_long_word_is_not_quadratic)
{
    uint32_t seed = 3;
    struct bpe b = {0};
    struct bpe_scratch scratch = {0};
    struct buf word = {0};
    fill(&b, &seed, 200);
    clock_t start = clock();
    for (int kind = 0; kind < 3; kind++) {
        struct token_list got = {0};
        buf_clear(&word);
        for (int i = 0; i < 1 << 20; i++)
            buf_add_char(&word, kind == 0   ? 'a'
                                : kind == 1 ? "ab"[i & 1]
                                            : "abc"[i % 7 % 3]);
        EXPECT_EQ(bpe_encode(&b, &scratch, word.data, word.len, &got, NULL), 0);
        EXPECT(got.n > 0);
        token_list_free(&got);
    }
    EXPECT((double)(clock() - start) / CLOCKS_PER_SEC <
           30); /* quadratic would take an hour */
    buf_free(&word);
    bpe_scratch_free(&scratch);
    bpe_free(&b);
}
