/* What each worker is running, request by request, in memory that outlives it.
 *
 * Thread: loop of the worker whose table it is, which alone writes; any process reads. A
 * table of fixed size: what does not fit is not noted. A worker may die in the middle of a
 * change, or be read in it, so a reader skips an entry that is being written and believes
 * nothing: strings are bounded and checked, numbers are taken as they are.
 *
 *     struct running *all = running_new(n_workers);          supervisor, before it forks
 *     running_start(&all[place]);                            worker, when it starts
 *     struct running_entry *e = running_begin(&all[place], &(struct running_request){...});
 *     running_set_version(e, "support", owner, digest); ...; running_end(&all[place], e);
 *     running_each(&all[place], fn, ud);                     anybody
 */
#ifndef PREFIXD_RUNNING_H
#define PREFIXD_RUNNING_H

#include "core/base/digest.h"

#include <stdbool.h>
#include <stdint.h>

enum { RUNNING_MAX = 1024, RUNNING_ID_MAX = 128, RUNNING_NAME_MAX = 64 };

struct running_texts { /* change together; "" where there is none */
    char id[RUNNING_ID_MAX + 1];
    char tenant_name[RUNNING_NAME_MAX + 1];
    char adapter[RUNNING_NAME_MAX + 1];
    char version[DIGEST_HEX + 1];
    int64_t owner; /* the tenant whose version it is, and changes with it; 0: none */
};

struct running_numbers { /* each is written by itself */
    int64_t tenant;
    int64_t start_us; /* CLOCK_MONOTONIC */
    int32_t station;  /* enum exchange_station */
    int32_t prompt_tokens, virtual_tokens, generated_tokens;
};

struct running_request { /* a copy for whoever reads */
    struct running_texts texts;
    struct running_numbers n;
};

struct running_entry {
    uint32_t seq;    /* odd: its texts are being written */
    int32_t is_used;
    struct running_request r;
};

struct running {
    int32_t pid;  /* of the worker; 0: none */
    int32_t n_used;
    int32_t next; /* where to look first for a free entry */
    struct running_entry entries[RUNNING_MAX];
};

struct running *running_new(int n); /* zeroed, shared with processes forked later */
void running_free(struct running *r, int n);

void running_start(struct running *r); /* by the worker: its table is empty and its own */
void running_clear(struct running *r); /* by whoever saw its worker end */

/* NULL if there is no place; all that follow accept NULL. Texts are cut to their fields. */
struct running_entry *running_begin(struct running *r,
                                    const struct running_request *request);
void running_set_version(struct running_entry *e, const char *adapter, int64_t owner,
                         const char *digest);
void running_set_station(struct running_entry *e, int station);
void running_set_tokens(struct running_entry *e, int prompt, int virtual, int generated);
void running_end(struct running *r, struct running_entry *e);

/* Whether a request of this worker uses this version now. */
bool running_has(const struct running *r, int64_t owner, const char *digest);

/* Every request, in no order. The copy is lent for the call. */
void running_each(const struct running *r,
                  void (*fn)(const struct running_request *request, void *ud), void *ud);

/* Every version of an owner once, with the number of requests that use it. */
void running_each_version(const struct running *r,
                          void (*fn)(int64_t owner, const char *digest, int n_requests,
                                     void *ud),
                          void *ud);

#endif
