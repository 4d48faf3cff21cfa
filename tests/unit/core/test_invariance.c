/* Batch invariance: a request's answer is bitwise the same alone and in any mix, with any
 * chunking of prompts, any number of threads and any limit on the batch, on every
 * instruction set; and whatever of its prompt others have computed. */
#include "tests/support/run.h"
#include "tests/support/tiny.h"
#include "tests/test.h"

#include "core/base/check.h"
#include "core/base/mem.h"
#include "core/base/utf8.h"
#include "core/kernels/kernels.h"
#include "core/kv_pool.h"

#include <pthread.h>
#include <stdlib.h>

enum { N_SPECS = 24, N_PREFIXES = 7, MAX_MIX = 8, MAX_PROMPT = 200 };

struct spec {
    int prefix; /* -1: none */
    int n_prompt, max_tokens, n;
    bool is_echo, has_stop, counts_eos;
    struct sampling sampling;
};

/* Lengths cross tiles of 16 and spans of 128 keys, in prefixes and in own keys. The
 * prefixes are of 1, 5, 16, 17, 40, 130 and 150 tokens; contexts stay within 256. */
static const struct spec specs[N_SPECS] = {
    {-1, 1, 6, 1, false, false, false, {.top_p = 1}},
    {-1, 5, 12, 1, true, false, false, {.top_p = 1}},
    {-1, 16, 8, 1, false, false, true, {0.8f, 0.9f, 0, 0, 7}},
    {-1, 17, 6, 2, false, false, false, {1.0f, 1, 0, 0, 11}},
    {-1, 127, 5, 1, true, false, false, {.top_p = 1}},
    {-1, 128, 4, 1, false, false, false, {1.2f, 1, 0.05f, 0, 13}},
    {-1, 200, 4, 1, true, false, false, {.top_p = 1}},
    {-1, 23, 14, 1, false, true, false, {.top_p = 1}},
    {0, 3, 8, 1, false, false, false, {.top_p = 1}},
    {0, 130, 4, 1, false, false, false, {0.7f, 1, 0, 20, 17}},
    {1, 9, 8, 1, true, false, false, {.top_p = 1}},
    {1, 2, 10, 3, false, false, true, {1.5f, 0.95f, 0, 50, 19}},
    {2, 1, 12, 1, false, false, false, {1.0f, 0.5f, 0, 0, 23}},
    {2, 33, 5, 1, false, true, false, {0.9f, 1, 0, 0, 29}},
    {2, 33, 5, 1, true, false, false, {.top_p = 1}},
    {3, 15, 6, 1, false, false, false, {.top_p = 1}},
    {3, 64, 5, 1, false, false, false, {1.0f, 1, 0.1f, 0, 31}},
    {4, 4, 10, 1, true, true, false, {.top_p = 1}},
    {4, 70, 5, 2, false, false, false, {1.0f, 0.8f, 0, 0, 37}},
    {5, 6, 8, 1, false, false, false, {.top_p = 1}},
    {5, 90, 4, 1, false, false, false, {1.0f, 1, 0, 5, 41}},
    {6, 1, 6, 1, true, false, false, {.top_p = 1}},
    {6, 12, 8, 1, false, false, true, {2.0f, 1, 0, 0, 43}},
    {6, 48, 4, 1, false, false, false, {.top_p = 1}},
};

struct world {
    struct base_model *base;
    struct kv_prefix *prefixes[N_PREFIXES];
    float *rows;   /* soft prompt of 130 rows */
    int32_t *text; /* text adapter of 40 tokens */
    int32_t *prompts[N_SPECS];
    char stops[N_SPECS][16];
    struct run *expected[N_SPECS];
};

