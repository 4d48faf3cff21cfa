/* How the engine makes events, and lists of them.
 *
 * Thread: engine makes them; a list belongs to one thread or is guarded by its owner's lock. */
#ifndef PREFIXD_EVENT_H
#define PREFIXD_EVENT_H

#include "core/engine.h"

struct row_score { /* what a row of logits gave: a token and its alternatives */
    struct token_score token;
    int n_top;
    struct token_score top[JOB_MAX_LOGPROBS];
};

struct event_list {
    struct event *first, *last;
};

struct event *event_new(enum event_kind kind, struct job *job, int choice);
struct event *event_new_scored(enum event_kind kind, struct job *job, int choice,
                               const struct row_score *scores, int n_scores, const char *text,
                               size_t text_len);

void event_list_add(struct event_list *l, struct event *ev);

/* Moves all of `from` behind `to`; true if `to` was empty and is not any more. */
bool event_list_append(struct event_list *to, struct event_list *from);

#endif
