/* The engine thread: drain jobs, admit, compute a step, emit events.
 *
 * One mutex guards both mailboxes and the figures; the engine never holds it while it computes. The
 * thread sleeps only when nothing runs and nothing waits. */
#include "core/engine.h"

#include "core/base/check.h"
#include "core/base/clock.h"
#include "core/base/log.h"
#include "core/base/mem.h"
#include "core/backlog.h"
#include "core/emit.h"
#include "core/forward.h"
#include "core/kv_prefix.h"
#include "core/pace.h"
#include "core/sched.h"

#include <stdlib.h>
#include <unistd.h>

struct engine {
    const struct base_model *base;
    const struct model_shape *shape;
    struct engine_opts opts;
    int max_ctx;
    const struct kernels *kernels;
    struct par *par;
    pthread_t thread;
    bool is_started, is_closed;

    /* the engine thread's own */
    struct kv_pool pool;
    struct text_cache text;
    struct sched sched;
    struct pace pace;
    struct batch batch;
    struct forward_ws ws;
    struct emit emit;
    struct event_list events; /* of the step under way */

    /* shared, under lock */
    pthread_mutex_t lock;
    pthread_cond_t has_work, has_result;
    struct job *first_job, *last_job;
    struct compile *first_compile, *last_compile;
    struct event_list outbox;
    struct engine_stats stats;
    struct backlog backlog; /* what of every domain waits, the inbox included */
    bool is_closing;
};

/* ---- the engine thread --------------------------------------------------------------------------- */

static void publish_events(struct engine *e)
{
    int64_t now = clock_us();
    for (struct event *ev = e->events.first; ev; ev = ev->next)
        ev->made_us = now;
    pthread_mutex_lock(&e->lock);
    bool must_wake = event_list_append(&e->outbox, &e->events);
    pthread_mutex_unlock(&e->lock);
    if (must_wake && e->opts.wake)
        e->opts.wake(e->opts.wake_ud);
}

static void add_job(struct engine *e, struct job *j)
{
    j->n_live = j->n_prompts * j->n;
    j->admitted_us = 0;
    for (int c = 0; c < j->n_prompts * j->n; c++)
        sched_add(&e->sched, seq_new_choice(j, c, base_model_tokenizer(e->base)));
}

static void finish_compile(struct engine *e, struct compile *c, struct kv_prefix *result)
{
    pthread_mutex_lock(&e->lock);
    c->result = result;
    c->is_done = true;
    e->stats.compiling--;
    pthread_cond_broadcast(&e->has_result);
    pthread_mutex_unlock(&e->lock);
}

/* Ends a sequence for good; a job whose last sequence this was gets its final event. */
static void retire(struct engine *e, struct seq *q)
{
    struct job *j = q->job;
    sched_remove(&e->sched, q);
    seq_free(q);
    if (j && --j->n_live == 0)
        event_list_add(&e->events, event_new(EVENT_DONE, j, 0));
}

static bool is_of_job(const struct seq *q, const void *job)
{
    return q->job == job;
}

static bool is_cancelled(const struct seq *q, const void *ud)
{
    (void)ud;
    return q->job && atomic_load_explicit(&q->job->cancelled, memory_order_acquire);
}

/* Every sequence of j, running or waiting; `failure`, or none, is its final event. */
static void retire_job(struct engine *e, struct job *j, const struct err *failure)
{
    for (struct seq *q; (q = sched_find(&e->sched, is_of_job, j));) {
        sched_remove(&e->sched, q);
        seq_free(q);
    }
    struct event *ev = event_new(failure ? EVENT_FAILED : EVENT_DONE, j, 0);
    if (failure)
        ev->err = *failure;
    event_list_add(&e->events, ev);
}

static void drop_cancelled(struct engine *e)
{
    for (struct seq *q; (q = sched_find(&e->sched, is_cancelled, NULL));)
        retire_job(e, q->job, NULL);
}

static void close_compile(struct engine *e, struct seq *q)
{
    struct compile *c = q->compile;
    struct kv_prefix *p = kv_prefix_from_blocks(e->shape, &e->pool, q->blocks, c->n, &c->err);
    retire(e, q);
    finish_compile(e, c, p);
}

/* The sequences of j are about to be freed: the rest of this step must not look at them. */
static void forget_job(struct engine *e, int from, const struct job *j)
{
    for (int i = from; i < e->batch.n_seqs; i++)
        if (e->sched.order[i] && e->sched.order[i]->job == j)
            e->sched.order[i] = NULL;
}