static struct run *make_run(const struct world *w, int i)
{
    const struct spec *s = &specs[i];
    struct run *run = run_new(w->prompts[i], s->n_prompt, s->max_tokens,
                              s->prefix < 0 ? NULL : w->prefixes[s->prefix]);
    run->job.n = s->n;
    run->job.sampling = s->sampling;
    run->job.is_echo = s->is_echo;
    run->job.ignore_eos = !s->counts_eos;
    run->job.n_logprobs = i % 4 ? RUN_MAX_TOP : 0;
    run->job.domain = (uint32_t)i % 3;
    if (w->stops[i][0]) {
        run->job.stops[0] = (struct job_stop){"\x01never", 6};
        run->job.stops[1] = (struct job_stop){w->stops[i], strlen(w->stops[i])};
        run->job.n_stops = 2;
    }
    return run;
}

static struct run *run_alone(const struct world *w, struct runner *r, int i)
{
    struct err err = {0};
    struct run *run = make_run(w, i);
    if (runner_post(r, run, &err) < 0)
        test_fail(__FILE__, __LINE__, "request %d: %s", i, err.msg);
    else
        runner_wait(r, &run, 1);
    return run;
}

/* A few characters from the middle of the answer that the request gives without stop
 * strings. */
static void choose_stop(struct world *w, struct runner *r, int i)
{
    struct run *run = run_alone(w, r, i);
    const struct answer *a = &run->answers[0];
    size_t from = 0, n = 0;
    while (from < a->text_len / 2)
        from += (size_t)utf8_char_len(a->text + from, a->text_len - from, NULL);
    while (n < 4 && from + n < a->text_len)
        n += (size_t)utf8_char_len(a->text + from + n, a->text_len - from - n, NULL);
    memcpy(w->stops[i], a->text + from, n);
    EXPECT(n > 0 && memchr(w->stops[i], 0, n) == NULL);
    run_free(run);
}

static struct kv_prefix *compile(const struct world *w, struct engine *e, int i)
{
    struct err err = {0};
    struct kv_prefix *p = i == 4 ? engine_prefix_from_tokens(e, 0, w->text, 40, &err)
                                 : engine_prefix_from_rows(e, 1, w->rows, 130, &err);
    if (!p)
        test_fail(__FILE__, __LINE__, "prefix %d: %s", i, err.msg);
    CHECK(p != NULL);
    return p;
}

static struct kv_prefix *hidden_prefix(const struct base_model *b, struct rng *r,
                                       int n_tokens)
{
    const struct model_shape *s = base_model_shape(b);
    struct err err = {0};
    size_t n = (size_t)(s->n_layers * n_tokens * s->dim);
    float *h = xcalloc(n, sizeof *h);
    rng_fill(r, h, n, 1);
    struct kv_prefix *p = kv_prefix_from_hidden(b, h, n_tokens, &err);
    free(h);
    CHECK(p != NULL);
    return p;
}

static void make_prefixes(struct world *w, struct engine *e, struct rng *r)
{
    const struct model_shape *s = base_model_shape(w->base);
    w->rows = xcalloc((size_t)(130 * s->dim), sizeof *w->rows);
    rng_fill(r, w->rows, (size_t)(130 * s->dim), 0.3f);
    w->text = tiny_ids(w->base, r, 40);
    w->prefixes[0] = tiny_prefix(w->base, r, 1);
    w->prefixes[1] = tiny_prefix(w->base, r, 5);
    w->prefixes[2] = hidden_prefix(w->base, r, 16);
    w->prefixes[3] = tiny_prefix(w->base, r, 17);
    w->prefixes[4] = compile(w, e, 4);
    w->prefixes[5] = compile(w, e, 5);
    w->prefixes[6] = tiny_prefix(w->base, r, 150);
}

static void world_open(struct world *w, const char *model, enum dtype_choice dtype)
{
    struct rng rng = {4711};
    *w = (struct world){.base = tiny_open_as(model, dtype)};
    struct engine_opts opts = {.n_threads = 1, .max_ctx = 256, .no_text_cache = true};
    struct runner *r = runner_new(w->base, opts);
    make_prefixes(w, runner_engine(r), &rng);
    for (int i = 0; i < N_SPECS; i++)
        w->prompts[i] = tiny_ids(w->base, &rng, specs[i].n_prompt);
    for (int i = 0; i < N_SPECS; i++)
        if (specs[i].has_stop)
            choose_stop(w, r, i);
    for (int i = 0; i < N_SPECS; i++) {
        w->expected[i] = run_alone(w, r, i);
        EXPECT(w->expected[i]->is_done && !w->expected[i]->has_failed);
        if (specs[i].has_stop)
            EXPECT_EQ(w->expected[i]->answers[0].stop_index, 1);
    }
    runner_free(r);
}

