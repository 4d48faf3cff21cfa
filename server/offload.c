/* A request's blocking work, on its way to the pool and back.
 *
 * Thread: loop; run_work on the pool. The exchange is held (is_work_live) until the work is
 * done, as its arena is what the work uses. */
#include "server/offload.h"

#include "core/base/check.h"
#include "server/server.h"

struct offload {
    struct exchange *x;
    int (*work)(void *ud, struct err *err);
    enum exchange_result (*answer)(struct exchange *x, void *ud);
    void *ud;
    struct err err;
    bool is_failed;
};

static void run_work(void *ud)
{
    struct offload *o = ud;
    o->is_failed = o->work(o->ud, &o->err) < 0;
}

static void on_done(void *ud)
{
    struct offload *o = ud;
    struct exchange *x = exchange_of(o->x);
    if (o->is_failed)
        exchange_fail(x, &o->err);
    else
        o->answer(x, o->ud);
    exchange_end_work(x); /* frees o with it, if the client is gone */
}

enum exchange_result
offload_run(struct exchange *x, enum loop_lane lane, int (*work)(void *ud, struct err *err),
            enum exchange_result (*answer)(struct exchange *x, void *ud), void *ud)
{
    CHECK_ON_THREAD(x->server->owner);
    struct offload *o = arena_alloc(&x->arena, sizeof *o);
    *o = (struct offload){.x = x, .work = work, .answer = answer, .ud = ud};
    x->deadline_us = INT64_MAX;
    loop_block(x->server->loop, lane, x->caller.tenant, run_work, on_done, o);
    return exchange_begin_work(x, EXCHANGE_registry);
}
