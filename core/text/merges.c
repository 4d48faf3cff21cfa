/* Merge rules in a hash table keyed by the pair. */
#include "core/text/merges.h"

#include <stdlib.h>
#include <string.h>

#include "core/base/mem.h"

static struct merge *slot_of(const struct merges *m, int32_t left, int32_t right)
{
    size_t mask = m->n_slots - 1;
    uint64_t key = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    size_t i = (size_t)(key * 0x9e3779b97f4a7c15u >> 32) & mask;
    while (m->slots[i].left >= 0 &&
           (m->slots[i].left != left || m->slots[i].right != right))
        i = (i + 1) & mask;
    return &m->slots[i];
}

static void grow(struct merges *m)
{
    struct merges bigger = {.n_slots = m->n_slots ? 2 * m->n_slots : 256, .n = m->n};
    bigger.slots = xmalloc(bigger.n_slots * sizeof *bigger.slots);
    memset(bigger.slots, 0xff, bigger.n_slots * sizeof *bigger.slots);
    for (size_t i = 0; i < m->n_slots; i++)
        if (m->slots[i].left >= 0)
            *slot_of(&bigger, m->slots[i].left, m->slots[i].right) = m->slots[i];
    free(m->slots);
    *m = bigger;
}

void merges_put(struct merges *m, struct merge rule)
{
    if (2 * (m->n + 1) > m->n_slots)
        grow(m);
    struct merge *slot = slot_of(m, rule.left, rule.right);
    if (slot->left < 0)
        m->n++;
    *slot = rule;
}

const struct merge *merges_find(const struct merges *m, int32_t left, int32_t right)
{
    if (!m->n_slots)
        return NULL;
    const struct merge *slot = slot_of(m, left, right);
    return slot->left >= 0 ? slot : NULL;
}

void merges_free(struct merges *m)
{
    free(m->slots);
    *m = (struct merges){0};
}
