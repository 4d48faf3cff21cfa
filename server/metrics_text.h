/* The sum of all workers' metrics as a page for Prometheus (text format 0.0.4).
 *
 * Thread: loop. */
#ifndef PREFIXD_METRICS_TEXT_H
#define PREFIXD_METRICS_TEXT_H

#include "core/base/buf.h"
#include "server/metrics.h"

void metrics_text_render(const struct metrics_slots *all, const char *base_name,
                         struct buf *out);

#endif