static void emit_all(struct engine *e)
{
    struct err broken = {0};
    err_set(&broken, ERR_INTERNAL, "the model's output is not finite for this request");
    for (int i = 0; i < e->batch.n_seqs; i++) {
        struct seq *q = e->sched.order[i];
        if (!q)
            continue; /* went with its job */
        seq_keep_text(q, &e->text, q->n_computed + e->batch.seqs[i].n_rows);
        switch (emit_seq(&e->emit, &e->batch, i, q, &e->events)) {
        case EMIT_GOES_ON:
            break;
        case EMIT_ENDED:
            if (q->compile)
                close_compile(e, q);
            else
                retire(e, q);
            break;
        case EMIT_BROKEN:
            forget_job(e, i + 1, q->job);
            retire_job(e, q->job, &broken);
            break;
        }
    }
}

static void count_step(struct engine *e, uint64_t us, struct engine_stats *add)
{
    pthread_mutex_lock(&e->lock);
    struct engine_stats *s = &e->stats;
    s->steps++;
    s->step_us += us;
    int bucket = 0;
    while (bucket < ENGINE_STEP_TIMES - 1 && us > engine_step_bound_us(bucket))
        bucket++;
    s->step_times[bucket]++;
    s->prefill_rows += add->prefill_rows;
    s->decode_rows += add->decode_rows;
    s->compile_rows += add->compile_rows;
    s->generated_tokens += add->generated_tokens;
    s->prefix_reads += (uint64_t)e->batch.n_groups;
    for (int i = 0; i < e->batch.n_groups; i++)
        s->prefix_rows += (uint64_t)e->batch.groups[i].n_rows;
    pthread_mutex_unlock(&e->lock);
}

static struct engine_stats rows_of_step(const struct engine *e)
{
    struct engine_stats s = {0};
    for (int i = 0; i < e->batch.n_seqs; i++) {
        const struct seq *q = e->sched.order[i];
        uint64_t n = (uint64_t)e->batch.seqs[i].n_rows;
        if (q->compile)
            s.compile_rows += n;
        else if (seq_is_prefill(q))
            s.prefill_rows += n;
        else
            s.decode_rows += n;
        if (q->job && q->n_computed + (int)n >= q->n_prompt && q->max_new > 0)
            s.generated_tokens++;
    }
    return s;
}

/* All that wait, and how many of each domain; under lock. */
static int count_backlog(struct engine *e)
{
    int n = 0;
    backlog_clear(&e->backlog);
    for (const struct domain *d = e->sched.fair.domains; d; d = d->next)
        n += backlog_add(&e->backlog, d->id, d->waiting.n);
    for (const struct job *j = e->first_job; j; j = j->next)
        n += backlog_add(&e->backlog, j->domain, j->n_prompts * j->n);
    return n;
}

static void update_gauges(struct engine *e)
{
    pthread_mutex_lock(&e->lock);
    e->stats.running = e->sched.n_running;
    e->stats.waiting = count_backlog(e);
    e->stats.kv_blocks_used = e->text.n_held;
    e->stats.kv_blocks_cached = e->text.n_idle;
    e->stats.text_asked = e->text.n_asked;
    e->stats.text_found = e->text.n_found;
    e->stats.text_evicted = e->text.n_evicted;
    pthread_mutex_unlock(&e->lock);
}

static bool has_work(const struct engine *e)
{
    return e->sched.n_running || e->sched.fair.n_waiting || e->sched.compiles.n_waiting;
}

static void admit(struct engine *e, int64_t now)
{
    int n = e->sched.n_running;
    sched_admit(&e->sched);
    for (int i = n; i < e->sched.n_running; i++) {
        struct job *j = e->sched.running[i]->job;
        if (j && !j->admitted_us)
            j->admitted_us = now;
    }
}

static void choose_rows(struct engine *e)
{
    struct pace_load load = sched_load(&e->sched);
    e->sched.chunk = pace_rows(&e->pace, &load);
    sched_next(&e->sched, &e->batch);
    CHECK(e->batch.n_rows || !has_work(e)); /* what waits fits an empty pool */
}

static void step(struct engine *e)
{
    int64_t start = clock_us();
    drop_cancelled(e);
    admit(e, start);
    choose_rows(e);
    int64_t chosen = clock_us(); /* what came before does not grow with the rows */
    if (e->batch.n_rows) {
        struct engine_stats add = rows_of_step(e);
        forward(base_model_weights(e->base), e->shape, &e->batch, &e->pool, e->kernels, &e->ws, e->par);
        emit_score(&e->emit, &e->batch, e->sched.order, e->ws.logits, e->ws.ld_logits, e->kernels,
                   e->par);
        int64_t end = clock_us();
        pace_learn(&e->pace, &e->sched.step, (double)(end - chosen));
        count_step(e, (uint64_t)(end - start), &add);
        emit_all(e);
    }
    update_gauges(e);
    publish_events(e);
}

