/* Rows in panels, of lengths around those that are taken at once. */
#include "core/model/panels.h"

#include <stdlib.h>

#include "core/base/mem.h"
#include "core/model/model.h"
#include "tests/test.h"

static void check(size_t n_words)
{
    uint32_t *rows = xcalloc(PANEL * n_words, sizeof *rows);
    uint32_t *panel = xcalloc(PANEL * n_words, sizeof *panel);
    for (size_t i = 0; i < PANEL * n_words; i++)
        rows[i] = (uint32_t)i * 2654435761u + 1;
    panels_interleave(rows, n_words, panel);
    for (size_t o = 0; o < PANEL; o++)
        for (size_t i = 0; i < n_words; i++)
            if (panel[i * PANEL + o] != rows[o * n_words + i])
                test_fail(__FILE__, __LINE__, "%zu words: word %zu of row %zu", n_words, i, o);
    free(rows);
    free(panel);
}

TEST(panels_hold_every_word_in_its_place)
{
    static const size_t lengths[] = {1, 15, 16, 17, 31, 32, 33, 288, 1000};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++)
        check(lengths[i]);
}
