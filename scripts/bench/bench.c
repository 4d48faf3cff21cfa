/* Measures the engine alone: prompts, rows that decode at once, rows over prefixes that they share or not.
 *
 *     build/prefixd-bench MODEL [--sweep prefill,decode,context,sharing,prefixes,mixes] [--csv FILE]
 *         [--dtype auto] [--threads 2] [--chunk 512] [--tokens 16] [--runs 5] [--prefix-mib 2048]
 *         [--rows N,..] [--context N,..] [--prompt N,..] [--prefix N,..] [--prefixes N,..]
 *
 * The lists are what a sweep goes over; without them each has its own (scripts/bench/sweeps.c). Before each
 * case the machine is probed, because its cores move; cases that are compared run in alternation. One line a
 * case: best, median and worst of the runs. */
#include "core/base/log.h"
#include "core/kernels/kernels.h"
#include "scripts/bench/sweeps.h"

#include <getopt.h>
#include <stdlib.h>
#include <string.h>

struct options {
    const char *model, *csv;
    char *sweeps; /* consumed */
    enum dtype_choice dtype;
};

static enum dtype_choice dtype_of(const char *name)
{
    static const char *const names[] = {"auto", "f32", "bf16"}; /* as enum dtype_choice has them */
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(name, names[i]) == 0)
            return (enum dtype_choice)i;
    run_die("--dtype %s: auto, f32 or bf16", name);
}

static int number(const char *name, const char *s, int min, int max)
{
    struct list l = sweep_list(name, s, min, max);
    return l.v[0];
}

enum { MAX_TOKENS = 1 << 20 };

static void parse_option(struct bench *b, struct options *o, int c, const char *name)
{
    switch (c) {
    case 's': o->sweeps = optarg; break;
    case 'o': o->csv = optarg; break;
    case 'd': o->dtype = dtype_of(optarg); break;
    case 't': b->run.n_threads = number(name, optarg, 1, 1024); break;
    case 'h': b->run.chunk = number(name, optarg, 1, 4096); break;
    case 'k': b->tokens = number(name, optarg, 1, MAX_TOKENS); break;
    case 'u': b->n_runs = number(name, optarg, 1, REPORT_MAX_RUNS); break;
    case 'm': b->prefix_bytes = (size_t)number(name, optarg, 1, MAX_TOKENS) << 20; break;
    case 'y': b->memory_bytes = (size_t)number(name, optarg, 1, MAX_TOKENS) << 20; break;
    case 'r': b->rows = sweep_list(name, optarg, 1, SWEEP_MAX_ROWS); break;
    case 'c': b->context = sweep_list(name, optarg, 1, MAX_TOKENS); break;
    case 'p': b->prompt = sweep_list(name, optarg, 1, MAX_TOKENS); break;
    case 'x': b->prefix = sweep_list(name, optarg, 0, MAX_TOKENS); break;
    case 'n': b->prefixes = sweep_list(name, optarg, 1, SWEEP_MAX_ROWS); break;
    default: exit(1);
    }
}

static void parse_options(struct bench *b, struct options *o, int argc, char **argv)
{
    static const struct option options[] = {
        {"sweep", 1, 0, 's'},     {"csv", 1, 0, 'o'},     {"dtype", 1, 0, 'd'},
        {"threads", 1, 0, 't'},   {"chunk", 1, 0, 'h'},   {"tokens", 1, 0, 'k'},
        {"runs", 1, 0, 'u'},      {"rows", 1, 0, 'r'},    {"context", 1, 0, 'c'},
        {"prompt", 1, 0, 'p'},    {"prefix", 1, 0, 'x'},  {"prefixes", 1, 0, 'n'},
        {"prefix-mib", 1, 0, 'm'}, {"probe-mib", 1, 0, 'y'}, {0, 0, 0, 0},
    };
    int which = 0;
    for (int c; (c = getopt_long(argc, argv, "", options, &which)) != -1;)
        parse_option(b, o, c, options[which].name);
    if (optind + 1 != argc)
        run_die("give one model: a Hugging Face directory or a GGUF file");
    o->model = argv[optind];
}

/* The last part of a path, without what a CSV file would need quotes for. */
static char *model_name(const char *path)
{
    size_t len = strlen(path);
    while (len > 1 && path[len - 1] == '/')
        len--;
    size_t from = len;
    while (from > 0 && path[from - 1] != '/')
        from--;
    char *name = strndup(path + from, len - from);
    for (char *c = name; name && *c; c++)
        *c = strchr(",\"\n", *c) ? '_' : *c;
    return name;
}

static void open_model(struct bench *b, const struct options *o)
{
    struct err err = {0};
    b->run.base = base_model_open(o->model, o->dtype, &err);
    if (!b->run.base)
        run_die("%s", err.msg);
    b->memory = probe_memory(b->memory_bytes);
    b->report.model = model_name(o->model);
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
    struct bench b = {.run = {.n_threads = 2, .chunk = 512}, .tokens = 16, .n_runs = 5,
                      .prefix_bytes = (size_t)2 << 30, .memory_bytes = 256 << 20};
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
