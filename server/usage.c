/* Counts by hour, tenant, key and adapter, until they are written.
 *
 * Thread: loop; write_rows on the pool, where it has rows of its own. What is being written
 * has left the table, and comes back to it if that fails. */
#include "server/usage.h"

#include "core/base/check.h"
#include "core/base/log.h"
#include "core/base/mem.h"
#include "server/exchange.h"
#include "server/generation.h"
#include "server/loop.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { N_BUCKETS = 1024, HOUR = 3600, LAST_TRIES = 3 };
enum { MAX_QUESTIONS = 8, QUESTIONS_EACH = 2 };

_Static_assert((int)MAX_QUESTIONS < (int)LOOP_REGISTRY_AT_ONCE,
               "questions leave threads for what is written");

struct counted {
    struct counted *next;
    struct usage_row row;
    char adapter[]; /* row's */
};

struct usage {
    struct thread_owner owner;
    struct usage_opts o;
    struct loop_timer *timer;
    bool is_due, is_stopped; /* a write is under way or will come; no more will */
    struct counted *buckets[N_BUCKETS];
    size_t n;
    /* being written */
    struct counted *writing; /* what rows' names lie in */
    struct usage_row *rows;
    size_t n_rows;
    struct err err;
    /* being answered */
    int64_t asking[MAX_QUESTIONS];
    int n_questions;
};

/* ---- counting ------------------------------------------------------------------------ */

static size_t bucket_of(const struct usage_row *r)
{
    uint64_t h = (uint64_t)r->hour * 31 + (uint64_t)r->tenant * 1000003 + (uint64_t)r->key;
    for (const char *s = r->adapter; *s; s++)
        h = (h ^ (unsigned char)*s) * UINT64_C(0x100000001b3);
    return (h ^ h >> 32) % N_BUCKETS;
}

static bool is_same(const struct usage_row *a, const struct usage_row *b)
{
    return a->hour == b->hour && a->tenant == b->tenant && a->key == b->key &&
           strcmp(a->adapter, b->adapter) == 0;
}

static void add_counters(struct usage_counters *to, const struct usage_counters *more)
{
#define XX(name) to->name += more->name;
    USAGE_COUNTERS(XX)
#undef XX
}

static struct counted *new_counted(const struct usage_row *row)
{
    size_t size = strlen(row->adapter) + 1;
    struct counted *c = xcalloc(1, sizeof *c + size);
    memcpy(c->adapter, row->adapter, size);
    c->row = *row;
    c->row.adapter = c->adapter;
    c->row.n = (struct usage_counters){0};
    return c;
}

static void count(struct usage *u, const struct usage_row *row)
{
    struct counted **at = &u->buckets[bucket_of(row)];
    while (*at && !is_same(&(*at)->row, row))
        at = &(*at)->next;
    if (!*at) {
        *at = new_counted(row);
        u->n++;
    }
    add_counters(&(*at)->row.n, &row->n);
}

/* ---- writing ------------------------------------------------------------------------- */

static void free_rows(struct usage *u)
{
    for (struct counted *c = u->writing, *next; c; c = next) {
        next = c->next;
        free(c);
    }
    free(u->rows);
    u->writing = NULL;
    u->rows = NULL;
    u->n_rows = 0;
}

/* Out of the table, into rows. */
static void take_rows(struct usage *u)
{
    u->rows = xcalloc(u->n + 1, sizeof *u->rows);
    for (size_t i = 0; i < N_BUCKETS; i++)
        for (struct counted *c = u->buckets[i], *next; c; c = next) {
            next = c->next;
            u->rows[u->n_rows++] = c->row;
            c->next = u->writing;
            u->writing = c;
        }
    CHECK(u->n_rows == u->n);
    memset(u->buckets, 0, sizeof u->buckets);
    u->n = 0;
}

static void write_rows(void *ud)
{
    struct usage *u = ud;
    u->err = (struct err){0};
    store_add_usage(u->o.store, u->rows, u->n_rows, &u->err);
}

static void start_timer(struct usage *u)
{
    if (u->is_due || u->is_stopped || u->n == 0)
        return;
    u->is_due = true;
    loop_timer_start(u->timer, USAGE_FLUSH_MS);
}

static void on_written(void *ud)
{
    struct usage *u = ud;
    if (u->err.code) {
        log_warn("usage", "counts are not written and kept: %s", u->err.msg);
        for (size_t i = 0; i < u->n_rows; i++)
            count(u, &u->rows[i]);
    }
    free_rows(u);
    u->is_due = false;
    start_timer(u);
}

