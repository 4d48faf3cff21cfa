/* What tenants have taken of their limits, in memory that all workers share.
 *
 * Threads and processes: any; each call holds one lock for microseconds. The lock is
 * robust: who dies while holding it leaves at worst one request's tokens charged. Times are
 * given by the caller (microseconds of the machine's monotonic clock), so that tests can
 * have their own.
 *
 * Buckets hold one minute's requests and tokens and are refilled all the time. What is kept
 * is how much is spent, so that changed limits hold at once. Sequences and reserved tokens
 * are counted by worker place: what a dead worker held is given back.
 *
 * There is room for LEDGER_MAX_TENANTS who run something or have not all of their minute
 * back yet; a further one is refused rather than another's debt forgotten. Ids of a few
 * tenants among very many may meet in one part of it, which is full a little earlier. The
 * memory, some 5 MB with two workers, is taken when it is used.
 *
 *     struct ledger *l = ledger_new(n_workers, &err);        before the fork
 *     struct ledger_ask ask = {.tenant = 7, .place = 0, .limits = &limits,
 *                              .n_sequences = 1, .n_tokens = 48, .now_us = now};
 *     switch (ledger_take(l, &ask, &wait_us)) ...
 *     ledger_settle(l, &ask, 40);                           8 tokens come back
 */
#ifndef PREFIXD_LEDGER_H
#define PREFIXD_LEDGER_H

#include "adapters/store_tenants.h"
#include "core/base/err.h"

#include <stdbool.h>
#include <stdint.h>

enum { LEDGER_MAX_PLACES = 64, LEDGER_MAX_TENANTS = 65536 };

struct ledger;

struct ledger_ask {
    int64_t tenant;
    int place;
    const struct tenant_limits *limits;
    int n_sequences;
    int64_t n_tokens; /* prompt and as much as may be generated */
    int64_t now_us;
};

enum ledger_answer {
    LEDGER_GRANTED,
    LEDGER_QUEUED,      /* until a sequence ends: ledger_start */
    LEDGER_NO_REQUESTS, /* in this minute; wait_us says from when on */
    LEDGER_NO_TOKENS,   /* likewise */
    LEDGER_NO_ROOM,     /* in the queue */
    LEDGER_FULL,        /* of other tenants; nothing is known of this one */
};

struct ledger_state {                         /* of a tenant, at one moment */
    int64_t requests_left, tokens_left;       /* of what may be had at once; at least 0 */
    int64_t requests_full_us, tokens_full_us; /* until everything is there again */
    int n_running, n_queued;
};

struct ledger *ledger_new(int n_places, struct err *err);
void ledger_free(struct ledger *l); /* accepts NULL */

/* The request and its tokens are charged and its sequences counted, as running or queued,
 * or nothing is. Who comes while others wait is queued behind them. */
enum ledger_answer ledger_take(struct ledger *l, const struct ledger_ask *ask,
                               int64_t *wait_us);

/* Whether what was queued runs now. */
bool ledger_start(struct ledger *l, const struct ledger_ask *ask);

/* Ends what was granted, or queued in vain: tokens that were not used come back. */
void ledger_settle(struct ledger *l, const struct ledger_ask *ask, int64_t tokens_used);
void ledger_give_up(struct ledger *l, const struct ledger_ask *ask);

/* Takes n_tokens for good, without a request or a sequence, or nothing (LEDGER_NO_TOKENS
 * with wait_us, LEDGER_FULL). */
enum ledger_answer ledger_spend(struct ledger *l, const struct ledger_ask *ask,
                                int64_t *wait_us);

void ledger_look(struct ledger *l, const struct ledger_ask *ask, struct ledger_state *out);

/* Gives back what a worker that is no more held. By the supervisor, before the place is
 * taken again. */
void ledger_forget_worker(struct ledger *l, int place);

#endif
