/* The recipe of each class of adapters. */
#include "adapters/compile.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/clock.h"
#include "core/base/mem.h"

static int no_memory(struct err *err)
{
    return err_set(err, ERR_NO_MEMORY, "not enough memory to compile this adapter now");
}

static int check_finite(const float *x, size_t n, const char *name, struct err *err)
{
    for (size_t i = 0; i < n; i++)
        if (!isfinite(x[i]))
            return err_set(err, ERR_ADAPTER, "%s: element %zu is NaN or infinite", name, i);
    return 0;
}

/* The tensor as finite f32 on the heap, or NULL. */
static float *read_tensor(const struct st_tensor *t, struct err *err)
{
    float *x = mem_try_aligned((size_t)t->n_elems, sizeof *x);
    if (!x) {
        no_memory(err);
        return NULL;
    }
    dtype_to_f32(t->dtype, t->data, x, (size_t)t->n_elems);
    if (check_finite(x, (size_t)t->n_elems, t->name, err) < 0) {
        free(x);
        return NULL;
    }
    return x;
}

static int ask(const struct compile_with *with, int64_t n_tokens, struct err *err)
{
    return with->allow ? with->allow(with->ud, n_tokens, err) : 0;
}

/* The engine has looked at the numbers after the cast. */
static int add_prefix(struct compiled *out, struct kv_prefix *p)
{
    if (!p)
        return -1;
    out->prefixes[out->n_prefixes++] = p;
    out->n_tokens = p->n_tokens;
    out->bytes += p->bytes;
    return 0;
}

static int compile_one(const struct adapter_spec *s, const struct compile_with *with,
                       struct compiled *out, struct err *err)
{
    float *x = read_tensor(s->main, err);
    if (!x)
        return -1;
    if (ask(with, s->n_tokens, err) < 0) {
        free(x);
        return -1;
    }
    enum kind_class class = kind_class(s->kind);
    struct kv_prefix *p =
        class == KIND_CLASS_KV ? kv_prefix_from_kv(with->base, x, s->n_tokens, err)
        : class == KIND_CLASS_HIDDEN ? kv_prefix_from_hidden(with->base, x, s->n_tokens, err)
                                     : engine_prefix_from_rows(with->engine, with->domain, x, s->n_tokens, err);
    free(x);
    return add_prefix(out, p);
}

struct task_factors { /* shared [P, d], cols [tasks, P, r], rows [tasks, r, d] */
    float *shared, *cols, *rows;
};

/* prompt[p] = shared[p] * (cols[t] . rows[t])[p], element by element. */
static void multiply_task(const struct task_factors *f, int t, int n_tokens, int n_ranks, int dim,
                          float *prompt)
{
    size_t P = (size_t)n_tokens, R = (size_t)n_ranks, D = (size_t)dim;
    const float *cols = f->cols + (size_t)t * P * R, *rows = f->rows + (size_t)t * R * D;
    memset(prompt, 0, P * D * sizeof *prompt);
    for (size_t p = 0; p < P; p++) {
        float *out = prompt + p * D;
        for (size_t r = 0; r < R; r++)
            for (size_t i = 0; i < D; i++)
                out[i] += cols[p * R + r] * rows[r * D + i];
        for (size_t i = 0; i < D; i++)
            out[i] *= f->shared[p * D + i];
    }
}

static int compile_each_task(const struct adapter_spec *s, const struct task_factors *f,
                             const struct compile_with *with, struct compiled *out,
                             struct err *err)
{
    int dim = base_model_shape(with->base)->dim, rc = 0;
    size_t n = (size_t)s->n_tokens * (size_t)dim;
    float *prompt = mem_try_aligned(n, sizeof *prompt);
    if (!prompt)
        return no_memory(err);
    for (int t = 0; t < s->n_tasks && rc == 0; t++) {
        multiply_task(f, t, s->n_tokens, s->n_ranks, dim, prompt);
        rc = check_finite(prompt, n, "the prompt of a task", err);
        if (rc == 0)
            rc = add_prefix(out, engine_prefix_from_rows(with->engine, with->domain, prompt, s->n_tokens, err));
    }
    free(prompt);
    return rc;
}

static int compile_tasks(const struct adapter_spec *s, const struct compile_with *with,
                         struct compiled *out, struct err *err)
{
    struct task_factors f = {.shared = read_tensor(s->main, err)};
    int rc = -1;
    if (f.shared && (f.cols = read_tensor(s->cols, err)) &&
        (f.rows = read_tensor(s->rows, err)) &&
        ask(with, (int64_t)s->n_tokens * s->n_tasks, err) == 0)
        rc = compile_each_task(s, &f, with, out, err);
    free(f.shared);
    free(f.cols);
    free(f.rows);
    return rc;
}

/* A tokenizer may know added tokens that the base has no row for: the engine takes that for a bug. */
static int check_tokens(const struct token_list *ids, const struct compile_with *with,
                        struct err *err)
{
    if (ids->n == 0)
        return err_set(err, ERR_ADAPTER, "the text has no tokens");
    if (ids->n > (size_t)with->max_virtual_tokens)
        return err_set(err, ERR_ADAPTER, "the text has %zu tokens; at most %d are accepted",
                       ids->n, with->max_virtual_tokens);
    for (size_t i = 0; i < ids->n; i++)
        if (ids->ids[i] < 0 || ids->ids[i] >= base_model_shape(with->base)->vocab)
            return err_set(err, ERR_ADAPTER, "the text has token %d, which the base has no "
                           "embedding for", (int)ids->ids[i]);
    return 0;
}

static int compile_text(const struct adapter_spec *s, const struct compile_with *with,
                        struct compiled *out, struct err *err)
{
    struct token_list ids = {0};
    int rc = tokenizer_encode(base_model_tokenizer(with->base), s->text, strlen(s->text),
                              TOKENIZER_ADD_SPECIAL, &ids, err);
    if (rc == 0)
        rc = check_tokens(&ids, with, err);
    if (rc == 0)
        rc = ask(with, (int64_t)ids.n, err);
    if (rc == 0)
        rc = add_prefix(out, engine_prefix_from_tokens(with->engine, with->domain, ids.ids, (int)ids.n, err));
    token_list_free(&ids);
    return rc;
}

int compile_spec(const struct adapter_spec *s, const struct compile_with *with,
                 struct compiled *out, struct err *err)
{
    int64_t start = clock_us();
    int rc;
    memset(out, 0, sizeof *out);
    out->prefixes = xcalloc((size_t)s->n_tasks, sizeof *out->prefixes);
    switch (kind_class(s->kind)) {
    case KIND_CLASS_TASKS: rc = compile_tasks(s, with, out, err); break;
    case KIND_CLASS_TEXT: rc = compile_text(s, with, out, err); break;
    default: rc = compile_one(s, with, out, err); break;
    }
    out->ms = (double)(clock_us() - start) / 1e3;
    if (rc < 0)
        compile_fini(out);
    return rc;
}

void compile_fini(struct compiled *c)
{
    for (int i = 0; i < c->n_prefixes; i++)
        kv_prefix_free(c->prefixes[i]);
    free(c->prefixes);
    memset(c, 0, sizeof *c);
}
