/* Buckets and counts of tenants, in sets of entries under one lock each.
 *
 * Threads and processes: any. A tenant's id says which set it belongs to, so finding an
 * entry, or making one, is done under that set's lock alone. Ids are given one after the
 * other, which spreads them evenly. Entries of a set are used from the first one on. One of
 * which everything is back is as good as none, and only such a one is taken over by the
 * next tenant who needs one, when the set is full. */
#include "server/ledger.h"

#include "core/base/check.h"

#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>

enum { N_SETS = 256, SET_ENTRIES = LEDGER_MAX_TENANTS / N_SETS };

#define LONGEST_US (24 * 3600 * INT64_C(1000000))

#define MINUTE_US 60e6
#define NOTHING 1e-6 /* what rounding may leave */

struct held { /* by one worker, of one tenant */
    int32_t n_running, n_queued;
    double tokens; /* reserved */
};

struct entry {
    int64_t tenant;                      /* 0: nobody's */
    int64_t at_us;                       /* when spent was so */
    double requests_rate, tokens_rate;   /* a minute, as asked for last */
    double requests_spent, tokens_spent; /* of a minute's; tokens may be more than that */
};

struct set {
    pthread_mutex_t lock;
    struct entry entries[SET_ENTRIES];
};

struct ledger {
    size_t size; /* of the mapping */
    int n_places;
    struct set sets[N_SETS];
    struct held held[]; /* [N_SETS, SET_ENTRIES, n_places] */
};

/* ---- the memory ---------------------------------------------------------------------- */

static int init_lock(pthread_mutex_t *lock)
{
    pthread_mutexattr_t attr;
    if (pthread_mutexattr_init(&attr) != 0)
        return -1;
    int rc = pthread_mutexattr_setpshared(&attr, PTHREAD_PROCESS_SHARED) ||
             pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST) ||
             pthread_mutex_init(lock, &attr);
    pthread_mutexattr_destroy(&attr);
    return rc ? -1 : 0;
}

struct ledger *ledger_new(int n_places, struct err *err)
{
    CHECK(n_places >= 1 && n_places <= LEDGER_MAX_PLACES);
    size_t n = (size_t)N_SETS * SET_ENTRIES * (size_t)n_places;
    size_t size = sizeof(struct ledger) + n * sizeof(struct held);
    struct ledger *l =
        mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (l == MAP_FAILED) {
        err_set(err, ERR_NO_MEMORY, "no %zu bytes of memory for the limits of tenants",
                size);
        return NULL;
    }
    l->size = size;
    l->n_places = n_places;
    for (int i = 0; i < N_SETS; i++)
        CHECK(init_lock(&l->sets[i].lock) == 0);
    return l;
}

void ledger_free(struct ledger *l)
{
    if (l)
        munmap(l, l->size);
}

/* Every number is written in one go and makes sense by itself, so what a dead process left
 * is used as it is. */
static void lock(struct set *s)
{
    int rc = pthread_mutex_lock(&s->lock);
    if (rc == EOWNERDEAD)
        rc = pthread_mutex_consistent(&s->lock);
    CHECK(rc == 0);
}

static void unlock(struct set *s)
{
    CHECK(pthread_mutex_unlock(&s->lock) == 0);
}

/* ---- entries ------------------------------------------------------------------------- */

static struct held *held_of(struct ledger *l, const struct set *s, const struct entry *e)
{
    size_t i = (size_t)(s - l->sets) * SET_ENTRIES + (size_t)(e - s->entries);
    return &l->held[i * (size_t)l->n_places];
}

static struct held sum_of(const struct ledger *l, const struct held *h)
{
    struct held sum = {0};
    for (int i = 0; i < l->n_places; i++) {
        sum.n_running += h[i].n_running;
        sum.n_queued += h[i].n_queued;
        sum.tokens += h[i].tokens;
    }
    return sum;
}

static double less(double spent, double back)
{
    return spent > back ? spent - back : 0;
}

/* Clocks of processes agree, but not on who comes first. */
static void refill(struct entry *e, int64_t now_us)
{
    double minutes = now_us > e->at_us ? (double)(now_us - e->at_us) / MINUTE_US : 0;
    e->requests_spent = less(e->requests_spent, minutes * e->requests_rate);
    e->tokens_spent = less(e->tokens_spent, minutes * e->tokens_rate);
    e->at_us = now_us > e->at_us ? now_us : e->at_us;
}

