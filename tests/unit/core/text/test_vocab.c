/* vocab and merges: what goes in comes out, and nothing goes in twice. */
#include "core/text/vocab.h"

#include <stdio.h>

#include "core/text/merges.h"

#include "tests/test.h"

TEST(vocab_finds_pieces_both_ways)
{
    struct vocab v = {0};
    char piece[16];
    size_t len;
    EXPECT_EQ(vocab_find(&v, "a", 1), -1);
    for (int i = 0; i < 3000; i++) {
        snprintf(piece, sizeof piece, "p%d", i);
        EXPECT_EQ(vocab_add(&v, 2 * i, piece, strlen(piece), NULL), 0);
    }
    EXPECT_EQ(v.id_end, 5999);
    for (int i = 0; i < 3000; i++) {
        snprintf(piece, sizeof piece, "p%d", i);
        EXPECT_EQ(vocab_find(&v, piece, strlen(piece)), 2 * i);
        const char *s = vocab_piece(&v, 2 * i, &len);
        EXPECT(s && len == strlen(piece) && memcmp(s, piece, len) == 0);
        EXPECT(!vocab_piece(&v, 2 * i + 1, &len));
    }
    EXPECT_EQ(vocab_find(&v, "p", 1), -1);
    EXPECT_EQ(vocab_find(&v, "p3000", 5), -1);
    EXPECT(!vocab_piece(&v, -1, &len));
    EXPECT(!vocab_piece(&v, 100000, &len));
    vocab_free(&v);
}

TEST(vocab_refuses_what_is_there_or_out_of_range)
{
    struct vocab v = {0};
    struct err err = {0};
    EXPECT_EQ(vocab_add(&v, 3, "a\0b", 3, &err), 0);
    EXPECT_EQ(vocab_add(&v, 3, "c", 1, &err), -1);
    EXPECT_EQ(vocab_add(&v, 4, "a\0b", 3, &err), -1);
    EXPECT_EQ(vocab_add(&v, -1, "d", 1, &err), -1);
    EXPECT_EQ(vocab_add(&v, VOCAB_MAX_IDS, "d", 1, &err), -1);
    EXPECT_EQ(vocab_add(&v, 4, "a", 1, &err), 0);
    EXPECT_EQ(vocab_find(&v, "a\0b", 3), 3);
    vocab_free(&v);
}

TEST(merges_keep_the_last_rule_of_a_pair)
{
    struct merges m = {0};
    EXPECT(!merges_find(&m, 1, 2));
    for (int32_t i = 0; i < 2000; i++)
        merges_put(&m, (struct merge){i, i + 1, (uint32_t)i, 5000 + i});
    merges_put(&m, (struct merge){7, 8, 9999, 1});
    EXPECT_EQ(m.n, 2000);
    for (int32_t i = 0; i < 2000; i++) {
        const struct merge *r = merges_find(&m, i, i + 1);
        EXPECT(r && r->rank == (i == 7 ? 9999u : (uint32_t)i));
        EXPECT(!merges_find(&m, i + 1, i));
    }
    merges_free(&m);
}
