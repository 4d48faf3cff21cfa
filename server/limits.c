/* Taking and giving back, and the lines of what waits.
 *
 * Thread: loop, but for limits_charge_compile. */
#include "server/limits.h"

#include "core/base/check.h"
#include "core/base/clock.h"
#include "core/base/mem.h"
#include "server/exchange.h"
#include "server/http.h"
#include "server/loop.h"
#include "server/server.h"

#include <stdio.h>
#include <stdlib.h>

struct limits_line { /* of one tenant, oldest first; never empty */
    struct limits_line *next;
    int64_t tenant;
    struct exchange *first, *last;
    bool is_due; /* something of his may have ended */
};

struct limits {
    struct thread_owner owner;
    struct limits_opts o;
    struct loop_timer *timer;
    struct limits_line *lines;
    bool is_waking, is_armed; /* armed: the timer runs */
};

static void on_timer(void *ud)
{
    struct limits *l = ud;
    l->is_armed = false;
    limits_tick(l);
}

/* Starting it again would move it, and who joins all the time would move it for good. */
static void arm(struct limits *l)
{
    if (!l->timer || l->is_armed)
        return;
    l->is_armed = true;
    loop_timer_start(l->timer, LIMITS_TICK_MS);
}

struct limits *limits_new(const struct limits_opts *opts)
{
    struct limits *l = xcalloc(1, sizeof *l);
    thread_owner_set(&l->owner);
    l->o = *opts;
    if (!l->o.now_us)
        l->o.now_us = clock_us;
    if (!l->o.wake)
        l->o.wake = exchange_run;
    if (l->o.loop)
        l->timer = loop_timer_new(l->o.loop, on_timer, l);
    return l;
}

void limits_free(struct limits *l)
{
    if (!l)
        return;
    CHECK(!l->lines);
    free(l);
}

static struct limits *limits_of(const struct exchange *x)
{
    CHECK(x->server->limits);
    CHECK_ON_THREAD(x->server->limits->owner);
    return x->server->limits;
}

static struct ledger_ask ask_of(const struct limits *l, const struct exchange *x)
{
    return (struct ledger_ask){
        .tenant = x->caller.tenant,
        .place = l->o.place,
        .limits = &x->caller.limits,
        .n_sequences = x->limits.n_sequences,
        .n_tokens = x->limits.n_tokens,
        .now_us = l->o.now_us(),
    };
}

/* ---- lines --------------------------------------------------------------------------- */

static struct limits_line **find_line(struct limits *l, int64_t tenant)
{
    struct limits_line **at = &l->lines;
    while (*at && (*at)->tenant != tenant)
        at = &(*at)->next;
    return at;
}

static void join_line(struct limits *l, struct exchange *x)
{
    struct limits_line **at = find_line(l, x->caller.tenant), *line = *at;
    if (!line) {
        line = *at = xcalloc(1, sizeof *line);
        line->tenant = x->caller.tenant;
    }
    *(line->first ? &line->last->limits.next : &line->first) = x;
    line->last = x;
    x->limits.next = NULL;
    x->limits.state = LIMITS_WAITING;
    arm(l);
}

static void leave_line(struct limits *l, struct exchange *x)
{
    struct limits_line **at = find_line(l, x->caller.tenant), *line = *at;
    struct exchange *before = NULL;
    CHECK(line);
    for (struct exchange *e = line->first; e != x; e = e->limits.next)
        before = e;
    *(before ? &before->limits.next : &line->first) = x->limits.next;
    if (line->last == x)
        line->last = before;
    if (line->first)
        return;
    *at = line->next;
    free(line);
}

/* As many as fit now. Each is run, which may end it, and others with it. */
static void run_line(struct limits *l, int64_t tenant)
{
    struct limits_line *line;
    while ((line = *find_line(l, tenant))) {
        struct exchange *x = line->first;
        const struct ledger_ask ask = ask_of(l, x);
        if (!ledger_start(l->o.ledger, &ask))
            return;
        leave_line(l, x);
        x->limits.state = LIMITS_HELD;
        l->o.wake(x);
    }
}

/* What comes due while one is being run has its turn after that, not inside it. */
static void run_due(struct limits *l)
{
    struct limits_line *line = l->lines;
    if (l->is_waking)
        return;
    l->is_waking = true;
    while (line) {
        if (!line->is_due) {
            line = line->next;
            continue;
        }
        line->is_due = false;
        run_line(l, line->tenant);
        line = l->lines; /* it may be gone */
    }
    l->is_waking = false;
}