static bool is_idle(struct ledger *l, const struct set *s, const struct entry *e)
{
    struct held h = sum_of(l, held_of(l, s, e));
    return h.n_running == 0 && h.n_queued == 0;
}

/* A limit of nothing gives nothing back, ever: that is not waited for. */
static bool owes(const struct entry *e)
{
    return (e->requests_spent > NOTHING && e->requests_rate > 0) ||
           (e->tokens_spent > NOTHING && e->tokens_rate > 0);
}

/* One that nobody has, or whose tenant has nothing running and owes nothing; NULL: there is
 * none at this moment. */
static struct entry *vacate(struct ledger *l, struct set *s, int64_t now_us)
{
    for (int i = 0; i < SET_ENTRIES; i++) {
        struct entry *e = &s->entries[i];
        if (!e->tenant)
            return e;
        refill(e, now_us);
        if (!owes(e) && is_idle(l, s, e))
            return e;
    }
    return NULL;
}

static struct entry *find(struct set *s, int64_t tenant)
{
    for (int i = 0; i < SET_ENTRIES && s->entries[i].tenant; i++)
        if (s->entries[i].tenant == tenant)
            return &s->entries[i];
    return NULL;
}

static struct set *set_of(struct ledger *l, int64_t tenant)
{
    CHECK(tenant > 0);
    return &l->sets[tenant % N_SETS];
}

/* What is refilled until now is so by the limits of before. */
static void bring_up(struct entry *e, const struct ledger_ask *ask)
{
    refill(e, ask->now_us);
    e->requests_rate = (double)ask->limits->requests_per_minute;
    e->tokens_rate = (double)ask->limits->tokens_per_minute;
}

/* Locks the set. The entry is as of now; NULL: there is none, and with may_make no room. */
static struct entry *enter(struct ledger *l, struct set *s, const struct ledger_ask *ask,
                           bool may_make)
{
    CHECK(ask->place >= 0 && ask->place < l->n_places);
    lock(s);
    struct entry *e = find(s, ask->tenant);
    if (!e && may_make && (e = vacate(l, s, ask->now_us))) {
        memset(held_of(l, s, e), 0, (size_t)l->n_places * sizeof(struct held));
        *e = (struct entry){.tenant = ask->tenant, .at_us = ask->now_us};
    }
    if (e)
        bring_up(e, ask);
    return e;
}

/* ---- taking -------------------------------------------------------------------------- */

/* Until n more fit into what a minute allows. */
static int64_t wait_for(double spent, double n, double limit)
{
    double over = spent + n - limit;
    if (over < NOTHING)
        return 0;
    double us = ceil(over * MINUTE_US / limit);
    return us < (double)LONGEST_US ? (int64_t)us : LONGEST_US;
}

static enum ledger_answer check(const struct entry *e, const struct ledger_ask *ask,
                                int64_t *wait_us)
{
    *wait_us = wait_for(e->requests_spent, 1, e->requests_rate);
    if (*wait_us)
        return LEDGER_NO_REQUESTS;
    *wait_us = wait_for(e->tokens_spent, (double)ask->n_tokens, e->tokens_rate);
    return *wait_us ? LEDGER_NO_TOKENS : LEDGER_GRANTED;
}

static enum ledger_answer seat(const struct held *sum, const struct ledger_ask *ask)
{
    const struct tenant_limits *lim = ask->limits;
    if (!sum->n_queued && sum->n_running + ask->n_sequences <= lim->max_running)
        return LEDGER_GRANTED;
    return sum->n_queued + ask->n_sequences <= lim->max_queued ? LEDGER_QUEUED
                                                               : LEDGER_NO_ROOM;
}

/* First what is held, so that a death in between gives back too much rather than too
 * little. */
static void charge(struct entry *e, struct held *mine, const struct ledger_ask *ask,
                   bool is_queued)
{
    *(is_queued ? &mine->n_queued : &mine->n_running) += ask->n_sequences;
    mine->tokens += (double)ask->n_tokens;
    e->requests_spent += 1;
    e->tokens_spent += (double)ask->n_tokens;
}

