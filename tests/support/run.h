/* For tests: posts jobs to a real engine and collects whole answers. */
#ifndef PREFIXD_TEST_RUN_H
#define PREFIXD_TEST_RUN_H

#include "core/engine.h"

enum { RUN_MAX_TOKENS = 512, RUN_MAX_TOP = 5 };

struct answer { /* of one choice */
    int n_ids, n_prompt_scores;
    int32_t ids[RUN_MAX_TOKENS];
    float logprobs[RUN_MAX_TOKENS];
    int n_top[RUN_MAX_TOKENS];
    struct token_score top[RUN_MAX_TOKENS][RUN_MAX_TOP];
    float prompt_logprobs[RUN_MAX_TOKENS];
    char text[8192];
    size_t text_len;
    enum finish finish;
    int stop_index, n_generated, n_cached;
    bool has_ended;
};

struct run { /* one job and what came of it */
    struct job job;
    struct job_prompt prompt;
    struct answer *answers; /* [n] */
    bool is_done, has_failed;
    struct err err;
};

struct runner;

struct runner *runner_new(const struct base_model *b, struct engine_opts opts);
struct engine *runner_engine(struct runner *r);
void runner_free(struct runner *r);

/* A greedy job of one prompt, with 5 logprobs per token and ignore_eos; change run->job before posting. */
struct run *run_new(const int32_t *ids, int n_ids, int max_tokens, const struct kv_prefix *prefix);
void run_free(struct run *run);

int runner_post(struct runner *r, struct run *run, struct err *err);
/* Blocks until every posted run is done, or until one more event was seen (one_event). */
void runner_wait(struct runner *r, struct run **runs, int n_runs);
void runner_wait_event(struct runner *r);

/* While held, the engine thread stands still in its next wake call: after a step that gave
 * events, before it looks at what was posted or cancelled since. runner_step lets a standing
 * engine do its next step with events, takes those, and finds it standing again. */
void runner_hold(struct runner *r);
void runner_release(struct runner *r);
void runner_step(struct runner *r);

/* Bitwise equality of tokens, logprobs, alternatives, prompt logprobs, text and ending. */
bool answer_equals(const struct answer *a, const struct answer *b);

#endif
