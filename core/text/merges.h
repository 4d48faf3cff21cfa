/* The merge rules of a byte pair encoding: which pair becomes which token, and how soon.
 *
 * Thread: filled at boot by one thread, read by any afterwards. A zeroed struct holds no
 * rules.
 *
 *     struct merges m = {0};
 *     merges_put(&m, (struct merge){.left = a, .right = b, .rank = 0, .token = ab});
 *     const struct merge *rule = merges_find(&m, a, b);
 */
#ifndef PREFIXD_TEXT_MERGES_H
#define PREFIXD_TEXT_MERGES_H

#include <stddef.h>
#include <stdint.h>

struct merge {
    int32_t left, right; /* left is -1 in a free slot */
    uint32_t rank;       /* lower merges first */
    int32_t token;       /* what the pair becomes */
};

struct merges {
    struct merge *slots; /* [n_slots], open addressing */
    size_t n_slots, n;
};

void merges_put(struct merges *m,
                struct merge rule); /* a later rule for a pair replaces it */
const struct merge *merges_find(const struct merges *m, int32_t left,
                                int32_t right); /* or NULL */
void merges_free(struct merges *m);

#endif