/* Takes what was posted; sleeps while there is nothing at all to do. false: the engine closes. */
static bool take_inbox(struct engine *e)
{
    pthread_mutex_lock(&e->lock);
    while (!e->first_job && !e->first_compile && !e->is_closing && !has_work(e))
        pthread_cond_wait(&e->has_work, &e->lock);
    struct job *jobs = e->first_job;
    struct compile *compiles = e->first_compile;
    e->first_job = e->last_job = NULL;
    e->first_compile = e->last_compile = NULL;
    bool goes_on = !e->is_closing;
    pthread_mutex_unlock(&e->lock);
    for (struct job *next; jobs; jobs = next) {
        next = jobs->next;
        add_job(e, jobs);
    }
    for (struct compile *next; compiles; compiles = next) {
        next = compiles->next;
        sched_add(&e->sched, seq_new_compile(compiles));
    }
    return goes_on;
}

static bool is_any(const struct seq *q, const void *ud)
{
    (void)q, (void)ud;
    return true;
}

static void end_everything(struct engine *e)
{
    while (has_work(e)) {
        struct seq *q = sched_find(&e->sched, is_any, NULL);
        if (q->job) {
            retire_job(e, q->job, NULL);
            continue;
        }
        struct compile *c = q->compile;
        retire(e, q);
        err_set(&c->err, ERR_CLOSING, "the server is shutting down");
        finish_compile(e, c, NULL);
    }
    update_gauges(e);
    publish_events(e);
}

static void *engine_main(void *ud)
{
    struct engine *e = ud;
    while (take_inbox(e))
        step(e);
    end_everything(e);
    return NULL;
}

/* ---- posting ------------------------------------------------------------------------------------- */

static int check_context(const struct engine *e, const struct job *j, struct err *err)
{
    int n_virtual = j->prefix ? j->prefix->first_pos : 0;
    for (int i = 0; i < j->n_prompts; i++) {
        int64_t n = j->prompts[i].n_ids, need = n + j->max_tokens;
        if (n_virtual + need > e->max_ctx)
            return err_set(err, ERR_CONTEXT,
                           "the context limit is %d tokens, but this needs %lld: %d virtual tokens of "
                           "the adapter + %lld prompt tokens + %d max_tokens",
                           e->max_ctx, (long long)(n_virtual + need), n_virtual, (long long)n,
                           j->max_tokens);
        int blocks = seq_blocks_needed((int)n, j->max_tokens);
        if (blocks > e->sched.fair.max_blocks)
            return err_set(err, ERR_CONTEXT,
                           "this needs %d KV blocks of %d tokens (%lld prompt tokens + %d max_tokens), "
                           "the pool has %d: lower max_tokens or raise kv-bytes",
                           blocks, KV_TILE, (long long)n, j->max_tokens, e->sched.fair.max_blocks);
    }
    return 0;
}

static int check_job(const struct engine *e, const struct job *j, struct err *err)
{
    CHECK(j->n_prompts >= 1 && j->n >= 1 && j->n_prompts * j->n <= JOB_MAX_CHOICES);
    CHECK(j->n_stops <= JOB_MAX_STOPS && j->n_logprobs <= JOB_MAX_LOGPROBS);
    for (int i = 0; i < j->n_prompts; i++) {
        const struct job_prompt *p = &j->prompts[i];
        if (p->n_ids < 1)
            return err_param(err, ERR_INVALID, "prompt", "the prompt is empty");
        for (int t = 0; t < p->n_ids; t++)
            if (p->ids[t] < 0 || p->ids[t] >= e->shape->vocab)
                return err_param(err, ERR_INVALID, "prompt",
                                 "token %d is not in the vocabulary of %d tokens", p->ids[t],
                                 e->shape->vocab);
    }
    return check_context(e, j, err);
}

/* What waits now and will be admitted at once does not count against the queue. */
static int free_places(const struct engine *e)
{
    int n = e->opts.max_batch - e->stats.running;
    return n > 0 ? n : 0;
}

