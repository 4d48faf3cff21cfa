/* One line a second out of many threads. */
#include "core/model/progress.h"

enum { EVERY_MS = 1000 };

void progress_init(struct progress *p, size_t total, int64_t now_ms)
{
    p->total = total;
    atomic_init(&p->done, 0);
    atomic_init(&p->due_ms, now_ms + EVERY_MS);
}

/* Of the threads that find a line due, the one that moves the time on has to write it. */
bool progress_add(struct progress *p, size_t more, int64_t now_ms)
{
    int64_t due = atomic_load_explicit(&p->due_ms, memory_order_relaxed);
    atomic_fetch_add_explicit(&p->done, more, memory_order_relaxed);
    return now_ms >= due &&
           atomic_compare_exchange_strong(&p->due_ms, &due, now_ms + EVERY_MS);
}

size_t progress_done(const struct progress *p)
{
    return atomic_load_explicit(&p->done, memory_order_relaxed);
}
