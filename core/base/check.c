/* How a failed CHECK reports itself before aborting. */
#include "core/base/check.h"

#include <execinfo.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

_Noreturn void check_failed(const char *file, int line, const char *cond)
{
    void *frames[48];
    fprintf(stderr, "%s:%d: check failed: %s\n", file, line, cond);
    fflush(stderr);
    backtrace_symbols_fd(frames, backtrace(frames, 48), STDERR_FILENO);
    abort();
}

void thread_owner_set(struct thread_owner *o)
{
    o->thread = pthread_self();
    o->is_set = true;
}

bool thread_owner_is_me(const struct thread_owner *o)
{
    return o->is_set && pthread_equal(o->thread, pthread_self());
}
