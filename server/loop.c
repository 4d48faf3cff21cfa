/* One uv loop that drives HTTP, the engine's wake-ups, signals, a tick and work on the
 * pool.
 *
 * Thread: loop; loop_wake from any. The HTTP library's own epoll descriptor sits under a
 * uv_poll. */
#include "server/loop.h"

#include "core/base/check.h"
#include "core/base/mem.h"
#include "server/http.h"

#include <signal.h>
#include <stdlib.h>
#include <uv.h>

enum { N_SIGNALS = 2, MAX_RUNS = 8 };

/* More than all lanes may take together: the rest is for what is short. */
#define POOL_THREADS 36
#define TEXT_OF(number) #number
#define TEXT(macro) TEXT_OF(macro)

#define XX(name, at_once) +at_once
_Static_assert(LOOP_LANES(XX) < POOL_THREADS, "no thread is left for what is short");
#undef XX

struct lane {
    int n_running;
    struct loop_work *running;
    struct loop_work *first, **end; /* waiting */
};

struct loop {
    uv_loop_t uv;
    uv_async_t wake;
    uv_timer_t http_timer, tick;
    uv_poll_t http_poll, life;
    uv_signal_t signals[N_SIGNALS];
    struct http *http;
    struct loop_timer *timers;
    struct lane lanes[LOOP_N_LANES];
    struct loop_handlers on;
    bool is_ticking, has_poll;
};

struct loop_timer {
    uv_timer_t uv;
    struct loop_timer *next;
    struct loop *loop;
    void (*fn)(void *ud);
    void *ud;
};

struct loop_work {
    uv_work_t req;
    struct loop *loop;
    struct lane *lane;      /* NULL: short */
    struct loop_work *next; /* running, or waiting, in the lane */
    int64_t whose;
    void (*work)(void *ud);
    void (*done)(void *ud);
    void *ud;
};

static void on_http_timer(uv_timer_t *t);

/* A timer of 0 re-armed from its own callback would starve polling, so it is never less
 * than 1 ms; work that is ready now is done now, a few times at most. */
static void pump(struct loop *l)
{
    if (!l->http)
        return;
    int ms = 0;
    for (int i = 0; i < MAX_RUNS && ms == 0; i++) {
        if (i) /* streams go on between the requests that come in */
            l->on.on_wake(l->on.ud);
        http_run(l->http);
        ms = http_timeout_ms(l->http);
    }
    if (http_has_connections(l->http))
        loop_set_ticking(l, true);
    if (ms < 0)
        uv_timer_stop(&l->http_timer);
    else
        uv_timer_start(&l->http_timer, on_http_timer, ms > 0 ? (uint64_t)ms : 1, 0);
}

static void on_http_timer(uv_timer_t *t)
{
    pump(t->data);
}

static void on_http_ready(uv_poll_t *p, int status, int events)
{
    (void)status, (void)events;
    pump(p->data);
}

static void on_wake(uv_async_t *a)
{
    struct loop *l = a->data;
    l->on.on_wake(l->on.ud);
    pump(l);
}

static void on_tick(uv_timer_t *t)
{
    struct loop *l = t->data;
    l->on.on_tick(l->on.ud);
    pump(l);
}

static void on_signal(uv_signal_t *s, int signum)
{
    struct loop *l = s->data;
    l->on.on_signal(l->on.ud, signum);
    pump(l);
}

static void on_life(uv_poll_t *p, int status, int events)
{
    struct loop *l = p->data;
    (void)status, (void)events; /* nobody ever writes to it */
    uv_poll_stop(p);
    l->on.on_life_end(l->on.ud);
    pump(l);
}

