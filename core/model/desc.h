/* Checks on a model's description, and its canonical text for digests.
 *
 * Thread: any; pure functions. */
#ifndef PREFIXD_DESC_H
#define PREFIXD_DESC_H

#include "core/base/buf.h"
#include "core/base/err.h"
#include "core/model/model.h"

/* Bounds that make every later product of dimensions fit, and the rules between
 * dimensions. */
int desc_check(const struct model_desc *d, struct err *err);

/* Adds an end-of-sequence id unless it is there already. */
int desc_add_eos(struct model_desc *d, int32_t id, struct err *err);

/* The same text for equal descriptions, on any machine. */
void desc_render(const struct model_desc *d, struct buf *out);

/* inv_freq[head_dim / 2], as transformers computes it (f32 arithmetic), scaling applied. */
void desc_inv_freq(const struct model_desc *d, float *inv_freq);

#endif
