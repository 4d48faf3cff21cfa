/* Results, as lines of a text table and of a CSV file. */
#include "scripts/bench/report.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

struct spread {
    double best, median, worst;
};

static struct spread spread_of(const double *v, int n)
{
    double sorted[REPORT_MAX_RUNS];
    memcpy(sorted, v, (size_t)n * sizeof *v);
    qsort(sorted, (size_t)n, sizeof *sorted, compare);
    return (struct spread){sorted[n - 1], (sorted[(n - 1) / 2] + sorted[n / 2]) / 2, sorted[0]};
}

static double ratio_of(const struct result *r, const struct result *to)
{
    double ratios[REPORT_MAX_RUNS];
    for (int i = 0; i < r->n_runs; i++)
        ratios[i] = r->rates[i] / to->rates[i];
    return spread_of(ratios, r->n_runs).median;
}

int report_open(struct report *rep, const char *path)
{
    rep->csv = path ? fopen(path, "w") : NULL;
    if (!path)
        return 0;
    if (!rep->csv)
        return -1;
    fputs("sweep,variant,model,dtype,isa,threads,chunk,rows,context,prefix,prefixes,tokens,runs,"
          "best,median,worst,ratio,place,barrier_ns,read_gbs,bf16_gflops,int8_gops\n",
          rep->csv);
    return 0;
}

int report_close(struct report *rep)
{
    int bad = rep->csv && ferror(rep->csv);
    bad |= rep->csv && fclose(rep->csv) != 0;
    rep->csv = NULL;
    return bad ? -1 : 0;
}

void report_heading(const char *sweep, const char *what)
{
    printf("\n%s: %s\n%-10s %5s %8s %7s %9s %10s %9s %9s  %s\n", sweep, what, "variant", "rows",
           "context", "prefix", "prefixes", "best", "median", "worst", "tok/s, to the first");
}

static void text_line(const struct result *r, struct spread s, bool is_first)
{
    printf("%-10s %5d %8d %7d %9d %10.1f %9.1f %9.1f", r->variant, r->rows, r->context, r->prefix,
           r->n_prefixes, s.best, s.median, s.worst);
    printf(is_first ? "\n" : "  %.2f x\n", r->ratio);
}

static void csv_line(const struct report *rep, const struct result *r, struct spread s)
{
    const struct probe *p = &rep->probe;
    fprintf(rep->csv,
            "%s,%s,%s,%s,%s,%d,%d,%d,%d,%d,%d,%d,%d,%.2f,%.2f,%.2f,%.4f,%s,%.0f,%.1f,%.0f,%.0f\n",
            r->sweep, r->variant, rep->model, rep->dtype, rep->isa, rep->n_threads, rep->chunk,
            r->rows, r->context, r->prefix, r->n_prefixes, r->tokens, r->n_runs, s.best, s.median,
            s.worst, r->ratio, p->place, p->barrier_ns, p->read_gbs, p->bf16_gflops, p->int8_gops);
}

void report_group(struct report *rep, struct result *results, int n)
{
    const struct probe *p = &rep->probe;
    printf("  [%s: barrier %.0f ns, read %.1f GB/s, bf16 %.0f GFLOP/s, int8 %.0f Gop/s]\n",
           p->place, p->barrier_ns, p->read_gbs, p->bf16_gflops, p->int8_gops);
    for (int i = 0; i < n; i++) {
        struct spread s = spread_of(results[i].rates, results[i].n_runs);
        results[i].ratio = ratio_of(&results[i], &results[0]);
        text_line(&results[i], s, i == 0);
        if (rep->csv)
            csv_line(rep, &results[i], s);
    }
    fflush(stdout);
    if (rep->csv)
        fflush(rep->csv); /* what is measured stays, even if the rest is broken off */
}