int engine_post(struct engine *e, struct job *j, struct err *err)
{
    int result = 0, n = j->n_prompts * j->n;
    if (check_job(e, j, err) < 0)
        return -1;
    j->next = NULL;
    pthread_mutex_lock(&e->lock);
    if (e->is_closing) {
        result = err_set(err, ERR_CLOSING, "the server is shutting down");
    } else if (backlog_of(&e->backlog, j->domain) + n > e->opts.max_queue + free_places(e)) {
        result = err_set(err, ERR_QUEUE_FULL,
                         "%d sequences wait already and the queue holds %d: try again later",
                         backlog_of(&e->backlog, j->domain), e->opts.max_queue);
    } else {
        if (e->last_job)
            e->last_job->next = j;
        else
            e->first_job = j;
        e->last_job = j;
        backlog_add(&e->backlog, j->domain, n);
        e->stats.waiting += n;
        pthread_cond_signal(&e->has_work);
    }
    pthread_mutex_unlock(&e->lock);
    return result;
}

struct event *engine_drain(struct engine *e)
{
    pthread_mutex_lock(&e->lock);
    struct event *first = e->outbox.first;
    e->outbox = (struct event_list){0};
    pthread_mutex_unlock(&e->lock);
    return first;
}

void engine_stats(struct engine *e, struct engine_stats *out)
{
    pthread_mutex_lock(&e->lock);
    *out = e->stats;
    pthread_mutex_unlock(&e->lock);
}

int engine_max_ctx(const struct engine *e)
{
    return e->max_ctx;
}

/* ---- compiling ----------------------------------------------------------------------------------- */

static struct kv_prefix *run_compile(struct engine *e, struct compile *c, struct err *err)
{
    CHECK(!pthread_equal(pthread_self(), e->thread)); /* it would wait for itself */
    if (c->n > e->max_ctx) {
        err_set(err, ERR_ADAPTER, "%d virtual tokens do not fit the context limit of %d", c->n,
                e->max_ctx);
        return NULL;
    }
    pthread_mutex_lock(&e->lock);
    if (e->is_closing) {
        pthread_mutex_unlock(&e->lock);
        err_set(err, ERR_CLOSING, "the server is shutting down");
        return NULL;
    }
    if (e->last_compile)
        e->last_compile->next = c;
    else
        e->first_compile = c;
    e->last_compile = c;
    e->stats.compiling++;
    pthread_cond_signal(&e->has_work);
    while (!c->is_done)
        pthread_cond_wait(&e->has_result, &e->lock);
    pthread_mutex_unlock(&e->lock);
    if (!c->result && err)
        *err = c->err;
    return c->result ? kv_prefix_finish(c->result, err) : NULL;
}

struct kv_prefix *engine_prefix_from_rows(struct engine *e, uint32_t domain, const float *rows,
                                          int n_tokens, struct err *err)
{
    size_t n;
    CHECK(n_tokens >= 1 && mem_mul((size_t)n_tokens, (size_t)e->shape->dim, &n));
    if (e->shape->weight_dtype == DTYPE_F32) {
        struct compile c = {.rows = rows, .n = n_tokens, .domain = domain};
        return run_compile(e, &c, err);
    }
    /* PEFT casts the rows to the type of the token embeddings */
    float *cast = mem_try_aligned(n, sizeof *cast);
    if (!cast) {
        err_set(err, ERR_NO_MEMORY, "no memory to compile %d virtual tokens", n_tokens);
        return NULL;
    }
    for (size_t i = 0; i < n; i++)
        cast[i] = bf16_to_f32(f32_to_bf16(rows[i]));
    struct compile c = {.rows = cast, .n = n_tokens, .domain = domain};
    struct kv_prefix *p = run_compile(e, &c, err);
    free(cast);
    return p;
}

struct kv_prefix *engine_prefix_from_tokens(struct engine *e, uint32_t domain, const int32_t *ids,
                                            int n_tokens, struct err *err)
{
    CHECK(n_tokens >= 1);
    for (int i = 0; i < n_tokens; i++)
        CHECK(ids[i] >= 0 && ids[i] < e->shape->vocab); /* they come from our own tokenizer */
    struct compile c = {.ids = ids, .n = n_tokens, .domain = domain};
    return run_compile(e, &c, err);
}

/* ---- opening and closing ------------------------------------------------------------------------- */