static void world_close(struct world *w)
{
    for (int i = 0; i < N_SPECS; i++) {
        run_free(w->expected[i]);
        free(w->prompts[i]);
    }
    for (int i = 0; i < N_PREFIXES; i++)
        kv_prefix_free(w->prefixes[i]);
    free(w->rows);
    free(w->text);
    base_model_free(w->base);
}

static bool same_answers(const struct run *a, const struct run *b)
{
    if (a->has_failed || !a->is_done)
        return false;
    for (int c = 0; c < a->job.n; c++)
        if (!answer_equals(&a->answers[c], &b->answers[c]) ||
            a->answers[c].n_generated != b->answers[c].n_generated)
            return false;
    return true;
}

static bool all_done(struct run **runs, int n)
{
    for (int i = 0; i < n; i++)
        if (!runs[i]->is_done)
            return false;
    return true;
}

/* Posts some of the requests, some of them after others have begun; all must answer as
 * alone. */
static int run_mix(const struct world *w, struct runner *r, struct rng *rng, int max_mix)
{
    struct run *runs[MAX_MIX];
    struct err err = {0};
    int which[MAX_MIX], n = rng_between(rng, 1, max_mix), n_wrong = 0;
    for (int i = 0; i < n; i++) {
        which[i] = rng_below(rng, N_SPECS);
        runs[i] = make_run(w, which[i]);
        if (runner_post(r, runs[i], &err) < 0)
            test_fail(__FILE__, __LINE__, "request %d: %s", which[i], err.msg);
        for (int events = rng_below(rng, 4); events > 1 && !all_done(runs, i + 1); events--)
            runner_wait_event(r);
    }
    runner_wait(r, runs, n);
    for (int i = 0; i < n; i++) {
        if (!same_answers(runs[i], w->expected[which[i]])) {
            n_wrong++;
            test_fail(__FILE__, __LINE__, "request %d differs in a mix of %d", which[i], n);
        }
        run_free(runs[i]);
    }
    return n_wrong;
}

static size_t small_pool(const struct world *w)
{
    return 24 * kv_pool_block_bytes(base_model_shape(w->base));
}

/* Every second pool is so small that texts have to go. */
static struct engine_opts random_opts(const struct world *w, struct rng *rng)
{
    static const int chunks[] = {1, 3, 16, 64, 200};
    return (struct engine_opts){
        .n_threads = rng_between(rng, 1, 3),
        .max_ctx = 256,
        .prefill_chunk = chunks[rng_below(rng, 5)],
        .max_batch = rng_between(rng, 1, 16),
        .no_text_cache = rng_below(rng, 4) == 0,
        .kv_bytes = rng_below(rng, 2) ? small_pool(w) : 0,
    };
}

static void report(const struct engine_opts *o, const char *model)
{
    printf("  %s, %d threads, chunk %d, batch %d, KV %zu, %s text cache\n", model, o->n_threads,
           o->prefill_chunk, o->max_batch, o->kv_bytes, o->no_text_cache ? "no" : "with");
}

static void run_mixes_as(const char *model, enum dtype_choice dtype, const char *isa, int n_mixes,
                         int max_mix, uint64_t seed)
{
    enum { PER_ENGINE = 8 };
    struct world w;
    struct rng rng = {seed};
    setenv("PREFIXD_ISA", isa, 1);
    if (strcmp(kernels_get()->name, isa) != 0) {
        unsetenv("PREFIXD_ISA");
        printf("  %s: not on this CPU\n", isa);
        return;
    }
    world_open(&w, model, dtype);
    int n_wrong = 0;
    for (int done = 0; done < n_mixes && !n_wrong;) {
        struct engine_opts opts = random_opts(&w, &rng);
        struct runner *r = runner_new(w.base, opts);
        for (int i = 0; i < PER_ENGINE && done < n_mixes && !n_wrong; i++, done++)
            n_wrong = run_mix(&w, r, &rng, max_mix);
        if (n_wrong)
            report(&opts, model);
        runner_free(r);
    }
    world_close(&w);
    unsetenv("PREFIXD_ISA");
}

