/* Whose turn it is: what every tenant's sequences cost, hold, and may still take.
 *
 * Thread: engine. Pure bookkeeping, as sched.c. A domain is one tenant's number. Its counter is the price
 * of the work done for it over its weight (virtual token counters, Sheng et al. 2024); whoever becomes
 * backlogged starts where the backlogged ones stand, so that nobody saves up while idle.
 *
 * - A domain's share of places and blocks is its weight over the weights of all that have work, rounded
 *   up. Below its share it is entitled. While an entitled domain waits nobody above its share is
 *   admitted; of several the smallest counter goes first. Nobody entitled waits: the room is for all.
 *   A head that alone needs more blocks than the whole share is entitled if its domain runs nothing,
 *   but the others need not save up for it before it has lost its patience.
 * - A domain without a running sequence does not wait for others' to end: beside the ordinary places
 *   there is a quarter as many again that only such may enter, and once two domains have been seen an
 *   eighth of the blocks is kept for them. Running sequences fall back to the ordinary number as they
 *   end. One domain alone uses every ordinary place.
 * - Within a domain jobs take turns: a job's k-th choice waits k turns from when the job came, so that one
 *   of 128 choices does not stand before all that come after it; whose turn is the same go in order of
 *   arrival. Turns only go forward, so nobody is overtaken for ever.
 * - The bound: with D domains and sequences that run for at most L rounds, the head of every queue is
 *   admitted within 2 * FAIR_PATIENCE + (D + 1) * L rounds. Within L rounds a head that is not admitted
 *   sees its own domain's sequences end, so that it is entitled from then on. Past its patience the
 *   oldest entitled head goes before all others, but for small newcomers, and past twice that, if it is
 *   a newcomer itself, before those too: then what runs ends within L rounds, and it fits an empty
 *   pool. Older heads than it are D - 1 at most, one of each other domain; each costs L at most.
 * - Prompt rows of a step: every domain with prompts to read gets its weighted part of the chunk, what
 *   one leaves goes to the smallest counter. Where the chunk has fewer rows than there are domains, those
 *   that have waited longest come first. Within a domain its requests' prompts together and each of
 *   its compiles get equal parts; what is over goes to each in turn. */
#ifndef PREFIXD_FAIR_H
#define PREFIXD_FAIR_H

#include "core/seq.h"

enum {
    FAIR_PATIENCE = 256, /* rounds that a head waits before it goes first */
    FAIR_MAX_WEIGHT = 1 << 16,
    FAIR_ROOMS = 3, /* for compiles, by size: compiles.h */
    FAIR_COMPILES = 4, /* places in them all */
    PRICE_VIRTUAL = 1, /* read by every row, but computed by none: paid once, at admission */
    PRICE_FOUND = 1,   /* so is a prompt's token that the text cache had */
    PRICE_PROMPT = 4,
    PRICE_GENERATED = 8, /* a step for one row, where prompt rows share one */
};

struct domain_room { /* a domain's part in a room for compiles */
    bool is_in;     /* it has one there */
    uint64_t since; /* the round in which its last one there began */
};

struct domain {
    uint32_t id, weight;
    uint64_t counter;      /* price of the work done, over the weight; in 65536ths */
    int64_t n_due;         /* prompt rows of running sequences that are still to be computed */
    struct seq_queue waiting, compiles; /* jobs' sequences and compiles that wait */
    struct domain_room rooms[FAIR_ROOMS];
    uint64_t turn;         /* of the sequence that left the queue's head last */
    uint64_t head_since;   /* the round in which the head of the queue became that */
    int n_running, n_blocks; /* of jobs; compiles have room of their own */
    int n_seqs;            /* all it has: waiting, running, compiling */
    bool is_entitled, is_giant; /* of the head: below the share; more blocks than the whole share */
    int n_wanted, n_rows;  /* prompt rows it could use in this step, and those it gets */
    int n_parts, n_part;   /* parts into which those go, and rows of one */
    int n_left;            /* rows of the requests' part */
    int n_scored;          /* prompts being read whose every row is scored */
    int n_ahead, furthest; /* prompt rows that can be computed, and the dearest position among them */
    uint64_t fed;          /* the last round in which it got some */
    struct domain *next;
};

struct fair {
    struct domain *domains;
    uint64_t round;
    uint64_t last_counter; /* of the domain admitted last, then */
    int max_running, n_extra; /* ordinary places, and those for newcomers alone */
    int max_blocks;
    int n_running, n_blocks, n_waiting; /* jobs' of all domains */
    int n_seen;               /* 0, 1 (of number first_id) or 2: more */
    uint32_t first_id;
    struct domain **eaters;   /* scratch: those that want prompt rows */
    int n_eaters;
};

/* Places that only newcomers may enter. */
int fair_extra_places(int max_running);

void fair_init(struct fair *f, int max_running, int max_blocks);
void fair_fini(struct fair *f);

/* Starts a round: forgets idle domains whose counters have been reached by the others. */
void fair_begin(struct fair *f);

/* The domain of this number, made if there is none. weight 0: leave what it is (1 at first). */
struct domain *fair_domain(struct fair *f, uint32_t id, uint32_t weight);

/* d is about to get work: if it has none, it begins where the others stand. */
void fair_enter(const struct fair *f, struct domain *d);

/* A job's sequence waits, starts with n_blocks, goes from the queue, ends. */
void fair_wait(struct fair *f, struct domain *d, struct seq *q);
void fair_start(struct fair *f, struct domain *d, int n_blocks);
bool fair_leave(struct fair *f, struct domain *d, struct seq *q);
void fair_end(struct fair *f, struct domain *d, int n_blocks);

/* The domain whose head is to start now; NULL: none can. */
struct domain *fair_next(struct fair *f);

/* Adds to its counter what `price` units cost a domain of its weight. */
void fair_charge(struct domain *d, int64_t price);

/* Its counter with what its running sequences are certain to cost. */
uint64_t fair_expected(const struct domain *d);

/* Says that d could use n more prompt rows in this step; then fair_deal sets everybody's n_rows. */
void fair_want(struct fair *f, struct domain *d, int n);
void fair_deal(struct fair *f, int chunk);

#endif
