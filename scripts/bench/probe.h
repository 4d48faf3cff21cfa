/* What the machine gives at this moment: its virtual cores move between physical places, so a
 * figure says little without it.
 *
 * Thread: the caller's, while nothing else runs; starts n_threads of its own and joins them.
 *
 *     uint64_t *memory = probe_memory(256 << 20);
 *     struct probe p;
 *     probe_machine(2, kernels_get()->name, memory, 256 << 20, &p);
 */
#ifndef PREFIXD_BENCH_PROBE_H
#define PREFIXD_BENCH_PROBE_H

#include <stddef.h>
#include <stdint.h>

struct probe {
    double barrier_ns; /* a word from one thread to another and an answer back; 0 with one thread */
    double read_gbs;   /* memory read by all threads together, 1e9 bytes a second */
    /* What the instructions for such weights do from registers, on all threads together; a
     * multiplication and an addition are two. */
    double bf16_gflops, int8_gops;
    const char *place; /* where the first two threads are, as the barrier tells */
};

/* What the probe reads: it should not fit into the caches. free() */
uint64_t *probe_memory(size_t bytes);

/* isa: the name of a table of core/kernels/kernels.h. Takes about a tenth of a second. */
void probe_machine(int n_threads, const char *isa, const uint64_t *memory, size_t bytes,
                   struct probe *out);

#endif