static void wake_line(struct limits *l, int64_t tenant)
{
    struct limits_line *line = *find_line(l, tenant);
    if (line)
        line->is_due = true;
    run_due(l);
}

void limits_tick(struct limits *l)
{
    CHECK_ON_THREAD(l->owner);
    for (struct limits_line *line = l->lines; line; line = line->next)
        line->is_due = true;
    run_due(l);
    if (l->lines)
        arm(l);
}

/* ---- taking -------------------------------------------------------------------------- */

/* What no waiting makes fit. */
static int check_size(const struct exchange *x, struct err *err)
{
    const struct tenant_limits *lim = &x->caller.limits;
    const struct limits_hold *h = &x->limits;
    if (lim->requests_per_minute < 1)
        return err_set(err, ERR_FORBIDDEN, "This tenant's limit is no request a minute");
    if (h->n_tokens > lim->tokens_per_minute)
        return err_param(
            err, ERR_FORBIDDEN, "max_tokens",
            "The prompt and max_tokens are %lld tokens together; this tenant's "
            "limit is %lld tokens a minute",
            (long long)h->n_tokens, (long long)lim->tokens_per_minute);
    if (h->n_sequences > lim->max_running)
        return err_param(
            err, ERR_FORBIDDEN, "n",
            "The request asks for %d sequences at once; this tenant's limit is "
            "%lld running",
            h->n_sequences, (long long)lim->max_running);
    return 0;
}

static const char *reason_of(enum ledger_answer why)
{
    return why == LEDGER_NO_REQUESTS ? "requests_per_minute"
           : why == LEDGER_NO_TOKENS ? "tokens_per_minute"
           : why == LEDGER_FULL      ? "tenants"
                                     : "max_queued";
}

static int seconds_of(int64_t us)
{
    int64_t s = (us + 999999) / 1000000;
    return s > 1 ? (int)s : 1;
}

static void note_refusal(struct exchange *x, enum ledger_answer why, int seconds)
{
    x->retry_after_s = seconds;
    metrics_add_throttle(&x->server->metrics, reason_of(why));
}

static int explain(enum ledger_answer why, const struct tenant_limits *lim, int seconds,
                   struct err *err)
{
    if (why == LEDGER_NO_REQUESTS)
        return err_set(err, ERR_QUEUE_FULL,
                       "The limit of %lld requests a minute is reached: try again in %d s",
                       (long long)lim->requests_per_minute, seconds);
    if (why == LEDGER_NO_TOKENS)
        return err_set(err, ERR_QUEUE_FULL,
                       "The limit of %lld tokens a minute is reached: try again in %d s",
                       (long long)lim->tokens_per_minute, seconds);
    if (why == LEDGER_FULL)
        return err_set(err, ERR_QUEUE_FULL,
                       "More tenants are active than the server keeps limits of (%d): try "
                       "again in %d s",
                       LEDGER_MAX_TENANTS, seconds);
    return err_set(err, ERR_QUEUE_FULL,
                   "The limits of %lld sequences that run and %lld that wait are reached",
                   (long long)lim->max_running, (long long)lim->max_queued);
}

static int refuse(struct exchange *x, enum ledger_answer why, int64_t wait_us,
                  struct err *err)
{
    note_refusal(x, why, seconds_of(wait_us));
    return explain(why, &x->caller.limits, x->retry_after_s, err);
}

int limits_take(struct exchange *x, int n_sequences, int64_t n_tokens, struct err *err)
{
    struct limits *l = limits_of(x);
    int64_t wait_us = 0;
    if (x->limits.state != LIMITS_NOTHING)
        return x->limits.state == LIMITS_HELD;
    x->limits.n_sequences = n_sequences;
    x->limits.n_tokens = n_tokens;
    if (check_size(x, err) < 0)
        return -1;
    const struct ledger_ask ask = ask_of(l, x);
    enum ledger_answer got = ledger_take(l->o.ledger, &ask, &wait_us);
    if (got != LEDGER_GRANTED && got != LEDGER_QUEUED)
        return refuse(x, got, wait_us, err);
    if (got == LEDGER_QUEUED) {
        metrics_add_throttle(&x->server->metrics, "max_running");
        join_line(l, x);
        return 0;
    }
    x->limits.state = LIMITS_HELD;
    return 1;
}

