/* Golden answers of transformers and PEFT, all of a model's cases at once in mixed batches. */
#include "tests/support/catalog.h"
#include "tests/support/run.h"
#include "tests/support/tiny.h"
#include "tests/test.h"

#include "adapters/adapters.h"
#include "core/base/buf.h"
#include "core/base/mem.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <stdlib.h>
#include <unistd.h>

enum { MAX_CASES = 256 };

struct golden {
    cJSON *root;
    struct base_model *base;
    struct runner *runner;
    struct catalog *adapters;
    struct run *runs[MAX_CASES];
    int32_t *prompts[MAX_CASES];
    struct adapter_version *versions[MAX_CASES];
    int n;
};

static char *read_file(const char *path)
{
    FILE *f = fopen(path, "rb");
    struct buf b = {0};
    char piece[65536];
    size_t n;
    if (!f)
        return NULL;
    while ((n = fread(piece, 1, sizeof piece, f)))
        buf_add(&b, piece, n);
    fclose(f);
    return buf_take(&b, NULL);
}

static int32_t *int_array(const cJSON *a, int *n)
{
    *n = cJSON_GetArraySize(a);
    int32_t *out = xcalloc((size_t)*n + 1, sizeof *out);
    int i = 0;
    const cJSON *v;
    cJSON_ArrayForEach(v, a) out[i++] = (int32_t)v->valuedouble;
    return out;
}

static bool open_golden(struct golden *g, const char *json, const char *model, enum dtype_choice dtype,
                        const char *adapters)
{
    struct err err = {0};
    char *text = read_file(json);
    g->root = text ? cJSON_Parse(text) : NULL;
    free(text);
    g->base = g->root ? base_model_open(model, dtype, &err) : NULL;
    if (!g->base) {
        test_fail(__FILE__, __LINE__, "%s: %s", model, err.msg);
        return false;
    }
    g->runner = runner_new(g->base, (struct engine_opts){.n_threads = 2, .prefill_chunk = 24});
    g->adapters = catalog_new(g->base, runner_engine(g->runner));
    if (adapters)
        catalog_import(g->adapters, adapters);
    return true;
}

static const struct kv_prefix *prefix_of(struct golden *g, const cJSON *c, int i)
{
    struct err err = {0};
    const cJSON *name = cJSON_GetObjectItem(c, "adapter"), *task = cJSON_GetObjectItem(c, "task_id");
    if (!cJSON_IsString(name))
        return NULL;
    g->versions[i] = catalog_acquire(g->adapters, name->valuestring, &err);
    const struct kv_prefix *p =
        g->versions[i] ? adapter_version_prefix(g->versions[i], cJSON_IsNumber(task),
                                                cJSON_IsNumber(task) ? task->valueint : 0, &err)
                       : NULL;
    if (!p)
        test_fail(__FILE__, __LINE__, "%s: %s", name->valuestring, err.msg);
    return p;
}

static void post_case(struct golden *g, const cJSON *c)
{
    struct err err = {0};
    int n_prompt, i = g->n++;
    int n_new = cJSON_GetArraySize(cJSON_GetObjectItem(c, "ids"));
    g->prompts[i] = int_array(cJSON_GetObjectItem(c, "prompt_ids"), &n_prompt);
    g->runs[i] = run_new(g->prompts[i], n_prompt, n_new, prefix_of(g, c, i));
    g->runs[i]->job.is_echo = true;
    if (runner_post(g->runner, g->runs[i], &err) < 0)
        test_fail(__FILE__, __LINE__, "case %d: %s", i, err.msg);
}

/* The largest difference of log-probabilities, or infinity where tokens differ. */
static double compare(const cJSON *c, const struct answer *a)
{
    double worst = 0;
    const cJSON *ids = cJSON_GetObjectItem(c, "ids"), *lps = cJSON_GetObjectItem(c, "logprobs");
    const cJSON *tops = cJSON_GetObjectItem(c, "top");
    for (int i = 0; i < cJSON_GetArraySize(ids); i++) {
        if (i >= a->n_ids || a->ids[i] != cJSON_GetArrayItem(ids, i)->valueint)
            return INFINITY;
        worst = fmax(worst, fabs(a->logprobs[i] - cJSON_GetArrayItem(lps, i)->valuedouble));
        const cJSON *top = cJSON_GetArrayItem(tops, i);
        for (int k = 0; k < 5; k++)
            worst = fmax(worst, fabs(a->top[i][k].logprob -
                                     cJSON_GetArrayItem(cJSON_GetArrayItem(top, k), 1)->valuedouble));
    }
    const cJSON *plps = cJSON_GetObjectItem(c, "prompt_logprobs");
    if (plps && cJSON_GetArraySize(plps) != a->n_prompt_scores)
        return INFINITY;
    for (int i = 1; plps && i < a->n_prompt_scores; i++)
        worst = fmax(worst, fabs(a->prompt_logprobs[i] - cJSON_GetArrayItem(plps, i)->valuedouble));
    return worst;
}

