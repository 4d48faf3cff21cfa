/* From a step's logits to events. */
#include "core/emit.h"

#include "core/base/mem.h"
#include "core/model/model.h"
#include "core/sampler.h"

#include <math.h>
#include <stdlib.h>

void emit_init(struct emit *e, const struct base_model *base, int max_rows)
{
    *e = (struct emit){.base = base, .max_rows = max_rows};
    e->rows = xcalloc((size_t)max_rows, sizeof *e->rows);
}

void emit_fini(struct emit *e)
{
    free(e->rows);
    *e = (struct emit){0};
}

struct score_pass {
    struct emit *e;
    float *logits;
    size_t ld;
    const struct kernels *k;
};

static void score(struct emit_row *row, const float *logits, int vocab, int32_t token,
                  const struct kernels *k)
{
    int n_top = row->seq->job->n_logprobs;
    row->score.token.id = token;
    row->score.token.logprob = NAN;
    row->score.n_top = n_top > 0 ? n_top : 0;
    if (n_top < 0)
        return; /* nobody asked */
    if (row->score.n_top > vocab)
        row->score.n_top = vocab;
    row->score.token.logprob = sampler_score(logits, vocab, token, row->score.n_top, row->score.top, k);
    row->is_broken |= row->score.token.logprob != row->score.token.logprob;
}

/* Choosing overwrites banned logits; they are put back, because scores are those of the raw logits. */
static int32_t choose(const struct emit_row *row, const struct base_model *base, float *logits, int vocab,
                      const struct kernels *k)
{
    const struct seq *q = row->seq;
    const struct model_desc *d = &base_model_weights(base)->desc;
    struct sampler_ban ban = {d->eos, q->n_generated < q->job->min_tokens ? d->n_eos : 0};
    float kept[MODEL_MAX_EOS];
    for (int i = 0; i < ban.n; i++)
        kept[i] = logits[ban.ids[i]];
    int32_t id = sampler_pick(logits, vocab, &q->job->sampling, (uint32_t)(q->choice % q->job->n),
                              (uint32_t)row->slot, ban, k);
    for (int i = 0; i < ban.n; i++)
        logits[ban.ids[i]] = kept[i];
    return id;
}

static void score_task(void *arg, int task, int thread)
{
    (void)thread;
    const struct score_pass *p = arg;
    struct emit_row *row = &p->e->rows[task];
    int vocab = base_model_shape(p->e->base)->vocab;
    float *logits = p->logits + (size_t)task * p->ld;
    int32_t id = row->is_prompt ? row->seq->prompt[row->slot + 1]
                                : choose(row, p->e->base, logits, vocab, p->k);
    row->is_broken = id < 0;
    if (id >= 0)
        score(row, logits, vocab, id, p->k);
}

void emit_score(struct emit *e, const struct batch *b, struct seq *const *order, float *logits,
                size_t ld_logits, const struct kernels *k, struct par *par)
{
    for (int i = 0; i < b->n_seqs; i++)
        for (int r = b->seqs[i].row; r < b->seqs[i].row + b->seqs[i].n_rows; r++) {
            const struct batch_row *row = &b->rows[r];
            if (row->logits < 0)
                continue;
            struct emit_row *er = &e->rows[row->logits];
            er->seq = order[i];
            er->slot = row->slot;
            er->is_prompt = row->slot + 1 < order[i]->n_prompt;
        }
    struct score_pass p = {e, logits, ld_logits, k};
    par_for(par, b->n_logits, score_task, &p);
}