static void run_mixes(const char *model, const char *isa, int n_mixes, int max_mix, uint64_t seed)
{
    run_mixes_as(model, DTYPE_CHOICE_AUTO, isa, n_mixes, max_mix, seed);
}

TEST(invariance_gqa_f32)
{
    run_mixes(TINY_GQA, "generic", tiny_scaled(250), 6, 1);
    run_mixes(TINY_GQA, "avx2", tiny_scaled(350), 6, 2);
    run_mixes(TINY_GQA, "avx512", tiny_scaled(350), 6, 3);
}

TEST(invariance_wide_f32)
{
    run_mixes(TINY_WIDE, "generic", tiny_scaled(250), 6, 4);
    run_mixes(TINY_WIDE, "avx2", tiny_scaled(300), 6, 5);
    run_mixes(TINY_WIDE, "avx512", tiny_scaled(300), 6, 6);
}

TEST(invariance_demo_bf16)
{
    run_mixes(TINY_DEMO, "generic", tiny_scaled(40), 4, 7);
    run_mixes(TINY_DEMO, "avx2", tiny_scaled(80), 5, 8);
    run_mixes(TINY_DEMO, "avx512", tiny_scaled(60), 5, 9);
    run_mixes(TINY_DEMO, "avx512bf16", tiny_scaled(100), MAX_MIX, 10);
}

/* Inputs are whole blocks of 64 (gqa) or not (wide, demo). */
TEST(invariance_int8)
{
    run_mixes_as(TINY_GQA, DTYPE_CHOICE_INT8, "generic", tiny_scaled(60), 6, 11);
    run_mixes_as(TINY_GQA, DTYPE_CHOICE_INT8, "avx2", tiny_scaled(120), 6, 12);
    run_mixes_as(TINY_GQA, DTYPE_CHOICE_INT8, "avx512", tiny_scaled(120), 6, 13);
    run_mixes_as(TINY_WIDE, DTYPE_CHOICE_INT8, "avx512vnni", tiny_scaled(120), 6, 14);
    run_mixes_as(TINY_DEMO, DTYPE_CHOICE_INT8, "avx512bf16", tiny_scaled(100), MAX_MIX, 15);
}

TEST(invariance_int4)
{
    run_mixes_as(TINY_GQA, DTYPE_CHOICE_INT4, "generic", tiny_scaled(60), 6, 16);
    run_mixes_as(TINY_GQA, DTYPE_CHOICE_INT4, "avx2", tiny_scaled(120), 6, 17);
    run_mixes_as(TINY_GQA, DTYPE_CHOICE_INT4, "avx512", tiny_scaled(120), 6, 18);
    run_mixes_as(TINY_WIDE, DTYPE_CHOICE_INT4, "avx512vnni", tiny_scaled(120), 6, 19);
    run_mixes_as(TINY_DEMO, DTYPE_CHOICE_INT4, "avx512bf16", tiny_scaled(100), MAX_MIX, 20);
}

/* ---- prefixes compiled beside other work
 * --------------------------------------------------------- */

struct compiler {
    const struct world *w;
    struct engine *e;
    int which;
    struct kv_prefix *made;
};

static void *compile_main(void *ud)
{
    struct compiler *c = ud;
    c->made = compile(c->w, c->e, c->which);
    return NULL;
}

static bool same_prefix(const struct kv_prefix *a, const struct kv_prefix *b)
{
    return a->n_tokens == b->n_tokens && a->first_pos == b->first_pos &&
           a->bytes == b->bytes && memcmp(a->k, b->k, a->bytes / 2) == 0 &&
           memcmp(a->v, b->v, a->bytes / 2) == 0;
}

