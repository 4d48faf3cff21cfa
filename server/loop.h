/* The loop thread's clockwork: HTTP, wake-ups from the engine, signals, a tick, work on the
 * pool.
 *
 * Thread: loop, except loop_wake (any) and the work functions (pool). Every callback runs
 * on the loop thread, and HTTP is pumped once after each, so that what one wake-up brought
 * is written in one go.
 */
#ifndef PREFIXD_LOOP_H
#define PREFIXD_LOOP_H

#include "core/base/err.h"

#include <stdbool.h>
#include <stdint.h>

struct loop;
struct http;

struct loop_handlers {
    void (*on_wake)(void *ud);
    void (*on_tick)(void *ud);
    void (*on_signal)(void *ud, int signum); /* SIGTERM, SIGINT */
    void (*on_life_end)(void *ud);           /* of loop_watch_life */
    void *ud;
};

enum { LOOP_TICK_MS = 100 };

struct loop *loop_new(const struct loop_handlers *h, struct err *err);
int loop_start(struct loop *l, struct http *http,
               struct err *err); /* watches http and signals */
void loop_watch_life(struct loop *l, int fd); /* on_life_end at its end of file, once */
void loop_run(struct loop *l);   /* until loop_stop */
void loop_stop(struct loop *l);
void loop_detach_http(struct loop *l);
void loop_free(struct loop *l); /* waits for work under way */

void loop_wake(struct loop *l); /* any thread */

/* on_tick every LOOP_TICK_MS; it goes on by itself when there are connections. */
void loop_set_ticking(struct loop *l, bool on);

/* A clock of one's own: fn(ud) once, ms from the start on; starting again moves it. It goes
 * with the loop. */
struct loop_timer;
struct loop_timer *loop_timer_new(struct loop *l, void (*fn)(void *ud), void *ud);
void loop_timer_start(struct loop_timer *t, int ms);

/* fn(ud) whenever something moves in the folder at path, not below it; what moved is not
 * told. NULL: the kernel does not watch it. Freed before the loop. */
struct loop_folder;
struct loop_folder *loop_folder_new(struct loop *l, const char *path, void (*fn)(void *ud),
                                    void *ud);
void loop_folder_free(struct loop_folder *f); /* accepts NULL */

/* work(ud) on the pool, then done(ud) on the loop. What computes for a moment, as tokenising;
 * it always finds a thread. */
void loop_work(struct loop *l, void (*work)(void *ud), void (*done)(void *ud), void *ud);

/* What may wait, for the disk or for another writer of the registry, or takes long. Each lane
 * has so many threads; what comes beyond them waits for its turn: first that of who has the
 * fewest of them, then in order. */
#define LOOP_LANES(XX)                                                                     \
    XX(LOADS, 8)     /* of adapters */                                                     \
    XX(CHANGES, 8)   /* of adapters */                                                     \
    XX(FILES, 4)     /* of adapters, read to be answered */                                \
    XX(REGISTRY, 12) /* tenants, keys, usage; the adapters folder */

enum loop_lane {
#define XX(name, at_once) LOOP_##name,
    LOOP_LANES(XX)
#undef XX
    LOOP_N_LANES
};

enum {
#define XX(name, at_once) LOOP_##name##_AT_ONCE = at_once,
    LOOP_LANES(XX)
#undef XX
};

/* Threads of LOADS and of CHANGES each that may do what is long (adapter_change_is_long): the
 * rest of them are for what is short, however many tenants bring what is not. */
enum { LOOP_LONG_AT_ONCE = 6 };

/* whose: a tenant; 0: nobody's. */
void loop_block(struct loop *l, enum loop_lane lane, int64_t whose, void (*work)(void *ud),
                void (*done)(void *ud), void *ud);

#endif
