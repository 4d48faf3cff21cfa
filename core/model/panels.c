/* The transposition of sixteen rows. */
#include "core/model/panels.h"

#include "core/model/model.h"

enum { BLOCK = 16 }; /* words of a cache line */

/* A line of a row is read whole: rows may lie a power of two apart, where sixteen lines push each
 * other out of the cache. */
void panels_interleave(const uint32_t *rows, size_t n_words, uint32_t *panel)
{
    for (size_t i = 0; i < n_words; i += BLOCK) {
        size_t n = n_words - i < BLOCK ? n_words - i : BLOCK;
        for (size_t o = 0; o < PANEL; o++)
            for (size_t k = 0; k < n; k++)
                panel[(i + k) * PANEL + o] = rows[o * n_words + i + k];
    }
}