struct loop *loop_new(const struct loop_handlers *h, struct err *err)
{
    struct loop *l = xcalloc(1, sizeof *l);
    l->on = *h;
    for (int i = 0; i < LOOP_N_LANES; i++)
        l->lanes[i].end = &l->lanes[i].first;
    setenv("UV_THREADPOOL_SIZE", TEXT(POOL_THREADS), 1); /* read when the pool starts */
    int rc = uv_loop_init(&l->uv);
    if (rc < 0) {
        err_set(err, ERR_IO, "the event loop does not start: %s", uv_strerror(rc));
        free(l);
        return NULL;
    }
    CHECK(uv_async_init(&l->uv, &l->wake, on_wake) == 0);
    CHECK(uv_timer_init(&l->uv, &l->http_timer) == 0);
    CHECK(uv_timer_init(&l->uv, &l->tick) == 0);
    for (int i = 0; i < N_SIGNALS; i++) {
        CHECK(uv_signal_init(&l->uv, &l->signals[i]) == 0);
        l->signals[i].data = l;
    }
    l->wake.data = l->http_timer.data = l->tick.data = l;
    return l;
}

static void do_nothing(void *ud)
{
    (void)ud;
}

/* Threads that do not start are the end of the process, so they do not start in the middle of
 * its life, when memory may be short. */
static void start_pool(struct loop *l)
{
    loop_work(l, do_nothing, do_nothing, NULL);
}

int loop_start(struct loop *l, struct http *http, struct err *err)
{
    static const int numbers[N_SIGNALS] = {SIGTERM, SIGINT};
    int rc = uv_poll_init(&l->uv, &l->http_poll, http_poll_fd(http));
    l->has_poll = rc == 0;
    l->http_poll.data = l;
    if (rc == 0)
        rc = uv_poll_start(&l->http_poll, UV_READABLE, on_http_ready);
    for (int i = 0; i < N_SIGNALS && rc == 0; i++)
        rc = uv_signal_start(&l->signals[i], on_signal, numbers[i]);
    if (rc < 0)
        return err_set(err, ERR_IO, "the event loop does not start: %s", uv_strerror(rc));
    l->http = http;
    start_pool(l);
    pump(l);
    return 0;
}

void loop_watch_life(struct loop *l, int fd)
{
    CHECK(uv_poll_init(&l->uv, &l->life, fd) == 0);
    l->life.data = l;
    CHECK(uv_poll_start(&l->life, UV_READABLE | UV_DISCONNECT, on_life) == 0);
}

void loop_run(struct loop *l)
{
    uv_run(&l->uv, UV_RUN_DEFAULT);
}

void loop_stop(struct loop *l)
{
    uv_stop(&l->uv);
}

void loop_detach_http(struct loop *l)
{
    l->http = NULL;
    uv_timer_stop(&l->http_timer);
    if (l->has_poll) /* while its descriptor is open: the number may soon be another file's */
        uv_close((uv_handle_t *)&l->http_poll, NULL);
    l->has_poll = false;
}

static void close_one(uv_handle_t *h, void *arg)
{
    (void)arg;
    if (!uv_is_closing(h))
        uv_close(h, NULL);
}

void loop_free(struct loop *l)
{
    if (!l)
        return;
    uv_walk(&l->uv, close_one, NULL);
    uv_run(&l->uv, UV_RUN_DEFAULT);
    CHECK(uv_loop_close(&l->uv) == 0);
    while (l->timers) {
        struct loop_timer *t = l->timers;
        l->timers = t->next;
        free(t);
    }
    free(l);
}

void loop_wake(struct loop *l)
{
    uv_async_send(&l->wake);
}

void loop_set_ticking(struct loop *l, bool on)
{
    if (on == l->is_ticking)
        return;
    l->is_ticking = on;
    if (on)
        uv_timer_start(&l->tick, on_tick, LOOP_TICK_MS, LOOP_TICK_MS);
    else
        uv_timer_stop(&l->tick);
}

struct loop_timer *loop_timer_new(struct loop *l, void (*fn)(void *ud), void *ud)
{
    struct loop_timer *t = xcalloc(1, sizeof *t);
    *t = (struct loop_timer){.next = l->timers, .loop = l, .fn = fn, .ud = ud};
    l->timers = t;
    CHECK(uv_timer_init(&l->uv, &t->uv) == 0);
    t->uv.data = t;
    return t;
}

static void on_timer(uv_timer_t *uv)
{
    const struct loop_timer *t = uv->data;
    t->fn(t->ud);
    pump(t->loop);
}

