/* An engine without a model, in the place of core/engine.c: what it answers is planned by
 * the test.
 *
 * Thread: any. A choice's k-th token has the id 5 + k and the text " w<k>".
 *
 *     fake_engine_plan(&(struct fake_plan){.step_us = 1000, .hold_after = 3});
 */
#ifndef PREFIXD_FAKE_ENGINE_H
#define PREFIXD_FAKE_ENGINE_H

#include "core/engine.h"

enum { FAKE_CTX = 1000, FAKE_FIRST_ID = 5, FAKE_MAX_SEEN = 64 };

struct fake_plan {
    int step_us;
    bool is_held;   /* nothing at all happens to a job, but for its end when cancelled */
    int hold_after; /* held after so many tokens; 0: never */
    enum err_code post_code; /* engine_post refuses with it */
    enum err_code fail_code; /* EVENT_FAILED with it ... */
    int fail_after;          /* ... after so many tokens */
    int eos_after;           /* an end token after so many tokens; 0: never */
    int compile_us;          /* what an adapter costs ... */
    int compile_token_us;    /* ... and what each of its virtual tokens */
    size_t text_bytes;       /* length of a token's text; 0: as above */
};

struct fake_seen {
    int n_posted, n_final, n_cancelled;
    struct sampling sampling; /* the last job's, as all below */
    int n_prompts, n, n_ids, max_tokens, min_tokens, n_stops, n_logprobs;
    bool ignore_eos, is_echo, has_prefix;
    int32_t ids[FAKE_MAX_SEEN]; /* of its first prompt */
};

void fake_engine_plan(const struct fake_plan *p);
void fake_engine_seen(struct fake_seen *out);

#endif