enum ledger_answer ledger_take(struct ledger *l, const struct ledger_ask *ask,
                               int64_t *wait_us)
{
    struct set *s = set_of(l, ask->tenant);
    struct entry *e = enter(l, s, ask, true);
    enum ledger_answer got = e ? check(e, ask, wait_us) : LEDGER_FULL;
    if (got == LEDGER_GRANTED) {
        struct held *h = held_of(l, s, e), sum = sum_of(l, h);
        got = seat(&sum, ask);
        if (got != LEDGER_NO_ROOM)
            charge(e, &h[ask->place], ask, got == LEDGER_QUEUED);
    }
    unlock(s);
    return got;
}

bool ledger_start(struct ledger *l, const struct ledger_ask *ask)
{
    struct set *s = set_of(l, ask->tenant);
    struct entry *e = enter(l, s, ask, false);
    CHECK(e); /* what holds something is not taken over */
    struct held *h = held_of(l, s, e), sum = sum_of(l, h);
    bool starts = sum.n_running + ask->n_sequences <= ask->limits->max_running;
    if (starts) {
        h[ask->place].n_queued -= ask->n_sequences;
        h[ask->place].n_running += ask->n_sequences;
    }
    unlock(s);
    return starts;
}

static void give_back(struct ledger *l, const struct ledger_ask *ask, int64_t used,
                      bool is_queued)
{
    struct set *s = set_of(l, ask->tenant);
    struct entry *e = enter(l, s, ask, false);
    CHECK(e);
    struct held *mine = &held_of(l, s, e)[ask->place];
    *(is_queued ? &mine->n_queued : &mine->n_running) -= ask->n_sequences;
    mine->tokens = less(mine->tokens, (double)ask->n_tokens);
    e->tokens_spent = less(e->tokens_spent, (double)(ask->n_tokens - used));
    unlock(s);
}

void ledger_settle(struct ledger *l, const struct ledger_ask *ask, int64_t tokens_used)
{
    give_back(l, ask, tokens_used, false);
}

void ledger_give_up(struct ledger *l, const struct ledger_ask *ask)
{
    give_back(l, ask, 0, true);
}

enum ledger_answer ledger_spend(struct ledger *l, const struct ledger_ask *ask,
                                int64_t *wait_us)
{
    struct set *s = set_of(l, ask->tenant);
    struct entry *e = enter(l, s, ask, true);
    *wait_us = e ? wait_for(e->tokens_spent, (double)ask->n_tokens, e->tokens_rate) : 0;
    enum ledger_answer got = !e ? LEDGER_FULL : *wait_us ? LEDGER_NO_TOKENS : LEDGER_GRANTED;
    if (got == LEDGER_GRANTED)
        e->tokens_spent += (double)ask->n_tokens;
    unlock(s);
    return got;
}

/* ---- looking ------------------------------------------------------------------------- */

void ledger_look(struct ledger *l, const struct ledger_ask *ask, struct ledger_state *out)
{
    const struct tenant_limits *lim = ask->limits;
    struct set *s = set_of(l, ask->tenant);
    struct entry *e = enter(l, s, ask, false), none = {0};
    struct held sum = e ? sum_of(l, held_of(l, s, e)) : (struct held){0};
    const struct entry now = e ? *e : none;
    unlock(s);
    double requests = (double)lim->requests_per_minute,
           tokens = (double)lim->tokens_per_minute;
    *out = (struct ledger_state){
        .requests_left = (int64_t)less(requests, now.requests_spent),
        .tokens_left = (int64_t)less(tokens, now.tokens_spent),
        .requests_full_us = wait_for(now.requests_spent, requests, requests),
        .tokens_full_us = wait_for(now.tokens_spent, tokens, tokens),
        .n_running = sum.n_running,
        .n_queued = sum.n_queued,
    };
}

/* ---- the dead ------------------------------------------------------------------------ */

static void forget_in(struct ledger *l, struct set *s, int place)
{
    for (int i = 0; i < SET_ENTRIES && s->entries[i].tenant; i++) {
        struct entry *e = &s->entries[i];
        struct held *gone = &held_of(l, s, e)[place];
        e->tokens_spent = less(e->tokens_spent, gone->tokens);
        *gone = (struct held){0};
    }
}

void ledger_forget_worker(struct ledger *l, int place)
{
    CHECK(place >= 0 && place < l->n_places);
    for (int i = 0; i < N_SETS; i++) {
        lock(&l->sets[i]);
        forget_in(l, &l->sets[i], place);
        unlock(&l->sets[i]);
    }
}
