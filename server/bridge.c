/* The way of a job to the engine and of its events back to their exchange. */
#include "server/bridge.h"

#include "core/base/check.h"
#include "server/exchange.h"
#include "server/generation.h"
#include "server/server.h"

int bridge_post(struct exchange *x, struct err *err)
{
    struct job *job = &x->gen->job;
    job->ud = x;
    atomic_init(&job->cancelled, false);
    if (engine_post(x->server->parts.engine, job, err) < 0)
        return -1;
    x->is_job_live = true;
    return 0;
}

void bridge_cancel(struct exchange *x)
{
    if (x->is_job_live)
        atomic_store(&x->gen->job.cancelled, true);
}

static void deliver(const struct event *ev, struct exchange **touched)
{
    struct exchange *x = exchange_of(ev->job->ud);
    CHECK(x->is_job_live);
    if (!x->is_touched) {
        x->is_touched = true;
        x->next_touched = *touched;
        *touched = x;
    }
    generation_event(x, ev);
    if (ev->kind == EVENT_DONE || ev->kind == EVENT_FAILED)
        x->is_job_live = false;
}

void bridge_drain(struct server *s)
{
    struct exchange *touched = NULL;
    CHECK_ON_THREAD(s->owner);
    struct event *next;
    for (struct event *ev = engine_drain(s->parts.engine); ev; ev = next) {
        next = ev->next;
        deliver(ev, &touched);
        event_free(ev);
    }
    while (touched) {
        struct exchange *x = touched;
        touched = x->next_touched;
        x->is_touched = false;
        exchange_run(x);
        exchange_release(x);
    }
}
