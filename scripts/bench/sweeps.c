/* The sweeps: what is measured over what. */
#include "scripts/bench/sweeps.h"

#include "core/base/mem.h"
#include "core/kernels/kernels.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct list sweep_list(const char *name, const char *s, int min, int max)
{
    struct list l = {0};
    for (const char *at = s;;) {
        char *end;
        long v = strtol(at, &end, 10);
        if (end == at || v < min || v > max || l.n == SWEEP_MAX_LIST || (*end && *end != ','))
            run_die("%s %s: up to %d numbers from %d to %d, separated by commas", name, s,
                    SWEEP_MAX_LIST, min, max);
        l.v[l.n++] = (int)v;
        if (!*end)
            return l;
        at = end + 1;
    }
}

static struct list list_or(const struct list *given, const char *own)
{
    return given->n ? *given : sweep_list("", own, 0, 1 << 20);
}

static int largest(const struct list *l)
{
    int most = l->v[0];
    for (int i = 1; i < l->n; i++)
        most = l->v[i] > most ? l->v[i] : most;
    return most;
}

static void probe(struct bench *b)
{
    probe_machine(b->run.n_threads, kernels_get()->name, b->memory, (size_t)b->probe_mib << 20,
                  &b->report.probe);
}

/* The prefixes asked for, none longer than the context leaves room for beside own tokens. */
static struct list prefixes_or(const struct bench *b, const char *own_list, int own)
{
    struct list l = list_or(&b->prefix, own_list);
    int room = base_model_shape(b->run.base)->max_pos - own;
    if (room < 1)
        run_die("the model's context has no room for a prefix and %d own tokens", own);
    for (int i = 0; i < l.n; i++)
        l.v[i] = l.v[i] < room ? l.v[i] : room;
    return l;
}

/* ---- prompts --------------------------------------------------------------------------------- */

static void prefill_case(struct bench *b, int n_tokens, int prefix)
{
    struct result r = {"prefill", "prompt", 1, n_tokens, .n_runs = b->n_runs};
    struct kv_prefix **p = NULL;
    if (prefix) {
        r.n_prefixes = 1;
        r.prefix = prefix;
        p = run_prefixes(&b->run, 1, prefix);
    }
    probe(b);
    for (int run = 0; run < b->n_runs; run++)
        r.rates[run] = run_prefill(&b->run, n_tokens, p ? p[0] : NULL);
    report_group(&b->report, &r, 1);
    run_free_prefixes(p, 1);
}

static void sweep_prefill(struct bench *b)
{
    struct list prompt = list_or(&b->prompt, "32,128,512,2048");
    struct list prefix = prefixes_or(b, "0,2048", largest(&prompt) + 1);
    run_open(&b->run, 1, largest(&prompt) + 1);
    for (int p = 0; p < prefix.n; p++)
        for (int i = 0; i < prompt.n; i++)
            prefill_case(b, prompt.v[i], prefix.v[p]);
    run_close(&b->run);
}

/* ---- rows without prefixes ------------------------------------------------------------------- */

/* An engine with room for every case of these lists; returns the most own tokens that a row can
 * have. */
static int open_for(struct bench *b, const struct list *rows, const struct list *context,
                    int windows)
{
    struct decoding d = {largest(rows), largest(context), b->tokens, windows, NULL};
    int own = run_decode_tokens(&b->run, &d);
    run_open(&b->run, d.rows, d.rows * own);
    return own;
}

static void decode_case(struct bench *b, const char *sweep, int rows, int context, bool in_a_row)
{
    struct decoding d = {rows, context, b->tokens, in_a_row ? b->n_runs : 1, NULL};
    struct result r = {sweep, "rows", rows, context, b->tokens, .n_runs = b->n_runs};
    probe(b);
    for (int run = 0; run < b->n_runs; run += d.windows)
        run_decode(&b->run, &d, r.rates + run);
    report_group(&b->report, &r, 1);
}

static void sweep_decode(struct bench *b)
{
    struct list rows = list_or(&b->rows, "1,2,4,8,16,32"), context = list_or(&b->context, "64");
    open_for(b, &rows, &context, 1);
    for (int c = 0; c < context.n; c++)
        for (int i = 0; i < rows.n; i++)
            decode_case(b, "decode", rows.v[i], context.v[c], false);
    run_close(&b->run);
}