void loop_timer_start(struct loop_timer *t, int ms)
{
    CHECK(uv_timer_start(&t->uv, on_timer, (uint64_t)ms, 0) == 0);
}

static void run_work(uv_work_t *req)
{
    struct loop_work *w = req->data;
    w->work(w->ud);
}

static void start_waiting(struct loop *l, struct lane *lane);

static void leave_lane(const struct loop_work *w)
{
    struct loop_work **at = &w->lane->running;
    while (*at != w)
        at = &(*at)->next;
    *at = w->next;
    w->lane->n_running--;
}

static void end_work(uv_work_t *req, int status)
{
    struct loop_work *w = req->data;
    struct loop *l = w->loop;
    CHECK(status == 0);
    if (w->lane) {
        leave_lane(w);
        start_waiting(l, w->lane);
    }
    w->done(w->ud);
    free(w);
    pump(l);
}

static void start_work(struct loop_work *w)
{
    w->req.data = w;
    CHECK(uv_queue_work(&w->loop->uv, &w->req, run_work, end_work) == 0);
}

static int n_running_of(const struct lane *lane, int64_t whose)
{
    int n = 0;
    for (const struct loop_work *w = lane->running; w; w = w->next)
        n += w->whose == whose;
    return n;
}

/* Out of those that wait, of which there are some. */
static struct loop_work *take_next(struct lane *lane)
{
    struct loop_work **best = &lane->first;
    int least = n_running_of(lane, (*best)->whose);
    for (struct loop_work **at = &(*best)->next; *at && least > 0; at = &(*at)->next) {
        int n = n_running_of(lane, (*at)->whose);
        if (n >= least)
            continue;
        least = n;
        best = at;
    }
    struct loop_work *w = *best;
    *best = w->next;
    if (!*best)
        lane->end = best;
    return w;
}

static void start_waiting(struct loop *l, struct lane *lane)
{
    static const int at_once[LOOP_N_LANES] = {
#define XX(name, n) n,
        LOOP_LANES(XX)
#undef XX
    };
    while (lane->first && lane->n_running < at_once[lane - l->lanes]) {
        struct loop_work *w = take_next(lane);
        w->next = lane->running;
        lane->running = w;
        lane->n_running++;
        start_work(w);
    }
}

void loop_work(struct loop *l, void (*work)(void *ud), void (*done)(void *ud), void *ud)
{
    struct loop_work *w = xcalloc(1, sizeof *w);
    *w = (struct loop_work){.loop = l, .work = work, .done = done, .ud = ud};
    start_work(w);
}

void loop_block(struct loop *l, enum loop_lane lane, int64_t whose, void (*work)(void *ud),
                void (*done)(void *ud), void *ud)
{
    struct loop_work *w = xcalloc(1, sizeof *w);
    *w = (struct loop_work){
        .loop = l, .lane = &l->lanes[lane], .whose = whose, .work = work, .done = done, .ud = ud};
    *w->lane->end = w;
    w->lane->end = &w->next;
    start_waiting(l, w->lane);
}

/* ---- folders ------------------------------------------------------------------------- */

struct loop_folder {
    uv_fs_event_t uv;
    void (*fn)(void *ud);
    void *ud;
};

/* HTTP is not pumped: nothing is written because of it. */
static void on_moved(uv_fs_event_t *uv, const char *file, int events, int status)
{
    const struct loop_folder *f = uv->data;
    (void)file, (void)events, (void)status;
    f->fn(f->ud);
}

static void free_folder(uv_handle_t *h)
{
    free(h->data);
}

struct loop_folder *loop_folder_new(struct loop *l, const char *path, void (*fn)(void *ud),
                                    void *ud)
{
    struct loop_folder *f = xcalloc(1, sizeof *f);
    f->fn = fn;
    f->ud = ud;
    CHECK(uv_fs_event_init(&l->uv, &f->uv) == 0);
    f->uv.data = f;
    if (uv_fs_event_start(&f->uv, on_moved, path, 0) == 0)
        return f;
    loop_folder_free(f);
    return NULL;
}

void loop_folder_free(struct loop_folder *f)
{
    if (f)
        uv_close((uv_handle_t *)&f->uv, free_folder);
}