/* The prompt rows of this step as one event; the very first token of a prompt has no score. */
static bool emit_prompt(struct emit *e, const struct batch *b, const struct batch_seq *sq,
                        const struct seq *q, struct event_list *out)
{
    struct row_score *scores = xcalloc((size_t)sq->n_rows + 1, sizeof *scores);
    int n = 0;
    bool is_fine = true;
    if (b->rows[sq->row].slot == 0)
        scores[n++].token = (struct token_score){q->prompt[0], NAN};
    for (int r = sq->row; r < sq->row + sq->n_rows; r++) {
        int at = b->rows[r].logits;
        if (at < 0 || !e->rows[at].is_prompt)
            continue;
        is_fine &= !e->rows[at].is_broken;
        scores[n++] = e->rows[at].score;
    }
    if (n && is_fine)
        event_list_add(out, event_new_scored(EVENT_PROMPT, q->job, q->choice, scores, n, "", 0));
    free(scores);
    return is_fine;
}

static void end_choice(struct seq *q, enum finish why, int stop_index, struct buf *text,
                       struct event_list *out)
{
    if (stop_index < 0) {
        struct buf rest = {0};
        detok_end(q->detok, &rest);
        stop_index = stop_feed(&q->stop, rest.data, rest.len, text);
        if (stop_index < 0)
            stop_end(&q->stop, text);
        else
            why = FINISH_STOP;
        buf_free(&rest);
    }
    struct event *ev = event_new_scored(EVENT_END, q->job, q->choice, NULL, 0, text->data ? text->data : "",
                                        text->len);
    ev->n_cached = q->n_cached;
    ev->finish = why;
    ev->stop_index = stop_index;
    ev->n_generated = q->n_generated;
    event_list_add(out, ev);
}

/* A new token: its text, and whether it was the last one. */
static enum emit_outcome emit_new(struct emit *e, struct seq *q, const struct emit_row *row,
                                  struct event_list *out)
{
    struct buf piece = {0}, safe = {0}, tail = {0};
    int32_t id = row->score.token.id;
    q->last = id;
    q->n_generated++;
    bool is_eos = base_model_is_eos(e->base, id) && !q->job->ignore_eos;
    if (!is_eos) /* it ends the text and is no part of it, special token or not */
        detok_feed(q->detok, id, &piece);
    int hit = -1;
    if (q->n_generated <= q->job->min_tokens) /* as in vLLM: nothing ends an answer before that */
        stop_pass(&q->stop, piece.data, piece.len, &safe);
    else
        hit = stop_feed(&q->stop, piece.data, piece.len, &safe);
    struct event *ev = event_new_scored(EVENT_TOKEN, q->job, q->choice, &row->score, 1,
                                        safe.data ? safe.data : "", safe.len);
    ev->n_cached = q->n_cached;
    event_list_add(out, ev);
    bool is_over = hit >= 0 || is_eos || q->n_generated >= q->max_new;
    if (is_over)
        end_choice(q, hit >= 0 || is_eos ? FINISH_STOP : FINISH_LENGTH, hit, &tail, out);
    buf_free(&piece);
    buf_free(&safe);
    buf_free(&tail);
    return is_over ? EMIT_ENDED : EMIT_GOES_ON;
}

enum emit_outcome emit_seq(struct emit *e, const struct batch *b, int i, struct seq *q,
                           struct event_list *out)
{
    const struct batch_seq *sq = &b->seqs[i];
    const struct batch_row *last = &b->rows[sq->row + sq->n_rows - 1];
    bool was_prefill = seq_is_prefill(q);
    q->n_computed += sq->n_rows;
    if (!q->job)
        return seq_is_prefill(q) ? EMIT_GOES_ON : EMIT_ENDED;
    if (was_prefill && seq_scores_prompt(q) && !emit_prompt(e, b, sq, q, out))
        return EMIT_BROKEN;
    if (seq_is_prefill(q))
        return EMIT_GOES_ON;
    if (q->max_new == 0) {
        struct buf text = {0};
        end_choice(q, FINISH_LENGTH, -1, &text, out);
        buf_free(&text);
        return EMIT_ENDED;
    }
    const struct emit_row *row = &e->rows[last->logits];
    return row->is_broken ? EMIT_BROKEN : emit_new(e, q, row, out);
}