static void on_timer(void *ud)
{
    struct usage *u = ud;
    take_rows(u);
    loop_block(u->o.loop, LOOP_REGISTRY, 0, write_rows, on_written, u);
}

bool usage_is_writing(const struct usage *u)
{
    CHECK_ON_THREAD(u->owner);
    return u->rows != NULL;
}

/* ---- questions ----------------------------------------------------------------------- */

int usage_begin_question(struct usage *u, int64_t tenant, struct err *err)
{
    CHECK_ON_THREAD(u->owner);
    int n = 0;
    for (int i = 0; i < u->n_questions; i++)
        n += u->asking[i] == tenant;
    if (n == QUESTIONS_EACH || u->n_questions == MAX_QUESTIONS)
        return err_set(err, ERR_QUEUE_FULL,
                       "Other questions about usage are being answered: try again");
    u->asking[u->n_questions++] = tenant;
    return 0;
}

void usage_end_question(struct usage *u, int64_t tenant)
{
    CHECK_ON_THREAD(u->owner);
    int i = 0;
    while (i < u->n_questions && u->asking[i] != tenant)
        i++;
    CHECK(i < u->n_questions);
    u->asking[i] = u->asking[--u->n_questions];
}

/* ---- the whole ----------------------------------------------------------------------- */

struct usage *usage_new(const struct usage_opts *opts)
{
    struct usage *u = xcalloc(1, sizeof *u);
    thread_owner_set(&u->owner);
    u->o = *opts;
    u->timer = loop_timer_new(u->o.loop, on_timer, u);
    return u;
}

void usage_stop(struct usage *u)
{
    if (!u)
        return;
    CHECK_ON_THREAD(u->owner);
    u->is_stopped = true;
}

void usage_free(struct usage *u)
{
    if (!u)
        return;
    CHECK_ON_THREAD(u->owner);
    CHECK(!u->rows); /* the loop has waited for its work */
    take_rows(u);
    for (int i = 0; i < LAST_TRIES && u->n_rows && (i == 0 || u->err.code); i++)
        write_rows(u);
    if (u->n_rows && u->err.code)
        log_error("usage", "counts of the last second are lost: %s", u->err.msg);
    free_rows(u);
    free(u);
}

void usage_add(struct usage *u, const struct usage_row *row)
{
    CHECK_ON_THREAD(u->owner);
    struct usage_row r = *row;
    r.hour -= r.hour % HOUR;
    count(u, &r);
    start_timer(u);
}

static int64_t more(int64_t *counted, int64_t now)
{
    int64_t n = now - *counted;
    *counted = now;
    return n;
}

static void add_since(struct usage *u, struct exchange *x, bool is_made)
{
    const struct generation *g = x->gen;
    const struct completion_usage *made = &g->usage;
    struct usage_counters *c = &x->counted;
    const struct usage_row row = {
        .hour = (int64_t)time(NULL),
        .tenant = x->caller.tenant,
        .key = x->caller.key,
        .adapter = g->adapter ? g->adapter : "",
        .n = {.requests = more(&c->requests, 1),
              .prompt_tokens = more(&c->prompt_tokens, is_made ? made->prompt_tokens : 0),
              .cached_tokens = more(&c->cached_tokens, is_made ? made->cached_tokens : 0),
              .virtual_tokens =
                  more(&c->virtual_tokens, is_made ? made->virtual_tokens : 0),
              .generated_tokens = more(&c->generated_tokens, made->completion_tokens)},
    };
    usage_add(u, &row);
}

/* What was refused, by us or by the engine, cost nothing; of what was cancelled before
 * anything was made, nobody knows how far it came. */
void usage_add_exchange(struct usage *u, struct exchange *x, bool is_over)
{
    const struct generation *g = x->gen;
    if (!u || !g || g->n_choices == 0)
        return;
    CHECK_ON_THREAD(u->owner);
    bool is_made = g->usage.completion_tokens > 0 || g->n_ended > 0;
    bool is_refused = x->is_answered && x->err.code;
    bool is_new = !x->counted.requests ||
                  g->usage.completion_tokens != x->counted.generated_tokens ||
                  g->usage.cached_tokens != x->counted.cached_tokens;
    if (is_new && (is_made || (is_over && !is_refused)))
        add_since(u, x, is_made);
}