static void run_golden(const char *json, const char *model, enum dtype_choice dtype, const char *adapters,
                       double tolerance)
{
    struct golden g = {0};
    if (open_golden(&g, json, model, dtype, adapters)) {
        const cJSON *c;
        cJSON_ArrayForEach(c, cJSON_GetObjectItem(g.root, "cases")) post_case(&g, c);
        runner_wait(g.runner, g.runs, g.n);
        int i = 0;
        EXPECT(g.n > 0);
        cJSON_ArrayForEach(c, cJSON_GetObjectItem(g.root, "cases"))
        {
            double d = compare(c, &g.runs[i]->answers[0]);
            const cJSON *name = cJSON_GetObjectItem(c, "adapter");
            if (!(d <= tolerance))
                test_fail(__FILE__, __LINE__, "%s case %d (%s): off by %g", json, i,
                          cJSON_IsString(name) ? name->valuestring : "base", d);
            i++;
        }
    }
    for (int i = 0; i < g.n; i++) {
        run_free(g.runs[i]);
        free(g.prompts[i]);
        if (g.versions[i])
            adapters_release(g.versions[i]);
    }
    catalog_free(g.adapters);
    if (g.runner)
        runner_free(g.runner);
    base_model_free(g.base);
    cJSON_Delete(g.root);
}

static void run_tiny(const char *name, const char *suffix)
{
    char json[512], model[512], adapters[512];
    snprintf(json, sizeof json, "%s/tests/golden/%s.json", test_root(), name);
    snprintf(model, sizeof model, "%s/tests/golden/models/%s%s", test_root(), name, suffix);
    snprintf(adapters, sizeof adapters, "%s/tests/golden/adapters/%s", test_root(), name);
    run_golden(json, model, DTYPE_CHOICE_F32, access(adapters, R_OK) == 0 ? adapters : NULL, 1e-3);
}

TEST(golden_gqa)
{
    run_tiny("gqa", "");
}

TEST(golden_wide)
{
    run_tiny("wide", "");
}

TEST(golden_mha)
{
    run_tiny("mha", "");
}

TEST(golden_llama3)
{
    run_tiny("llama3", "");
}

TEST(golden_linear)
{
    run_tiny("linear", "");
}

TEST(golden_mixed_gguf)
{
    run_tiny("mixed", ".gguf");
}

/* The trained tiny model in each type, on every instruction set; keys and values are bf16 in the references too. */
static void run_dtype(const char *dtype, double tolerance)
{
    static const char *const isas[] = {"generic", "avx2", "avx512", "avx512vnni", "avx512bf16"};
    char json[512], model[512];
    snprintf(json, sizeof json, "%s/tests/golden/tiny_%s.json", test_root(), dtype);
    snprintf(model, sizeof model, "%s/demo/tiny/model", test_root());
    for (size_t i = 0; i < sizeof isas / sizeof *isas; i++) {
        setenv("PREFIXD_ISA", isas[i], 1);
        run_golden(json, model, base_model_dtype_choice(dtype), NULL, tolerance);
    }
    unsetenv("PREFIXD_ISA");
}

TEST(golden_bf16)
{
    run_dtype("bf16", 0.06);
}

TEST(golden_int8)
{
    run_dtype("int8", 0.06);
}

TEST(golden_int4)
{
    run_dtype("int4", 0.1);
}

/* The demo model: where `make run` keeps it. */
static bool demo_model(char *out, size_t size)
{
    const char *cache = getenv("PREFIXD_CACHE"), *xdg = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    const char *file = "SmolLM2-135M-Instruct.Q4_1.gguf";
    if (cache)
        snprintf(out, size, "%s/%s", cache, file);
    else if (xdg)
        snprintf(out, size, "%s/prefixd/%s", xdg, file);
    else
        snprintf(out, size, "%s/.cache/prefixd/%s", home ? home : "", file);
    return access(out, R_OK) == 0;
}

TEST(golden_smollm2)
{
    char model[1024], json[512], adapters[512];
    if (!demo_model(model, sizeof model))
        SKIP("the demo model is not here (scripts/get_demo_model)");
    if (tiny_scaled(20) == 1) /* the thread sanitizer's */
        SKIP("a real model takes too long in so slow a flavour");
    snprintf(json, sizeof json, "%s/tests/golden/smollm2.json", test_root());
    snprintf(adapters, sizeof adapters, "%s/demo/smollm2", test_root());
    run_golden(json, model, DTYPE_CHOICE_F32, access(adapters, R_OK) == 0 ? adapters : NULL, 2e-3);
}
