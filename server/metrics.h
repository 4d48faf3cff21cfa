/* Counters and histograms for Prometheus (text format 0.0.4).
 *
 * Thread: loop. */
#ifndef PREFIXD_METRICS_H
#define PREFIXD_METRICS_H

#include "core/base/buf.h"

#include <stdint.h>

struct metrics;
struct exchange;
struct server;

struct metrics *metrics_new(void);
void metrics_free(struct metrics *m);

void metrics_add_exchange(struct metrics *m, const struct exchange *x); /* at its end */
void metrics_add_ttft(struct metrics *m, int64_t us);
void metrics_add_gap(struct metrics *m, int64_t us); /* between two tokens of a choice */

void metrics_render(const struct server *s, struct buf *out);

#endif
