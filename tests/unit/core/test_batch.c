/* What a step's batch says of rows, sequences and prefix groups. */
#include "core/batch.h"

#include "tests/test.h"

TEST(batch_groups_rows_by_prefix)
{
    struct kv_prefix p = {.n_tokens = 7, .first_pos = 7},
                     q = {.n_tokens = 20, .first_pos = 20};
    int32_t blocks[5] = {0, 1, 2, 3, 4};
    const struct kv_prefix *prefixes[5] = {NULL, NULL, &p, &p, &q};
    static const int n_rows[5] = {2, 1, 3, 1, 2};
    struct batch b;
    batch_init(&b, 20, 5, 8);
    for (int i = 0; i < 5; i++) {
        batch_add_seq(&b, &blocks[i], prefixes[i]);
        for (int r = 0; r < n_rows[i]; r++)
            batch_add_row(&b, 10 + r, r == n_rows[i] - 1);
    }
    EXPECT_EQ(b.n_rows, 9);
    EXPECT_EQ(b.n_seqs, 5);
    ASSERT(b.n_groups == 2);
    EXPECT(b.groups[0].prefix == &p && b.groups[0].row == 3 && b.groups[0].n_rows == 4);
    EXPECT(b.groups[1].prefix == &q && b.groups[1].row == 7 && b.groups[1].n_rows == 2);
    EXPECT(b.seqs[2].row == 3 && b.seqs[2].n_rows == 3 && b.seqs[2].blocks == &blocks[2]);
    EXPECT(b.rows[0].pos == 10 && b.rows[4].pos == 18 && b.rows[8].pos == 31);
    EXPECT(b.rows[0].slot == 10 && b.rows[4].slot == 11 && b.rows[8].slot == 11);
    batch_fini(&b);
}

TEST(batch_numbers_logits_in_order_of_rows)
{
    int32_t block = 0;
    struct batch b;
    batch_init(&b, 8, 2, 8);
    batch_add_seq(&b, &block, NULL);
    for (int i = 0; i < 6; i++)
        batch_add_row(&b, i, i % 2 == 1);
    EXPECT_EQ(b.n_logits, 3);
    for (int i = 0; i < 6; i++)
        EXPECT_EQ(b.rows[i].logits, i % 2 ? i / 2 : -1);
    batch_clear(&b);
    EXPECT_EQ(b.n_rows + b.n_seqs + b.n_groups + b.n_logits, 0);
    batch_fini(&b);
}