void limits_settle(struct exchange *x, int64_t tokens_used)
{
    if (x->limits.state == LIMITS_NOTHING)
        return;
    struct limits *l = limits_of(x);
    const struct ledger_ask ask = ask_of(l, x);
    bool was_held = x->limits.state == LIMITS_HELD;
    x->limits.state = LIMITS_NOTHING;
    if (was_held) {
        ledger_settle(l->o.ledger, &ask, tokens_used);
    } else {
        leave_line(l, x);
        ledger_give_up(l->o.ledger, &ask);
    }
    wake_line(l, x->caller.tenant);
}

/* ---- compiling ----------------------------------------------------------------------- */

/* All that the pool may look at; the loop reads got and wait_s when the pool is done. */
struct limits_compile {
    struct ledger *ledger;
    int64_t (*now_us)(void);
    int64_t tenant;
    int place;
    struct tenant_limits limits;
    enum ledger_answer got;
    int wait_s; /* of a refusal; 0: there was none that waiting helps */
};

struct limits_compile *limits_compile_new(struct exchange *x)
{
    const struct limits *l = limits_of(x);
    struct limits_compile *c = arena_alloc(&x->arena, sizeof *c);
    *c = (struct limits_compile){.ledger = l->o.ledger,
                                 .now_us = l->o.now_us,
                                 .tenant = x->caller.tenant,
                                 .place = l->o.place,
                                 .limits = x->caller.limits};
    return c;
}

int limits_charge_compile(void *limits_compile, int64_t n_tokens, struct err *err)
{
    struct limits_compile *c = limits_compile;
    if (n_tokens > c->limits.tokens_per_minute)
        return err_set(err, ERR_FORBIDDEN,
                       "Compiling the adapter takes %lld tokens; this tenant's limit is "
                       "%lld tokens a minute",
                       (long long)n_tokens, (long long)c->limits.tokens_per_minute);
    const struct ledger_ask ask = {.tenant = c->tenant,
                                   .place = c->place,
                                   .limits = &c->limits,
                                   .n_tokens = n_tokens,
                                   .now_us = c->now_us()};
    int64_t wait_us = 0;
    c->got = ledger_spend(c->ledger, &ask, &wait_us);
    if (c->got == LEDGER_GRANTED)
        return 0;
    c->wait_s = seconds_of(wait_us);
    return explain(c->got, &c->limits, c->wait_s, err);
}

void limits_note_compile(struct exchange *x, const struct limits_compile *c)
{
    if (c->wait_s)
        note_refusal(x, c->got, c->wait_s);
}

/* ---- telling ------------------------------------------------------------------------- */

static void add_number(struct exchange *x, const char *name, int64_t n)
{
    char text[24];
    snprintf(text, sizeof text, "%lld", (long long)n);
    http_add_header(x->req, name, text);
}

/* "12ms", "1s", "6m0s", never less than it takes. */
static void add_time(struct exchange *x, const char *name, int64_t us)
{
    char text[48];
    long long ms = (us + 999) / 1000, s = (us + 999999) / 1000000;
    if (ms == 0)
        snprintf(text, sizeof text, "0s");
    else if (ms < 1000)
        snprintf(text, sizeof text, "%lldms", ms);
    else if (s < 60)
        snprintf(text, sizeof text, "%llds", s);
    else
        snprintf(text, sizeof text, "%lldm%llds", s / 60, s % 60);
    http_add_header(x->req, name, text);
}

void limits_add_headers(struct exchange *x)
{
    struct ledger_state now;
    if (!x->req || !x->caller.has_key)
        return;
    struct limits *l = limits_of(x);
    const struct ledger_ask ask = ask_of(l, x);
    ledger_look(l->o.ledger, &ask, &now);
    add_number(x, "x-ratelimit-limit-requests", x->caller.limits.requests_per_minute);
    add_number(x, "x-ratelimit-limit-tokens", x->caller.limits.tokens_per_minute);
    add_number(x, "x-ratelimit-remaining-requests", now.requests_left);
    add_number(x, "x-ratelimit-remaining-tokens", now.tokens_left);
    add_time(x, "x-ratelimit-reset-requests", now.requests_full_us);
    add_time(x, "x-ratelimit-reset-tokens", now.tokens_full_us);
}
