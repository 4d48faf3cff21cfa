/* From a step's logits to events: scores and samples every row that has logits, turns tokens into whole
 * text, and ends choices.
 *
 * Thread: engine; rows are scored side by side on the compute pool. */
#ifndef PREFIXD_EMIT_H
#define PREFIXD_EMIT_H

#include "core/batch.h"
#include "core/event.h"
#include "core/kernels/kernels.h"
#include "core/par.h"
#include "core/seq.h"

struct emit_row { /* one row with logits */
    const struct seq *seq;
    int slot;
    bool is_prompt;  /* scores the next prompt token; else chooses a new one */
    bool is_broken;  /* the logits were not finite */
    struct row_score score;
};

struct emit {
    const struct base_model *base;
    struct emit_row *rows; /* [max logits of a step] */
    int max_rows;
};

/* What became of a sequence in this step. */
enum emit_outcome { EMIT_GOES_ON, EMIT_ENDED, EMIT_BROKEN };

void emit_init(struct emit *e, const struct base_model *base, int max_rows);
void emit_fini(struct emit *e);

/* Scores and samples all rows of the step. order: the batch's sequences. */
void emit_score(struct emit *e, const struct batch *b, struct seq *const *order, float *logits,
                size_t ld_logits, const struct kernels *k, struct par *par);

/* Advances sequence i of the batch (n_computed, newest token) and appends its events. */
enum emit_outcome emit_seq(struct emit *e, const struct batch *b, int i, struct seq *q,
                           struct event_list *out);

#endif
