/* The forward pass: a step's rows through every layer of the frozen base.
 *
 * Thread: engine, over the compute pool. The weights never change; what belongs to a step is the batch
 * and this workspace. Reads like Touvron et al. (Llama, arXiv 2302.13971): RMSNorm, rotary attention with
 * grouped KV heads, SwiGLU, residuals.
 *
 * T rows of the step, D model dim, H heads, Hk KV heads, Dh head dim, F feed-forward dim, V vocabulary. */
#ifndef PREFIXD_FORWARD_H
#define PREFIXD_FORWARD_H

#include "core/attention.h"
#include "core/batch.h"
#include "core/kernels/kernels.h"
#include "core/kv_pool.h"
#include "core/model/model.h"
#include "core/par.h"

struct forward_ws {
    int max_rows, max_logits;
    float *x;      /* [T, D] residual stream */
    float *norm;   /* [T, D] */
    float *q, *k, *v; /* [T, H*Dh padded], [T, Hk*Dh padded] x2 */
    float *att;    /* [T, H*Dh] */
    float *gate, *up; /* [T, F padded] */
    void *packed;  /* [max(T, n_logits), widest input] what matrices read if not f32 */
    float *proj;   /* [T, D padded] what a block adds to x */
    float *cos, *sin; /* [T, Dh/2] */
    float *final;  /* [n_logits, D] */
    float *logits; /* [n_logits, V padded]; row stride `ld_logits` */
    size_t ld_logits;
    struct attention_ws *attention;
    void *memory;
};

int forward_ws_init(struct forward_ws *ws, const struct model *m, const struct model_shape *s,
                    int max_rows, int max_logits, int n_threads, struct err *err);
void forward_ws_fini(struct forward_ws *ws);

/* The context, in tokens, at which a row's attention costs about as much as all its products. */
double forward_even_context(const struct model *m, const struct model_shape *s);

/* Computes every row of b, writes its keys and values into the pool, and leaves the logits of the rows
 * that want them in ws->logits. */
void forward(const struct model *m, const struct model_shape *s, const struct batch *b,
             struct kv_pool *pool, const struct kernels *k, struct forward_ws *ws, struct par *par);

#endif
