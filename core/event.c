/* Events: one allocation each, with the text and the scores inside. */
#include "core/event.h"

#include "core/base/mem.h"

#include <stdlib.h>
#include <string.h>

struct event *event_new(enum event_kind kind, struct job *job, int choice)
{
    struct event *ev = xcalloc(1, sizeof *ev);
    ev->kind = kind;
    ev->job = job;
    ev->choice = choice;
    ev->stop_index = -1;
    ev->text = "";
    return ev;
}

struct event *event_new_scored(enum event_kind kind, struct job *job, int choice,
                               const struct row_score *scores, int n_scores, const char *text,
                               size_t text_len)
{
    size_t n = (size_t)n_scores, n_top = 0;
    for (size_t i = 0; i < n; i++)
        n_top += (size_t)scores[i].n_top;
    size_t tokens_size = n * sizeof(struct token_out), top_size = n_top * sizeof(struct token_score);
    unsigned char *at = xcalloc(1, sizeof(struct event) + tokens_size + top_size + text_len + 1);
    struct event *ev = (struct event *)(void *)at;
    struct token_out *tokens = (struct token_out *)(void *)(at + sizeof *ev);
    struct token_score *top = (struct token_score *)(void *)(at + sizeof *ev + tokens_size);
    char *copy = (char *)at + sizeof *ev + tokens_size + top_size;
    for (size_t i = 0; i < n; i++) {
        int k = scores[i].n_top;
        tokens[i] = (struct token_out){scores[i].token, k, top};
        memcpy(top, scores[i].top, (size_t)k * sizeof *top);
        top += k;
    }
    memcpy(copy, text, text_len);
    *ev = (struct event){.kind = kind, .job = job, .choice = choice, .stop_index = -1, .text = copy,
                         .text_len = text_len, .n_tokens = n_scores, .tokens = tokens};
    return ev;
}

void event_free(struct event *ev)
{
    free(ev);
}

void event_list_add(struct event_list *l, struct event *ev)
{
    ev->next = NULL;
    if (l->last)
        l->last->next = ev;
    else
        l->first = ev;
    l->last = ev;
}

bool event_list_append(struct event_list *to, struct event_list *from)
{
    bool was_empty = !to->first;
    if (!from->first)
        return false;
    if (to->last)
        to->last->next = from->first;
    else
        to->first = from->first;
    to->last = from->last;
    *from = (struct event_list){0};
    return was_empty;
}
