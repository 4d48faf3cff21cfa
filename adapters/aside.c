/* A thread for one thing, which costs some twenty microseconds. */
#include "adapters/aside.h"

#include "core/base/check.h"

static void *aside_main(void *ud)
{
    struct aside *a = ud;
    a->rc = a->fn(a->ud, &a->err);
    return NULL;
}

void aside_begin(struct aside *a, int (*fn)(void *ud, struct err *err), void *ud)
{
    CHECK(!a->fn);
    *a = (struct aside){.fn = fn, .ud = ud};
    a->is_threaded = pthread_create(&a->thread, NULL, aside_main, a) == 0;
    if (!a->is_threaded)
        aside_main(a);
}

int aside_end(struct aside *a, struct err *err)
{
    if (!a->fn)
        return 0;
    if (a->is_threaded)
        CHECK(pthread_join(a->thread, NULL) == 0);
    a->fn = NULL;
    if (a->rc < 0 && err)
        *err = a->err;
    return a->rc;
}
