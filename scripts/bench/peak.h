/* Loops that keep a core's multipliers busy and touch no memory.
 *
 * Thread: any. */
#ifndef PREFIXD_BENCH_PEAK_H
#define PREFIXD_BENCH_PEAK_H

typedef void (*peak_loop)(long rounds);

struct peak {
    peak_loop loop;
    double ops; /* multiplications and additions of a round */
};

/* isa: the name of a table of core/kernels/kernels.h that this CPU can run. */
struct peak peak_bf16(const char *isa);
struct peak peak_int8(const char *isa);

#endif
