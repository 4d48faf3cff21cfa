/* Repeatable random numbers for tests: the same seed gives the same case on every machine.
 */
#ifndef PREFIXD_TEST_RNG_H
#define PREFIXD_TEST_RNG_H

#include <stddef.h>
#include <stdint.h>

struct rng {
    uint64_t state;
};

uint64_t rng_next(struct rng *r);
int rng_below(struct rng *r, int n);            /* 0 .. n - 1 */
int rng_between(struct rng *r, int lo, int hi); /* lo .. hi */
float rng_normal(struct rng *r);                /* about normal, |x| < 6 */
void rng_fill(struct rng *r, float *x, size_t n, float scale);

#endif
