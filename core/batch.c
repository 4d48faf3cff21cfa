/* What one step computes: rows, sequences and prefix groups. */
#include "core/batch.h"

#include "core/base/check.h"
#include "core/base/mem.h"

#include <stdlib.h>

void batch_init(struct batch *b, int max_rows, int max_seqs, int dim)
{
    *b = (struct batch){.max_rows = max_rows, .max_seqs = max_seqs, .dim = (size_t)dim};
    b->rows = xcalloc((size_t)max_rows, sizeof *b->rows);
    b->seqs = xcalloc((size_t)max_seqs, sizeof *b->seqs);
    b->groups = xcalloc((size_t)max_seqs, sizeof *b->groups);
}

void batch_fini(struct batch *b)
{
    free(b->rows);
    free(b->seqs);
    free(b->groups);
    *b = (struct batch){0};
}

void batch_clear(struct batch *b)
{
    b->n_rows = b->n_seqs = b->n_groups = b->n_logits = 0;
}

void batch_add_seq(struct batch *b, const int32_t *blocks, const struct kv_prefix *prefix)
{
    CHECK(b->n_seqs < b->max_seqs);
    b->seqs[b->n_seqs++] = (struct batch_seq){b->n_rows, 0, blocks, prefix};
    if (!prefix || (b->n_groups && b->groups[b->n_groups - 1].prefix == prefix))
        return;
    b->groups[b->n_groups++] = (struct batch_group){b->n_rows, 0, prefix};
}

struct batch_row *batch_add_row(struct batch *b, int slot, bool wants_logits)
{
    CHECK(b->n_rows < b->max_rows && b->n_seqs);
    struct batch_seq *s = &b->seqs[b->n_seqs - 1];
    struct batch_row *r = &b->rows[b->n_rows++];
    *r = (struct batch_row){.slot = slot, .pos = slot, .logits = -1};
    s->n_rows++;
    if (s->prefix) {
        r->pos += s->prefix->first_pos;
        b->groups[b->n_groups - 1].n_rows++;
    }
    if (wants_logits)
        r->logits = b->n_logits++;
    return r;
}
