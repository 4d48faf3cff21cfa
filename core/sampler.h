/* From a row's logits to a token, and to log-probabilities.
 *
 * Thread: any (the engine runs rows side by side on the compute pool). Pure: noise is a function of
 * (seed, choice, position), so a seeded answer repeats in any batch. Filters in vLLM's order:
 * temperature, min_p, top_k, top_p. Ties go to the lower token id everywhere. */
#ifndef PREFIXD_SAMPLER_H
#define PREFIXD_SAMPLER_H

#include "core/engine.h"
#include "core/kernels/kernels.h"

struct sampler_ban { /* tokens that may not be chosen now (EOS before min_tokens) */
    const int32_t *ids;
    int n;
};

/* The chosen token, or -1 if the logits are not finite. Overwrites the banned tokens' logits. */
int32_t sampler_pick(float *logits, int vocab, const struct sampling *s, uint32_t choice, uint32_t pos,
                     struct sampler_ban ban, const struct kernels *k);

/* Natural log-probability of token under the raw logits, and the n_top best tokens, best first. */
float sampler_score(const float *logits, int vocab, int32_t token, int n_top, struct token_score *top,
                    const struct kernels *k);

/* Uniform in [0, 1). */
double sampler_noise(uint64_t seed, uint32_t choice, uint32_t pos);

#endif
