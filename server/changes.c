/* Queueing changes by tenant and running them on the pool.
 *
 * Thread: loop; run_change on the pool. */
#include "server/changes.h"

#include "core/base/check.h"
#include "core/base/mem.h"
#include "server/loop.h"
#include "server/server.h"

#include <stdlib.h>
#include <string.h>

struct line { /* the changes of a tenant; there is none without any */
    struct line *next;
    int64_t tenant;
    struct change *first; /* oldest first, the one that runs included */
    struct change *running;
};

struct changes {
    struct server *server;
    struct line *lines; /* whose turn is next, first */
    int n_running, n_long; /* long ones included */
};

struct changes *changes_new(struct server *s)
{
    struct changes *q = xcalloc(1, sizeof *q);
    q->server = s;
    return q;
}

void changes_free(struct changes *q)
{
    CHECK(!q || changes_are_over(q));
    free(q);
}

bool changes_are_over(const struct changes *q)
{
    CHECK_ON_THREAD(q->server->owner);
    return !q->lines;
}

/* ---- lines --------------------------------------------------------------------------- */

static struct line **find_line(struct changes *q, int64_t tenant)
{
    struct line **at = &q->lines;
    while (*at && (*at)->tenant != tenant)
        at = &(*at)->next;
    return at;
}

static struct line *line_of(struct changes *q, int64_t tenant)
{
    struct line **at = find_line(q, tenant);
    if (!*at) {
        *at = xcalloc(1, sizeof **at);
        (*at)->tenant = tenant;
    }
    return *at;
}

static void move_to_end(struct changes *q, struct line *l)
{
    struct line **at = find_line(q, l->tenant);
    *at = l->next;
    l->next = NULL;
    while (*at)
        at = &(*at)->next;
    *at = l;
}

static void take_out(struct changes *q, struct change *c)
{
    struct line **line = find_line(q, c->tenant), *l = *line;
    struct change **at = &l->first;
    while (*at != c)
        at = &(*at)->next;
    *at = c->next;
    if (l->first)
        return;
    *line = l->next;
    free(l);
}

static bool is_first_of_name(const struct line *l, const struct change *c)
{
    for (const struct change *e = l->first; e != c; e = e->next)
        if (strcmp(e->name, c->name) == 0)
            return false;
    return true;
}

/* In order for each name; what is quick goes before what others have to compile. */
static struct change *next_of(const struct line *l)
{
    for (struct change *c = l->first; c; c = c->next)
        if (c->is_quick && is_first_of_name(l, c))
            return c;
    return l->first;
}

/* ---- running ------------------------------------------------------------------------- */

static void run_change(void *ud)
{
    struct change *c = ud;
    if (c->is_failed)
        return;
    int rc = c->work ? adapter_change_run(c->work, &c->err) : c->run(c, &c->err);
    c->is_failed = rc < 0;
}

static void run_more(struct changes *q);

static void free_change(struct change *c)
{
    adapter_change_free(c->work);
    free(c);
}

static void finish(struct change *c)
{
    struct adapter_info info = {0};
    bool is_told = false;
    if (!c->is_failed && c->work) {
        is_told = adapters_commit(c->server->parts.adapters, c->work, &info, &c->err) == 0;
        c->is_failed = !is_told;
    }
    c->on_done(c, is_told ? &info : NULL, &c->err);
}

static void on_run(void *ud)
{
    struct change *c = ud;
    struct changes *q = c->server->changes;
    finish(c);
    (*find_line(q, c->tenant))->running = NULL;
    take_out(q, c);
    q->n_running--;
    q->n_long -= c->is_long;
    free_change(c);
    run_more(q);
}

static void begin(struct changes *q, struct line *l)
{
    struct change *c = next_of(l);
    l->running = c;
    q->n_running++;
    q->n_long += c->is_long;
    c->is_begun = true;
    move_to_end(q, l);
    if (q->server->state == SERVER_STOPPED)
        c->is_failed = err_set(&c->err, ERR_CLOSING, "The server is shutting down") < 0;
    else if (c->on_begin)
        c->on_begin(c);
    loop_block(q->server->loop, LOOP_CHANGES, c->tenant, run_change, on_run, c);
}

static bool may_begin(const struct changes *q, const struct line *l)
{
    return !l->running && (q->n_long < LOOP_LONG_AT_ONCE || !next_of(l)->is_long);
}

static struct line *line_to_run(const struct changes *q)
{
    struct line *l = q->lines;
    while (l && !may_begin(q, l))
        l = l->next;
    return l;
}

static void run_more(struct changes *q)
{
    struct line *l;
    while (q->n_running < LOOP_CHANGES_AT_ONCE && (l = line_to_run(q)))
        begin(q, l);
}

/* ---- queueing ------------------------------------------------------------------------ */

struct change *changes_add(struct server *s, const struct change *what)
{
    struct change *c = xmalloc(sizeof *c);
    CHECK_ON_THREAD(s->owner);
    *c = *what;
    c->server = s;
    if (c->work)
        c->is_long = adapter_change_is_long(c->work);
    c->next = NULL;
    struct change **at = &line_of(s->changes, c->tenant)->first;
    while (*at)
        at = &(*at)->next;
    *at = c;
    run_more(s->changes);
    return c;
}

void changes_drop(struct change *c)
{
    struct server *s = c->server;
    CHECK_ON_THREAD(s->owner);
    CHECK(!c->is_begun);
    take_out(s->changes, c);
    free_change(c);
}
