/* Attention of a step's rows over their prefixes and their own keys, exact and batch-invariant.
 *
 * Thread: engine, over the compute pool. Rows are grouped by the prefix they read: for each (prefix, KV
 * head) the queries of all its rows are one matrix, so a prefix is read once per step. Each row's own
 * blocks are a second pass. Both give a partial result (maximum, sum, weighted values), merged by
 * log-sum-exp in f32 (Hydragen, arXiv 2402.05099; FlashInfer's merge, arXiv 2501.01005). Keys are taken in
 * spans of SOFTMAX_SPAN at fixed boundaries, so a row's result depends on nothing but its own operands. */
#ifndef PREFIXD_ATTENTION_H
#define PREFIXD_ATTENTION_H

#include "core/batch.h"
#include "core/kernels/kernels.h"
#include "core/kv_pool.h"
#include "core/par.h"

struct attention_ws; /* scratch for up to max_rows rows */

struct attention_ws *attention_ws_new(const struct model_shape *s, int max_rows, int n_threads);
void attention_ws_free(struct attention_ws *ws);

/* q: [T, H * Dh] with row stride ldq, already rotated; out: [T, H * Dh], no alias of q. The rows' own keys and values of this
 * layer must stand in the pool. */
void attention(float *out, const float *q, size_t ldq, int layer, const struct batch *b, const struct kv_pool *pool,
               const struct model_shape *s, const struct kernels *k, struct attention_ws *ws,
               struct par *par);

#endif