static void compile_beside(const struct world *w, struct runner *r, struct rng *rng)
{
    struct compiler c[2] = {{w, runner_engine(r), 4, NULL}, {w, runner_engine(r), 5, NULL}};
    pthread_t threads[2];
    for (int i = 0; i < 2; i++)
        CHECK(pthread_create(&threads[i], NULL, compile_main, &c[i]) == 0);
    EXPECT_EQ(run_mix(w, r, rng, 6), 0);
    for (int i = 0; i < 2; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
        EXPECT(same_prefix(c[i].made, w->prefixes[c[i].which]));
        kv_prefix_free(c[i].made);
    }
}

static void compile_world(const char *model, enum dtype_choice dtype, int n, uint64_t seed)
{
    struct world w;
    struct rng rng = {seed};
    world_open(&w, model, dtype);
    for (int i = 0; i < n; i++) {
        struct runner *r = runner_new(w.base, random_opts(&w, &rng));
        compile_beside(&w, r, &rng);
        compile_beside(&w, r, &rng); /* over blocks that others have used */
        runner_free(r);
    }
    world_close(&w);
}

TEST(compiled_prefixes_are_the_same_beside_other_work)
{
    compile_world(TINY_GQA, DTYPE_CHOICE_AUTO, tiny_scaled(25), 21);
    compile_world(TINY_WIDE, DTYPE_CHOICE_AUTO, tiny_scaled(15), 22);
    compile_world(TINY_DEMO, DTYPE_CHOICE_AUTO, tiny_scaled(6), 23);
    compile_world(TINY_WIDE, DTYPE_CHOICE_INT8, tiny_scaled(6), 24);
}

/* ---- conversations
 * ------------------------------------------------------------------------------- */

enum { N_TALKS = 12, TALK_MAX = 160 };

struct talk { /* all that was said, by both sides */
    int prefix;
    uint32_t domain;
    int32_t ids[TALK_MAX];
    int n;
    int max_tokens, n_choices;
    bool is_echo;
    struct sampling sampling;
};

/* Many begin alike, in places that are no ends of blocks. */
static void begin_talk(const struct world *w, struct talk *t, struct rng *rng)
{
    static const int spec_of[] = {4, 5, 6}; /* long prompts */
    t->prefix = rng_below(rng, 3) - 1;
    t->domain = (uint32_t)rng_below(rng, 2);
    t->n = rng_between(rng, 1, 90);
    memcpy(t->ids, w->prompts[spec_of[rng_below(rng, 2)]], (size_t)t->n * sizeof *t->ids);
}

static void add_ids(struct talk *t, const int32_t *ids, int n)
{
    memcpy(t->ids + t->n, ids, (size_t)n * sizeof *ids);
    t->n += n;
}

/* What is said next; an answer of at most 20 tokens has room behind it. */
static void say(const struct world *w, struct talk *t, struct rng *rng)
{
    if (t->n == 0 || t->n > TALK_MAX - 60)
        begin_talk(w, t, rng);
    int n = rng_below(rng, 40);
    int32_t *ids = tiny_ids(w->base, rng, 40);
    add_ids(t, ids, n);
    free(ids);
    t->max_tokens = rng_between(rng, 1, 20);
    t->n_choices = rng_below(rng, 4) ? 1 : 3;
    t->is_echo = rng_below(rng, 8) == 0;
    t->sampling = (struct sampling){.top_p = 1, .seed = rng_next(rng)};
    t->sampling.temperature = rng_below(rng, 2) ? 0 : 1;
}

static struct run *talk_run(const struct world *w, const struct talk *t)
{
    struct run *run =
        run_new(t->ids, t->n, t->max_tokens, t->prefix < 0 ? NULL : w->prefixes[t->prefix]);
    run->job.domain = t->domain;
    run->job.n = t->n_choices;
    run->job.is_echo = t->is_echo;
    run->job.sampling = t->sampling;
    return run;
}