/* Long contexts are computed once, and all runs follow with the same sequences. */
static void sweep_context(struct bench *b)
{
    struct list rows = list_or(&b->rows, "8"), context = list_or(&b->context, "64,1024,4096");
    open_for(b, &rows, &context, b->n_runs);
    for (int c = 0; c < context.n; c++)
        for (int i = 0; i < rows.n; i++)
            decode_case(b, "context", rows.v[i], context.v[c], true);
    run_close(&b->run);
}

/* ---- over prefixes --------------------------------------------------------------------------- */

/* Which rows read the same prefix: the first sizes[0] of them one, the next sizes[1] another. */
struct mix {
    const char *name;
    int n, sizes[SWEEP_MAX_ROWS];
};

static struct mix even(const char *name, int rows, int n)
{
    struct mix m = {name, .n = n};
    for (int i = 0; i < n; i++)
        m.sizes[i] = rows / n + (i < rows % n);
    return m;
}

/* Each prefix is 1.5 times as popular as the next; the sizes and the end are those of Punica's
 * benchmark (arXiv 2310.18547). */
static struct mix skewed(int rows)
{
    struct mix m = {"skewed", .n = 0};
    int left = rows;
    for (double size = 1; (int)size < left; size *= 1.5)
        left -= m.sizes[m.n++] = (int)size;
    m.sizes[m.n++] = left;
    return m;
}

struct over_prefixes {
    const char *sweep;
    int rows, context, prefix; /* prefix: tokens of each */
    struct mix mixes[SWEEP_MAX_LIST];
    int n;
};

/* Takes out the mixes whose prefixes would need more memory than is allowed; returns the most
 * prefixes that one of the others has. */
static int drop_large_mixes(const struct bench *b, struct over_prefixes *o)
{
    size_t each = kv_prefix_bytes(base_model_shape(b->run.base), o->prefix);
    size_t allowed = (size_t)b->prefix_mib << 20;
    int n = 0, most = 0;
    for (int i = 0; i < o->n; i++) {
        if ((size_t)o->mixes[i].n * each > allowed) {
            printf("%-10s %5d %8d %7d %9d   left out: %zu MiB of prefixes (--prefix-mib)\n",
                   o->mixes[i].name, o->rows, o->context, o->prefix, o->mixes[i].n,
                   (size_t)o->mixes[i].n * each >> 20);
            continue;
        }
        most = o->mixes[i].n > most ? o->mixes[i].n : most;
        o->mixes[n++] = o->mixes[i];
    }
    o->n = n;
    return most;
}

static void deal(const struct mix *m, struct kv_prefix **prefixes, struct kv_prefix **of)
{
    for (int i = 0, row = 0; i < m->n; i++)
        for (int k = 0; k < m->sizes[i]; k++)
            of[row++] = prefixes[i];
}

/* The mixes in alternation; the ratio of the last to the first, NAN if there are not two. */
static double compare_mixes(struct bench *b, struct over_prefixes *o)
{
    struct kv_prefix *of[SWEEP_MAX_ROWS];
    struct decoding d = {o->rows, o->context, b->tokens, 1, of};
    int n_prefixes = drop_large_mixes(b, o);
    if (!o->n)
        return NAN;
    struct result *r = xcalloc((size_t)o->n, sizeof *r);
    struct kv_prefix **prefixes = run_prefixes(&b->run, n_prefixes, o->prefix);
    for (int i = 0; i < o->n; i++)
        r[i] = (struct result){.sweep = o->sweep,
                               .variant = o->mixes[i].name,
                               .rows = o->rows,
                               .context = o->context,
                               .tokens = b->tokens,
                               .prefix = o->prefix,
                               .n_prefixes = o->mixes[i].n,
                               .n_runs = b->n_runs};
    probe(b);
    for (int run = 0; run < b->n_runs; run++)
        for (int i = 0; i < o->n; i++) {
            deal(&o->mixes[i], prefixes, of);
            run_decode(&b->run, &d, &r[i].rates[run]);
        }
    report_group(&b->report, r, o->n);
    double ratio = o->n > 1 ? r[o->n - 1].ratio : NAN;
    run_free_prefixes(prefixes, n_prefixes);
    free(r);
    return ratio;
}

/* One prefix for all rows against a copy of it for each. */
static double sharing_case(struct bench *b, int rows, int context, int prefix)
{
    struct over_prefixes o = {"sharing", rows, context, prefix, .n = 0};
    if (rows > 1)
        o.mixes[o.n++] = even("copies", rows, rows);
    o.mixes[o.n++] = even("shared", rows, 1);
    return compare_mixes(b, &o);
}

enum { GAIN_PERCENT = 5 };

/* gains: [prefix.n] of shared over copies, NAN where that was not compared. Says from which length
 * on, and for all longer ones, sharing gains; lengths go up. */
