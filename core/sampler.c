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
        if (!(x[i] >= least && x[i] > -INFINITY))
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

enum { FEW = 64 };

/* Where few candidates decide: top_k up to FEW, or a nucleus that FEW candidates cover. -1: they do
 * not. */
static int32_t pick_few(const float *x, int vocab, const struct sampling *s, double u, float max,
                        float least, const struct kernels *k)
{
    struct cand c[FEW];
    float inv_t = 1.0f / s->temperature;
    bool has_k = s->top_k > 0 && s->top_k <= FEW;
    int n = select_best(x, vocab, least, c, has_k ? s->top_k : FEW);
    double total = 0;
    for (int i = 0; has_k && i < n; i++)
        total += mass_of(c[i], max, inv_t);
    if (!has_k)
        total = k->sum_exp(x, vocab, max, inv_t);
    int keep = s->top_p < 1 ? nucleus(c, n, s->top_p, total, max, inv_t) : n;
    if (!keep && has_k)
        keep = n;
    return keep ? draw(c, keep, u, max, inv_t) : -1;
}

/* Larger key, larger logit. */
static uint32_t key_of(float logit)
{
    uint32_t bits;
    memcpy(&bits, &logit, sizeof bits);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

enum { LEVELS = 3, BINS = 2048 };
static const int level_shift[LEVELS] = {21, 10, 0}, level_bits[LEVELS] = {11, 11, 10};

/* The key at which the candidates (p > 0), taken from the largest logit down, reach `target` of their
 * number or of their mass; *rest: how much of the target that key's own candidates have to give. A radix
 * descent: three passes whatever the distribution, where sorting would cost the whole batch. */
static uint32_t cut_key(const float *x, const float *p, int vocab, bool by_mass, double target,
                        double *rest)
{
    double *bins = xcalloc(BINS, sizeof *bins);
    uint32_t prefix = 0;
    for (int level = 0; level < LEVELS; level++) {
        int shift = level_shift[level], top = shift + level_bits[level];
        uint32_t mask = (1u << level_bits[level]) - 1;
        memset(bins, 0, BINS * sizeof *bins);
        for (int i = 0; i < vocab; i++) {
            uint32_t key = key_of(x[i]);
            if (p[i] > 0 && (top == 32 || key >> top == prefix))
                bins[key >> shift & mask] += by_mass ? (double)p[i] : 1;
        }
        uint32_t bin = mask, last = 0;
        for (; bin > 0 && bins[bin] < target; bin--) {
            target -= bins[bin];
            last = bins[bin] > 0 ? bin : last;
        }
        bin = bins[bin] > 0 ? bin : last; /* rounding left a crumb of the target: stop at the last */
        prefix = prefix << level_bits[level] | bin;
    }
    free(bins);
    *rest = target;
    return prefix;
}

/* Clears p below the cut; of the candidates at the cut itself the lowest ids stay. */
static void cut(const float *x, float *p, int vocab, bool by_mass, double target)
{
    double rest;
    uint32_t key = cut_key(x, p, vocab, by_mass, target, &rest);
    for (int i = 0; i < vocab; i++) {
        uint32_t mine = key_of(x[i]);
        if (mine > key || p[i] <= 0)
            continue;
        if (mine == key && rest > 0)
            rest -= by_mass ? (double)p[i] : 1;
        else
            p[i] = 0;
    }
}

static double sum_of(const float *p, int n)
{
    double sum = 0;
    for (int i = 0; i < n; i++)
        sum += (double)p[i];
    return sum;
}

/* Any filters: candidates are cleared from p, and one is drawn in order of id. */
static int32_t pick_cut(const float *x, int vocab, const struct sampling *s, double u, float max,
                        float least, const struct kernels *k)
{
    float *p = xcalloc((size_t)vocab, sizeof *p);
    int32_t id = 0;
    k->exp_scaled(p, x, vocab, max, 1.0f / s->temperature);
    for (int i = 0; i < vocab; i++)
        if (!(x[i] >= least && x[i] > -INFINITY))
            p[i] = 0;
    if (s->top_k > 0 && s->top_k < vocab)
        cut(x, p, vocab, false, s->top_k);
    if (s->top_p < 1)
        cut(x, p, vocab, true, (double)s->top_p * sum_of(p, vocab));
    double left = u * sum_of(p, vocab);
    for (int i = 0; i < vocab; i++) {
        if (p[i] <= 0)
            continue;
        id = i;
        left -= (double)p[i];
        if (left < 0)
            break;
    }
    free(p);
    return id;
}

static int32_t pick_filtered(const float *x, int vocab, const struct sampling *s, double u, float max,
                             float least, const struct kernels *k)
{
    bool has_k = s->top_k > 0 && s->top_k < vocab;
    int32_t id = -1;
    if (has_k ? s->top_k <= FEW : s->min_p <= 0)
        id = pick_few(x, vocab, s, u, max, least, k);
    return id >= 0 ? id : pick_cut(x, vocab, s, u, max, least, k);
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
    int32_t best = k->argmax(logits, vocab);
    if (best < 0)
        return -1;
    for (int i = 0; i < ban.n; i++)
        if (ban.ids[i] >= 0 && ban.ids[i] < vocab)
            logits[ban.ids[i]] = -INFINITY;
    if (ban.n)
        best = k->argmax(logits, vocab);
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
    int32_t best = k->argmax(logits, vocab);
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
