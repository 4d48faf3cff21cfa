/* A tenant's limits, as a request meets them: taken before its job is posted, given back
 * when it is over.
 *
 * Thread: loop, but for limits_charge_compile. What waits for a sequence of its tenant to
 * end stands in a line for each tenant, and is run again (exchange_run) when its turn has
 * come: at once after something of that tenant was settled here, within LIMITS_TICK_MS of
 * what other workers settle.
 *
 *     switch (limits_take(x, n, tokens, &err)) {   in a step, each time it runs
 *     case -1: return exchange_fail(x, &err);      429 with x->retry_after_s, or 403
 *     case 0: return EXCHANGE_WAIT;
 *     }
 *     ...
 *     limits_settle(x, prompt + generated);        whatever came of it
 */
#ifndef PREFIXD_LIMITS_H
#define PREFIXD_LIMITS_H

#include "core/base/err.h"
#include "server/ledger.h"

#include <stdint.h>

enum { LIMITS_TICK_MS = 10 };

struct exchange;
struct limits;
struct limits_line;
struct loop;

/* What an exchange holds of its tenant's limits; zeroed: nothing. */
struct limits_hold {
    enum { LIMITS_NOTHING, LIMITS_WAITING, LIMITS_HELD } state;
    int n_sequences;
    int64_t n_tokens;
    struct exchange *next; /* in the line */
};

struct limits_opts {
    struct ledger *ledger;
    int place;                        /* of this worker */
    struct loop *loop;                /* NULL: limits_tick is called by a test */
    int64_t (*now_us)(void);          /* NULL: clock_us */
    void (*wake)(struct exchange *x); /* NULL: exchange_run */
};

struct limits *limits_new(const struct limits_opts *opts);
void limits_free(struct limits *l); /* accepts NULL; nobody waits any more */

/* n_tokens: prompts' tokens, and max_tokens for every sequence. 1: granted. 0: the step
 * waits and runs again. -1: ERR_QUEUE_FULL (x->retry_after_s), or ERR_FORBIDDEN where
 * waiting does not help. */
int limits_take(struct exchange *x, int n_sequences, int64_t n_tokens, struct err *err);

/* The request is over, or will never begin. tokens_used: prompt and generated, 0 if nothing
 * ran. Calling it again does nothing. */
void limits_settle(struct exchange *x, int64_t tokens_used);

/* x-ratelimit-*, as things are now; for answers to completions and every 429, before the
 * reply. Nothing for who has no key. */
void limits_add_headers(struct exchange *x);

/* Compiling an adapter costs its virtual tokens, taken just before it begins; they do not
 * come back, whatever becomes of it. One of these goes with a change to the pool:
 *
 *     struct limits_compile *c = limits_compile_new(x);       loop; in the exchange's arena
 *     limits_charge_compile(c, 160, &err);                    pool, as adapters_limits.charge
 *     limits_note_compile(x, c);                              loop, before the answer
 *
 * -1: ERR_QUEUE_FULL, or ERR_FORBIDDEN if it is more than a minute's. */
struct limits_compile;
struct limits_compile *limits_compile_new(struct exchange *x);
int limits_charge_compile(void *limits_compile, int64_t n_tokens, struct err *err);
void limits_note_compile(struct exchange *x, const struct limits_compile *c);

void limits_tick(struct limits *l);

#endif
