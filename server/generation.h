/* A completion under way: from the body to a job, and from the job's events to the answer.
 *
 * Thread: loop; texts longer than a few KiB are tokenised on the pool. The stations are called
 * by exchange_run in the order of their declaration; generation_event collects,
 * generation_answer writes what was collected since the last call. The adapter's version is
 * pinned from generation_adapt until the exchange is freed, so it outlives the job.
 */
#ifndef PREFIXD_GENERATION_H
#define PREFIXD_GENERATION_H

#include "adapters/adapters.h"
#include "core/engine.h"
#include "server/budget.h"
#include "server/completion.h"
#include "server/exchange.h"
#include "server/loads.h"

#include <stdbool.h>
#include <stdint.h>

enum { GENERATION_MAX_ANSWER = 64 << 20 }; /* bytes, by estimate */

struct generation {
    struct completion req;
    /* tokenize */
    struct token_list *lists; /* [n_prompts], of the texts */
    struct choice_out *choices; /* [n_prompts * n], with what the answers start with */
    struct err tokenize_err;
    bool is_tokenized;
    /* adapt */
    const char *adapter; /* NULL: none */
    struct load_wait wait;
    struct adapter_version *version;
    /* post */
    struct job job;
    struct job_prompt *prompts;
    int n_choices; /* 0 until then */
    struct budget_hold answer; /* of the server's memory for answers */
    /* stream */
    struct completion_head head;
    char id[48];
    bool *is_dirty;             /* [n_choices] something to stream */
    int64_t *token_us;          /* [n_choices] when its last token came */
    int *n_tokens;              /* [n_choices] its tokens so far */
    bool *has_begun;            /* [n_choices] its first token, or its end, has come */
    struct completion_usage usage;
    int n_ended;
    bool is_started, is_final;
    int64_t posted_us, first_us, last_us; /* job and tokens; 0: none yet */
    int64_t written_us; /* when the client last got something, or the post */
    int64_t ttft_us;    /* 0: no token yet */
};

enum exchange_result generation_parse(struct exchange *x);
enum exchange_result generation_tokenize(struct exchange *x);
enum exchange_result generation_adapt(struct exchange *x);
enum exchange_result generation_post(struct exchange *x);

void generation_event(struct exchange *x, const struct event *ev);
enum exchange_result generation_answer(struct exchange *x);
void generation_note_tokens(struct exchange *x); /* for whoever looks what runs */
void generation_settle(struct exchange *x); /* gives back what it does not need of its limits */
void generation_tick(struct exchange *x, int64_t now_us);

void generation_fini(struct exchange *x); /* nothing happens if it has none */

#endif