static void report_crossover(int rows, const struct list *prefix, const double *gains)
{
    int from = prefix->n;
    while (from > 0 && !(gains[from - 1] < 1 + GAIN_PERCENT / 100.0))
        from--;
    while (from < prefix->n && isnan(gains[from]))
        from++;
    if (from < prefix->n)
        printf("  %d rows gain %d %% or more by sharing from %d tokens on (%.2f x)\n", rows,
               GAIN_PERCENT, prefix->v[from], gains[from]);
    else
        printf("  %d rows gain less than %d %% by sharing\n", rows, GAIN_PERCENT);
}

static void sweep_sharing(struct bench *b)
{
    struct list rows = list_or(&b->rows, "1,2,4,8,16,32"), context = list_or(&b->context, "16");
    int own = open_for(b, &rows, &context, 1);
    struct list prefix = prefixes_or(b, "0,20,128,512,2048,8192", own);
    double gains[SWEEP_MAX_LIST][SWEEP_MAX_LIST];
    for (int p = 0; p < prefix.n; p++)
        for (int i = 0; i < rows.n; i++) {
            gains[i][p] = NAN;
            if (prefix.v[p] == 0)
                decode_case(b, "sharing", rows.v[i], context.v[0], false);
            else
                gains[i][p] = sharing_case(b, rows.v[i], context.v[0], prefix.v[p]);
        }
    printf("\ncrossover, one prefix against a copy for each row:\n");
    for (int i = 0; i < rows.n; i++)
        if (rows.v[i] > 1)
            report_crossover(rows.v[i], &prefix, gains[i]);
    run_close(&b->run);
}

/* fill: adds the mixes for o->rows. */
static void sweep_mixes_of(struct bench *b, const char *sweep, const char *prefixes,
                           void (*fill)(const struct bench *b, struct over_prefixes *o))
{
    struct list rows = list_or(&b->rows, "32"), context = list_or(&b->context, "16");
    struct list prefix = prefixes_or(b, prefixes, open_for(b, &rows, &context, 1));
    for (int p = 0; p < prefix.n; p++)
        for (int i = 0; i < rows.n; i++) {
            struct over_prefixes o = {sweep, rows.v[i], context.v[0], prefix.v[p], .n = 0};
            fill(b, &o);
            if (prefix.v[p] > 0)
                compare_mixes(b, &o);
        }
    run_close(&b->run);
}

static void add_numbers(const struct bench *b, struct over_prefixes *o)
{
    struct list n = list_or(&b->prefixes, "1,2,4,8,16,32");
    for (int i = 0; i < n.n; i++)
        if (n.v[i] > 0 && n.v[i] <= o->rows)
            o->mixes[o->n++] = even("even", o->rows, n.v[i]);
}

static void sweep_prefixes(struct bench *b)
{
    sweep_mixes_of(b, "prefixes", "2048", add_numbers);
}

static void add_popularities(const struct bench *b, struct over_prefixes *o)
{
    (void)b;
    o->mixes[o->n++] = even("distinct", o->rows, o->rows);
    o->mixes[o->n++] = even("uniform", o->rows, (int)ceil(sqrt(o->rows)));
    o->mixes[o->n++] = skewed(o->rows);
    o->mixes[o->n++] = even("identical", o->rows, 1);
}

static void sweep_mixes(struct bench *b)
{
    sweep_mixes_of(b, "mixes", "16,512,2048", add_popularities);
}

/* ---- all of them ----------------------------------------------------------------------------- */

static const struct {
    const char *name, *what;
    void (*run)(struct bench *b);
} sweeps[] = {
    {"prefill", "a prompt alone, head for its last row", sweep_prefill},
    {"decode", "rows that decode at once", sweep_decode},
    {"context", "rows with long contexts of their own", sweep_context},
    {"sharing", "one prefix for all rows against a copy for each", sweep_sharing},
    {"prefixes", "one prefix for all rows against several", sweep_prefixes},
    {"mixes", "adapters by popularity, as Punica mixes them", sweep_mixes},
};

enum { N_SWEEPS = sizeof sweeps / sizeof *sweeps };

void sweep_run(struct bench *b, const char *name)
{
    for (int i = 0; i < N_SWEEPS; i++)
        if (strcmp(sweeps[i].name, name) == 0) {
            report_heading(name, sweeps[i].what);
            sweeps[i].run(b);
            return;
        }
    run_die("there is no sweep %s: prefill, decode, context, sharing, prefixes, mixes", name);
}