static int settle_opts(struct engine *e, const struct engine_opts *opts, int *n_blocks, struct err *err)
{
    struct engine_opts *o = &e->opts;
    *o = *opts;
    if (!o->n_threads)
        o->n_threads = (int)sysconf(_SC_NPROCESSORS_ONLN);
    if (!o->max_batch)
        o->max_batch = 32;
    if (!o->max_queue)
        o->max_queue = 1024;
    if (!o->prefill_chunk)
        o->prefill_chunk = 256;
    if (o->max_ctx > e->shape->max_pos)
        return err_set(err, ERR_INVALID, "--ctx %d: this model accepts 1 to %d tokens", o->max_ctx,
                       e->shape->max_pos);
    e->max_ctx = o->max_ctx ? o->max_ctx : e->shape->max_pos;
    if (!o->kv_bytes)
        o->kv_bytes = kv_pool_default_bytes(e->shape, e->max_ctx, o->n_engines);
    size_t block = kv_pool_block_bytes(e->shape), n = o->kv_bytes / block;
    if (n < 1 || n > INT32_MAX / KV_TILE)
        return err_set(err, ERR_INVALID, "--kv-bytes %zu: at least %zu (one block of %d tokens), at most "
                       "%zu", o->kv_bytes, block, KV_TILE, block * (INT32_MAX / KV_TILE));
    if (!o->max_ctx && (size_t)e->max_ctx > n * KV_TILE)
        e->max_ctx = (int)(n * KV_TILE);
    *n_blocks = (int)n;
    return 0;
}

struct engine *engine_open(const struct base_model *b, const struct engine_opts *opts, struct err *err)
{
    struct engine *e = xcalloc(1, sizeof *e);
    int n_blocks = 0;
    e->base = b;
    e->shape = base_model_shape(b);
    e->kernels = kernels_get();
    pthread_mutex_init(&e->lock, NULL);
    pthread_cond_init(&e->has_work, NULL);
    pthread_cond_init(&e->has_result, NULL);
    if (settle_opts(e, opts, &n_blocks, err) < 0)
        goto fail;
    int max_seqs = sched_max_seqs(e->opts.max_batch), max_rows = max_seqs + e->opts.prefill_chunk;
    int max_logits = max_seqs + SCHED_SCORED;
    int for_compiles = compiles_blocks(e->max_ctx); /* paid for when used */
    if (kv_pool_init(&e->pool, e->shape, n_blocks + for_compiles, err) < 0 ||
        forward_ws_init(&e->ws, base_model_weights(b), e->shape, max_rows, max_logits, e->opts.n_threads,
                        err) < 0)
        goto fail;
    text_cache_init(&e->text, &e->pool, n_blocks, e->opts.no_text_cache);
    sched_init(&e->sched, &e->text, e->opts.max_batch, e->max_ctx, e->opts.prefill_chunk);
    pace_init(&e->pace, e->opts.prefill_chunk, e->opts.step_target_ms,
              forward_even_context(base_model_weights(b), e->shape));
    batch_init(&e->batch, max_rows, max_seqs, e->shape->dim);
    emit_init(&e->emit, b, max_logits);
    e->par = par_new(e->opts.n_threads);
    e->stats.kv_blocks_total = n_blocks;
    e->stats.kv_block_bytes = e->pool.block_bytes;
    CHECK(pthread_create(&e->thread, NULL, engine_main, e) == 0);
    e->is_started = true;
    log_info("boot", "engine: %s kernels, %d threads, context %d, KV pool %d blocks of %d tokens "
             "(%zu MiB), %d sequences at once", e->kernels->name, e->opts.n_threads, e->max_ctx, n_blocks,
             KV_TILE, (size_t)n_blocks * e->pool.block_bytes >> 20, e->opts.max_batch);
    return e;
fail:
    engine_free(e);
    return NULL;
}

void engine_close(struct engine *e)
{
    if (!e->is_started || e->is_closed)
        return;
    pthread_mutex_lock(&e->lock);
    e->is_closing = true;
    pthread_cond_signal(&e->has_work);
    pthread_mutex_unlock(&e->lock);
    CHECK(pthread_join(e->thread, NULL) == 0);
    e->is_closed = true;
}

void engine_free(struct engine *e)
{
    if (!e)
        return;
    engine_close(e);
    for (struct event *ev = engine_drain(e), *next; ev; ev = next) {
        next = ev->next;
        event_free(ev);
    }
    if (e->par) {
        sched_fini(&e->sched);
        text_cache_fini(&e->text);
        batch_fini(&e->batch);
        emit_fini(&e->emit);
    }
    par_free(e->par);
    if (e->ws.memory)
        forward_ws_fini(&e->ws);
    kv_pool_fini(&e->pool);
    backlog_fini(&e->backlog);
    pthread_mutex_destroy(&e->lock);
    pthread_cond_destroy(&e->has_work);
    pthread_cond_destroy(&e->has_result);
    free(e);
}
