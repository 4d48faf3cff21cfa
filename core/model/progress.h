/* Says when a line about long work is due: the first a second after its start, then one a
 * second, whichever of the working threads comes by.
 *
 * Thread: progress_init once, progress_add any. The time is the caller's.
 *
 *     progress_init(&p, total, now_ms);
 *     if (progress_add(&p, bytes, now_ms)) log_info(...progress_done(&p)...);
 */
#ifndef PREFIXD_PROGRESS_H
#define PREFIXD_PROGRESS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct progress {
    size_t total;
    atomic_size_t done;
    _Atomic int64_t due_ms;
};

void progress_init(struct progress *p, size_t total, int64_t now_ms);
bool progress_add(struct progress *p, size_t more, int64_t now_ms); /* true: a line is due */
size_t progress_done(const struct progress *p);

#endif
