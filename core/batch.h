/* What one step computes: rows of tokens, the sequences they belong to, the prefixes those read.
 *
 * Thread: engine. Filled by sched.c, read by forward.c and attention.c. A sequence's rows of a step are
 * neighbours and in order of position; sequences that read the same prefix are neighbours too, so that a
 * prefix is one group of rows. */
#ifndef PREFIXD_BATCH_H
#define PREFIXD_BATCH_H

#include "core/engine.h"

struct batch_row {
    int32_t token;          /* used if embed is NULL */
    const float *embed;     /* [dim] of a soft prompt's row, or NULL */
    int pos;                /* position for the rotation: the prefix's tokens count */
    int slot;               /* index among the sequence's own tokens: pos - first_pos */
    int logits;             /* index of its logits in this step, -1: none wanted */
};

struct batch_seq { /* rows row .. row + n_rows - 1 of one sequence */
    int row, n_rows;
    const int32_t *blocks; /* its own blocks; slot s lives in blocks[s / KV_TILE] */
    const struct kv_prefix *prefix;
};

struct batch_group { /* rows row .. row + n_rows - 1 all read this prefix */
    int row, n_rows;
    const struct kv_prefix *prefix;
};

struct batch {
    struct batch_row *rows;
    struct batch_seq *seqs;
    struct batch_group *groups; /* rows without a prefix are in none */
    int n_rows, n_seqs, n_groups, n_logits;
    int max_rows, max_seqs;
    size_t dim;             /* width of a soft prompt's rows */
};

void batch_init(struct batch *b, int max_rows, int max_seqs, int dim);
void batch_fini(struct batch *b);
void batch_clear(struct batch *b);

/* Starts a sequence; then batch_add_row adds its rows. Sequences of one prefix must be added together. */
void batch_add_seq(struct batch *b, const int32_t *blocks, const struct kv_prefix *prefix);
struct batch_row *batch_add_row(struct batch *b, int slot, bool wants_logits);

#endif
