/* From a row's logits to a token and to log-probabilities. */
#include "core/sampler.h"

#include "core/base/mem.h"

#include <math.h>
#include <stdlib.h>

/* splitmix64's finaliser (Steele, Lea and Flood, 2014): a bijection that mixes every bit. */
static uint64_t mix(uint64_t z)
{
    z += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

double sampler_noise(uint64_t seed, uint32_t choice, uint32_t pos)
{
    uint64_t h = mix(mix(seed) ^ ((uint64_t)choice << 32 | pos));
    return (double)(h >> 11) * 0x1p-53;
}

/* The largest logit's id, or -1 if any logit is NaN or the largest is infinite. */
static int32_t argmax(const float *x, int n)
{
    int best = 0;
    bool has_nan = false;
    for (int i = 0; i < n; i++) {
        has_nan |= x[i] != x[i];
        if (x[i] > x[best])
            best = i;
    }
    return has_nan || !isfinite(x[best]) ? -1 : best;
}

struct cand {
    float logit;
    int32_t id;
};

/* Order of candidates: larger logit first, then lower id. */
static bool is_before(struct cand a, struct cand b)
{
    return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}

static int compare_cands(const void *a, const void *b)
{
    struct cand x, y;
    memcpy(&x, a, sizeof x);
    memcpy(&y, b, sizeof y);
    return is_before(x, y) ? -1 : is_before(y, x);
}

/* Restores the heap (worst candidate on top) below node i. */
static void sift_down(struct cand *h, int n, int i)
{
    for (;;) {
        int worst = i;
        for (int c = 2 * i + 1; c <= 2 * i + 2 && c < n; c++)
            if (is_before(h[worst], h[c]))
                worst = c;
        if (worst == i)
            return;
        struct cand t = h[i];
        h[i] = h[worst];
        h[worst] = t;
        i = worst;
    }
}

/* The best `want` tokens with a logit of at least `least`, sorted; returns how many there are. */
static int select_best(const float *x, int vocab, float least, struct cand *out, int want)
{
    int n = 0;
    for (int32_t i = 0; i < vocab; i++) {
        struct cand c = {x[i], i};
        if (!(x[i] >= least))
            continue;
        if (n < want) {
            out[n++] = c;
            if (n == want)
                for (int j = n / 2; j-- > 0;)
                    sift_down(out, n, j);
        } else if (is_before(c, out[0])) {
            out[0] = c;
            sift_down(out, n, 0);
        }
    }
    qsort(out, (size_t)n, sizeof *out, compare_cands);
    return n;
}

static double mass_of(struct cand c, float max, float inv_t)
{
    return exp(((double)c.logit - (double)max) * (double)inv_t);
}

/* Total mass of what min_p leaves. */
static double mass_from(const float *x, int vocab, float max, float inv_t, float least,
                        const struct kernels *k)
{
    if (least == -INFINITY)
        return k->sum_exp(x, vocab, max, inv_t);
    double total = 0;
    for (int32_t i = 0; i < vocab; i++)
        if (x[i] >= least)
            total += mass_of((struct cand){x[i], i}, max, inv_t);
    return total;
}

/* How many of the n sorted candidates top_p keeps of `total`; 0: these are not enough to tell. */
static int nucleus(const struct cand *c, int n, float top_p, double total, float max, float inv_t)
{
    double sum = 0;
    for (int i = 0; i < n; i++) {
        sum += mass_of(c[i], max, inv_t);
        if (sum >= (double)top_p * total)
            return i + 1;
    }
    return 0;
}

static int32_t draw(const struct cand *c, int n, double u, float max, float inv_t)
{
    double total = 0, sum = 0;
    for (int i = 0; i < n; i++)
        total += mass_of(c[i], max, inv_t);
    for (int i = 0; i < n; i++) {
        sum += mass_of(c[i], max, inv_t);
        if (sum > u * total)
            return c[i].id;
    }
    return c[n - 1].id;
}

/* Candidates sorted, in growing numbers until top_k or top_p is certain, then one is drawn. */
static int32_t pick_filtered(const float *x, int vocab, const struct sampling *s, double u, float max,
                             float least, const struct kernels *k)
{
    float inv_t = 1.0f / s->temperature;
    int cap = s->top_k > 0 && s->top_k < vocab ? s->top_k : vocab;
    double total = cap < vocab ? 0 : mass_from(x, vocab, max, inv_t, least, k);
    int want = cap < vocab ? cap : s->top_p < 1 ? 64 : vocab;
    for (;; want = want < vocab / 4 ? want * 4 : vocab) {
        if (want > vocab)
            want = vocab;
        struct cand *c = xcalloc((size_t)want, sizeof *c);
        int n = select_best(x, vocab, least, c, want);
        bool is_all = n < want || want == cap;
        for (int i = 0; cap < vocab && i < n; i++)
            total += mass_of(c[i], max, inv_t);
        int keep = s->top_p < 1 ? nucleus(c, n, s->top_p, total, max, inv_t) : n;
        if (!keep && is_all)
            keep = n;
        int32_t id = keep ? draw(c, keep, u, max, inv_t) : -1;
        free(c);
        if (keep)
            return id;
    }
}

/* No filter: walk the distribution in order of id, by pieces whose mass is summed at once. */
static int32_t pick_plain(const float *x, int vocab, float temperature, double u, float max,
                          const struct kernels *k)
{
    enum { PIECE = 1024 };
    float inv_t = 1.0f / temperature;
    double left = u * k->sum_exp(x, vocab, max, inv_t);
    int32_t last = 0;
    for (int i = 0; i < vocab; i += PIECE) {
        int n = vocab - i < PIECE ? vocab - i : PIECE;
        double mass = k->sum_exp(x + i, n, max, inv_t);
        if (left >= mass && i + n < vocab) {
            left -= mass;
            continue;
        }
        for (int j = i; j < i + n; j++) {
            if (x[j] == -INFINITY)
                continue;
            last = j;
            left -= mass_of((struct cand){x[j], j}, max, inv_t);
            if (left < 0)
                return j;
        }
    }
    return last;
}

int32_t sampler_pick(float *logits, int vocab, const struct sampling *s, uint32_t choice, uint32_t pos,
                     struct sampler_ban ban, const struct kernels *k)
{
    if (argmax(logits, vocab) < 0)
        return -1;
    for (int i = 0; i < ban.n; i++)
        if (ban.ids[i] >= 0 && ban.ids[i] < vocab)
            logits[ban.ids[i]] = -INFINITY;
    int32_t best = argmax(logits, vocab);
    if (s->temperature < 1e-5f || best < 0)
        return best; /* below this, one over it is no longer a useful number */
    double u = sampler_noise(s->seed, choice, pos);
    float max = logits[best], least = -INFINITY;
    if (s->min_p > 0)
        least = max + s->temperature * logf(s->min_p);
    if (s->min_p > 0 || s->top_p < 1 || (s->top_k > 0 && s->top_k < vocab))
        return pick_filtered(logits, vocab, s, u, max, least, k);
    return pick_plain(logits, vocab, s->temperature, u, max, k);
}

float sampler_score(const float *logits, int vocab, int32_t token, int n_top, struct token_score *top,
                    const struct kernels *k)
{
    int32_t best = argmax(logits, vocab);
    if (best < 0)
        return NAN;
    float max = logits[best];
    double log_sum = log(k->sum_exp(logits, vocab, max, 1.0f));
    struct cand c[JOB_MAX_LOGPROBS];
    int n = n_top ? select_best(logits, vocab, -INFINITY, c, n_top) : 0;
    for (int i = 0; i < n; i++)
        top[i] = (struct token_score){c[i].id, (float)((double)c[i].logit - (double)max - log_sum)};
    return (float)((double)logits[token] - (double)max - log_sum);
}
