/* Measures the engine alone: prompts, rows that decode at once, rows over prefixes that they share
 * or not.
 *
 *     build/prefixd-bench MODEL [--sweep prefill,decode,context,sharing,prefixes,mixes]
 *         [--csv FILE] [--dtype auto] [--threads 2] [--chunk 512] [--tokens 16] [--runs 5]
 *         [--rows N,..] [--context N,..] [--prompt N,..] [--prefix N,..] [--prefixes N,..]
 *         [--prefix-mib 2048] [--probe-mib 256]
 *
 * The lists are what a sweep goes over; without them each has its own (scripts/bench/sweeps.c).
 * Before each case the machine is probed, because its cores move; cases that are compared run in
 * alternation. One line a case: best, median and worst of the runs. */
#include "core/base/log.h"
#include "core/kernels/kernels.h"
#include "scripts/bench/sweeps.h"

#include <getopt.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

struct options {
    const char *model, *csv;
    char *sweeps; /* consumed */
    enum dtype_choice dtype;
};

enum { MAX_TOKENS = 1 << 20 };

static const struct flag {
    const char *name;
    int min, max;
    size_t at; /* in struct bench: an int, or a struct list */
    bool is_list;
} flags[] = {
    {"threads", 1, 1024, offsetof(struct bench, run.n_threads), false},
    {"chunk", 1, 4096, offsetof(struct bench, run.chunk), false},
    {"tokens", 1, MAX_TOKENS, offsetof(struct bench, tokens), false},
    {"runs", 1, REPORT_MAX_RUNS, offsetof(struct bench, n_runs), false},
    {"prefix-mib", 1, 1 << 20, offsetof(struct bench, prefix_mib), false},
    {"probe-mib", 1, 1 << 20, offsetof(struct bench, probe_mib), false},
    {"rows", 1, SWEEP_MAX_ROWS, offsetof(struct bench, rows), true},
    {"context", 1, MAX_TOKENS, offsetof(struct bench, context), true},
    {"prompt", 1, MAX_TOKENS, offsetof(struct bench, prompt), true},
    {"prefix", 0, MAX_TOKENS, offsetof(struct bench, prefix), true},
    {"prefixes", 1, SWEEP_MAX_ROWS, offsetof(struct bench, prefixes), true},
};

enum { N_FLAGS = sizeof flags / sizeof *flags, SWEEP, CSV, DTYPE };

static enum dtype_choice dtype_of(const char *name)
{
    enum dtype_choice c = base_model_dtype_choice(name);
    if (c == DTYPE_CHOICE_AUTO && strcmp(name, "auto") != 0)
        run_die("--dtype %s: auto, f32, bf16, int8 or int4", name);
    return c;
}

static void set_flag(struct bench *b, const struct flag *f, const char *value)
{
    struct list l = sweep_list(f->name, value, f->min, f->max);
    void *at = (char *)b + f->at;
    if (f->is_list)
        *(struct list *)at = l;
    else if (l.n == 1)
        *(int *)at = l.v[0];
    else
        run_die("--%s %s: one number", f->name, value);
}

static void parse_options(struct bench *b, struct options *o, int argc, char **argv)
{
    struct option options[N_FLAGS + 4] = {
        {"sweep", 1, 0, SWEEP}, {"csv", 1, 0, CSV}, {"dtype", 1, 0, DTYPE}};
    for (int i = 0; i < N_FLAGS; i++)
        options[3 + i] = (struct option){flags[i].name, 1, 0, i};
    for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        if (c == '?')
            exit(1); /* getopt has said why */
        if (c < N_FLAGS)
            set_flag(b, &flags[c], optarg);
        else if (c == DTYPE)
            o->dtype = dtype_of(optarg);
        else if (c == CSV)
            o->csv = optarg;
        else
            o->sweeps = optarg;
    }
    if (optind + 1 != argc)
        run_die("give one model: a Hugging Face directory or a GGUF file");
    o->model = argv[optind];
}

/* The last part of a path, without what a CSV file would need quotes for. */
static void name_model(struct report *rep, const char *path)
{
    size_t len = strlen(path);
    while (len > 1 && path[len - 1] == '/')
        len--;
    size_t from = len;
    while (from > 0 && path[from - 1] != '/')
        from--;
    snprintf(rep->model, sizeof rep->model, "%.*s", (int)(len - from), path + from);
    for (char *c = rep->model; *c; c++)
        *c = strchr(",\"\n", *c) ? '_' : *c;
}

static void open_model(struct bench *b, const struct options *o)
{
    struct err err = {0};
    b->run.base = base_model_open(o->model, o->dtype, &err);
    if (!b->run.base)
        run_die("%s", err.msg);
    b->memory = probe_memory((size_t)b->probe_mib << 20);
    name_model(&b->report, o->model);
    b->report.dtype = dtype_name(base_model_shape(b->run.base)->weight_dtype);
    b->report.isa = kernels_get()->name;
    b->report.n_threads = b->run.n_threads;
    b->report.chunk = b->run.chunk;
    if (report_open(&b->report, o->csv) < 0)
        run_die("%s cannot be written", o->csv);
    printf("%s, %s, %s kernels, %d threads, prompts in chunks of %d rows\n", b->report.model,
           b->report.dtype, b->report.isa, b->run.n_threads, b->run.chunk);
}

int main(int argc, char **argv)
{
    char all[] = "prefill,decode,context,sharing,prefixes,mixes";
    struct options o = {.sweeps = all, .dtype = DTYPE_CHOICE_AUTO};
    struct bench b = {.run = {.n_threads = 2, .chunk = 512},
                      .tokens = 16,
                      .n_runs = 5,
                      .prefix_mib = 2048,
                      .probe_mib = 256};
    log_init(LOG_TEXT, LOG_WARN);
    parse_options(&b, &o, argc, argv);
    open_model(&b, &o);
    for (char *name = strtok(o.sweeps, ","); name; name = strtok(NULL, ","))
        sweep_run(&b, name);
    if (report_close(&b.report) < 0)
        run_die("not all of %s could be written", o.csv);
    base_model_free(b.run.base);
    free(b.memory);
    return 0;
}