/* Of a cancelled one, what came. */
static bool is_beginning(const struct answer *a, const struct answer *whole)
{
    size_t n = (size_t)a->n_ids;
    return a->n_ids <= whole->n_ids && memcmp(a->ids, whole->ids, n * sizeof *a->ids) == 0 &&
           memcmp(a->logprobs, whole->logprobs, n * sizeof *a->logprobs) == 0;
}

/* The run of a talk in a mix, against the same alone and without a cache; then the talk goes on. */
static bool check_talk(const struct world *w, struct runner *plain, struct talk *t, struct run *run)
{
    struct err err = {0};
    struct run *alone = talk_run(w, t);
    CHECK(runner_post(plain, alone, &err) == 0);
    runner_wait(plain, &alone, 1);
    bool is_same = !run->has_failed;
    for (int c = 0; c < t->n_choices; c++)
        is_same &= run->answers[c].has_ended ? answer_equals(&run->answers[c], &alone->answers[c])
                                             : is_beginning(&run->answers[c], &alone->answers[c]);
    add_ids(t, alone->answers[0].ids, alone->answers[0].n_ids);
    run_free(alone);
    return is_same;
}

static int talk_mix(const struct world *w, struct runner *r, struct runner *plain,
                    struct talk *talks, struct rng *rng)
{
    struct run *runs[MAX_MIX];
    struct err err = {0};
    int first = rng_below(rng, N_TALKS), n = rng_between(rng, 1, MAX_MIX), n_wrong = 0;
    for (int i = 0; i < n; i++) {
        struct talk *t = &talks[(first + i) % N_TALKS];
        say(w, t, rng);
        runs[i] = talk_run(w, t);
        CHECK(runner_post(r, runs[i], &err) == 0);
        for (int events = rng_below(rng, 4); events > 1 && !all_done(runs, i + 1); events--)
            runner_wait_event(r);
        if (rng_below(rng, 6) == 0)
            atomic_store(&runs[rng_below(rng, i + 1)]->job.cancelled, true);
    }
    runner_wait(r, runs, n);
    for (int i = 0; i < n; i++) {
        n_wrong += !check_talk(w, plain, &talks[(first + i) % N_TALKS], runs[i]);
        run_free(runs[i]);
    }
    return n_wrong;
}

static void run_talks(const char *model, int n_mixes, uint64_t seed)
{
    enum { PER_ENGINE = 20 };
    struct world w;
    struct rng rng = {seed};
    struct engine_opts alone = {.n_threads = 1, .max_ctx = 256, .no_text_cache = true};
    struct engine_stats s;
    uint64_t n_found = 0, n_evicted = 0;
    int n_wrong = 0;
    world_open(&w, model, DTYPE_CHOICE_AUTO);
    struct runner *plain = runner_new(w.base, alone);
    for (int done = 0; done < n_mixes && !n_wrong;) {
        struct talk talks[N_TALKS] = {{0}};
        struct engine_opts opts = random_opts(&w, &rng);
        opts.no_text_cache = false;
        if (done == 0)
            opts.kv_bytes = small_pool(&w);
        struct runner *r = runner_new(w.base, opts);
        for (int i = 0; i < PER_ENGINE && done < n_mixes && !n_wrong; i++, done++)
            n_wrong = talk_mix(&w, r, plain, talks, &rng);
        engine_stats(runner_engine(r), &s);
        n_found += s.text_found;
        n_evicted += s.text_evicted;
        EXPECT_EQ(s.kv_blocks_used, 0);
        if (n_wrong)
            report(&opts, model);
        runner_free(r);
    }
    EXPECT_EQ(n_wrong, 0);
    EXPECT(n_found > 0 && n_evicted > 0);
    runner_free(plain);
    world_close(&w);
}

TEST(conversations_are_the_same_with_and_without_a_text_cache)
{
    run_talks(TINY_GQA, tiny_scaled(400), 31);
    run_talks(TINY_WIDE, tiny_scaled(300), 32);
    run_talks(TINY_DEMO, tiny_scaled(80), 33);
}
