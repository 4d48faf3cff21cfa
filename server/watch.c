/* Watching the adapters folder: when to look, and doing what the looks ask for.
 *
 * Thread: loop; scan and read on the pool. A round is a scan and what has to be done after
 * it; the next begins when it is over, so the list of names stands still meanwhile. */
#include "server/watch.h"

#include "core/base/check.h"
#include "core/base/clock.h"
#include "core/base/log.h"
#include "core/base/mem.h"
#include "server/change_limits.h"
#include "server/changes.h"
#include "server/loop.h"
#include "server/server.h"
#include "server/tenants.h"
#include "server/watch_dirs.h"
#include "server/watch_import.h"
#include "server/watch_list.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    LONGEST_MS = 2000,   /* from the first movement to a look, if it never stops */
    POLL_MS = 60000,     /* for file systems that tell no movements */
    POLL_SOON_MS = 5000, /* where movements are known to stay untold */
    MAX_TRIES = 20,      /* looks at something unfinished that does not change */
    MAX_BACKOFF_MS = 300000,
};

struct watch {
    struct server *server;
    const char *dir;
    struct watch_list list;
    struct watch_dirs *dirs;
    struct loop_timer *look, *step; /* NULL: not started */
    int64_t first_move_us, move_us; /* of movements since the last look; 0: none */
    int64_t poll_us;                /* when to look at the latest */
    bool is_busy, is_stopped;
    bool is_telling; /* what came of a name is being written */
    int n_refused;       /* names, at the end of the last round */
    bool has_strangers;  /* folders of tenants that are not known */
    bool knows_registry; /* what it has of the folder was compared once */
    char complaint[160]; /* the last one, so as not to repeat it */

    /* The round's. */
    struct folder scan;
    struct err scan_err;
    int scan_rc;
    struct watch_when when;
    size_t at, gone_at;
    bool is_gone; /* import is of gone[gone_at], else of the group at */
    struct watch_import import;
};

int watch_check(const char *dir, struct err *err)
{
    return folder_check(dir, err);
}

static struct watch *watch_of(struct server *s)
{
    if (s->watch)
        return s->watch;
    struct watch *w = xcalloc(1, sizeof *w);
    w->server = s;
    w->dir = s->cfg->adapters;
    s->watch = w;
    return w;
}

static bool is_over(const struct watch *w)
{
    return w->is_stopped || server_is_draining(w->server);
}

/* ---- looking ------------------------------------------------------------------------- */

static void scan(void *ud)
{
    struct watch *w = ud;
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    w->when = (struct watch_when){
        .now_us = clock_us(), .unix_ns = (int64_t)now.tv_sec * 1000000000 + now.tv_nsec};
    w->scan_err = (struct err){0};
    w->scan_rc = folder_scan(w->dir, &w->scan, &w->scan_err);
}

static void complain(struct watch *w, const char *what)
{
    if (what[0] && strncmp(w->complaint, what, sizeof w->complaint - 1) != 0)
        log_warn("adapters", "the adapters folder: %s", what);
    strncpy(w->complaint, what, sizeof w->complaint - 1);
}

/* ---- who is who ---------------------------------------------------------------------- */

/* 1, 0: nobody has the name, -1: not known now. */
static int find_tenant(struct watch *w, const char *name, struct tenant *out)
{
    struct err err = {0};
    if (strlen(name) > TENANT_NAME_MAX)
        return 0;
    if (store_find_tenant(w->server->parts.store, name, out, &err) == 0)
        return 1;
    return err.code == ERR_NOT_FOUND || err.code == ERR_INVALID ? 0 : -1;
}

static void find_tenants(struct watch *w)
{
    struct watch_list *l = &w->list;
    const char *name = NULL;
    struct tenant t = {0};
    int found = 0;
    w->has_strangers = false;
    for (size_t i = 0; i < l->folder.n; i += watch_list_group(l, i)) {
        const struct folder_entry *e = &l->folder.entries[i];
        if (!name || strcmp(name, e->tenant) != 0)
            found = find_tenant(w, e->tenant, &t);
        name = e->tenant;
        if (found >= 0)
            watch_list_tenant(l, i, found ? t.id : 0);
        w->has_strangers |= found == 0;
    }
}

struct owned_row {
    int64_t tenant;
    char *name;
};

struct owned { /* names that the registry has from the folder */
    struct owned_row *rows;
    size_t n, cap;
};

static void note_owned(void *ud, const struct store_entry *e)
{
    struct owned *o = ud;
    if (!e->is_from_folder || (!e->version[0] && !e->refused))
        return;
    if (o->n == o->cap) {
        o->cap = o->cap ? 2 * o->cap : 64;
        o->rows = xrealloc(o->rows, o->cap * sizeof *o->rows);
    }
    o->rows[o->n++] = (struct owned_row){e->tenant, xstrdup(e->name)};
}

/* What went while nobody watched. */
static void find_gone(struct watch *w)
{
    struct store *s = w->server->parts.store;
    struct owned o = {0};
    struct tenant t;
    if (w->knows_registry || w->list.folder.is_partial)
        return;
    w->knows_registry = store_each_all(s, note_owned, &o, NULL) == 0;
    for (size_t i = 0; i < o.n; i++) {
        if (store_find_tenant_by_id(s, o.rows[i].tenant, &t, NULL) == 0 &&
            !watch_list_has(&w->list, t.name, o.rows[i].name))
            watch_list_add_gone(&w->list, t.name, o.rows[i].name);
        free(o.rows[i].name);
    }
    free(o.rows);
}

/* ---- one name after another ---------------------------------------------------------- */

static int64_t backoff_us(int n_tries)
{
    int64_t ms = (int64_t)POLL_SOON_MS << (n_tries < 8 ? n_tries : 8);
    return (ms < MAX_BACKOFF_MS ? ms : MAX_BACKOFF_MS) * 1000;
}

static void prepare(struct watch *w, const struct tenant *t)
{
    w->import = (struct watch_import){
        .adapters = w->server->parts.adapters,
        .dir = w->dir,
        .max_bytes = (size_t)w->server->cfg->max_upload,
        .is_boot = w->when.is_boot,
        .retry_s = w->when.unix_ns / 1000000000,
        .tenant = t->id,
        .limits = change_limits_of(&t->limits),
    };
}

/* Nothing more is known of a tenant who was removed, nor of what he had. */
static bool prepare_gone(struct watch *w)
{
    struct watch_list *l = &w->list;
    struct tenant t;
    while (w->gone_at-- > 0) {
        const struct watch_gone *g = &l->gone[w->gone_at];
        int found = find_tenant(w, g->tenant, &t);
        if (found > 0) {
            prepare(w, &t);
            w->import.tenant_name = g->tenant;
            w->import.name = g->name;
            w->is_gone = true;
            return true;
        }
        if (found == 0)
            watch_list_drop_gone(l, w->gone_at);
    }
    w->gone_at = 0;
    return false;
}

/* A folder that is nobody's may become an adapter, or its tenant may be added yet. */
static void look_at_stranger(struct watch *w, size_t at)
{
    struct watch_list *l = &w->list;
    const struct watch_mark *m = &l->marks[at];
    if (!m->tenant && !w->when.is_boot && m->n_tries < MAX_TRIES) {
        watch_list_postpone(l, at, w->when.now_us);
        return;
    }
    if (!m->tenant)
        log_warn("adapters",
                 "%s of the adapters folder skipped: adapter_config.json is missing "
                 "in it, and no tenant has this name",
                 l->folder.entries[at].path);
    watch_list_settle(l, at);
}

static bool prepare_group(struct watch *w)
{
    struct watch_list *l = &w->list;
    struct tenant t;
    for (; w->at < l->folder.n; w->at += watch_list_group(l, w->at)) {
        const struct folder_entry *e = &l->folder.entries[w->at];
        if (!watch_list_is_due(l, w->at, w->when.now_us))
            continue;
        if (e->kind == FOLDER_TENANT) {
            look_at_stranger(w, w->at);
        } else if (l->marks[w->at].tenant && find_tenant(w, e->tenant, &t) > 0) {
            prepare(w, &t);
            w->import.entries = e;
            w->import.n_entries = watch_list_group(l, w->at);
            w->import.tenant_name = e->tenant;
            w->import.name = e->name;
            w->import.is_told = l->marks[w->at].is_told;
            w->import.retry_s += backoff_us(l->marks[w->at].n_tries) / 1000000;
            w->is_gone = false;
            return true;
        }
    }
    return false;
}

static bool prepare_next(struct watch *w)
{
    return prepare_gone(w) || prepare_group(w);
}

/* It may become whole: what is told of the name stays so until then. */
static bool is_waited_for(const struct watch *w)
{
    return w->import.outcome == WATCH_CHANGES && w->list.marks[w->at].n_tries < MAX_TRIES;
}

static bool has_news(const struct watch *w)
{
    return !w->is_gone && !is_waited_for(w) && watch_import_has_news(&w->import);
}

static void note_group(struct watch *w)
{
    struct watch_list *l = &w->list;
    struct watch_mark *m = &l->marks[w->at];
    enum watch_outcome outcome = w->import.outcome;
    if (!is_waited_for(w))
        m->is_refused = w->import.refusal.code != ERR_NONE;
    if (is_waited_for(w)) {
        watch_list_postpone(l, w->at, w->when.now_us);
    } else if (outcome == WATCH_FAILED) {
        watch_list_postpone(l, w->at, w->when.now_us + backoff_us(m->n_tries));
        m->is_told = true;
    } else {
        if (outcome == WATCH_CHANGES)
            watch_import_give_up(&w->import);
        watch_list_settle(l, w->at);
    }
    w->at += watch_list_group(l, w->at);
}

static void note_outcome(struct watch *w)
{
    if (!w->is_gone)
        note_group(w);
    else if (w->import.outcome == WATCH_DONE)
        watch_list_drop_gone(&w->list, w->gone_at);
}

static void begin_round(struct watch *w)
{
    watch_list_merge(&w->list, &w->scan, &w->when);
    find_gone(w);
    find_tenants(w);
    w->at = 0;
    w->gone_at = w->list.n_gone;
    complain(w, w->list.folder.is_partial ? "a part of it cannot be read; nothing is "
                                            "unregistered until it can"
                                          : "");
}

/* ---- at boot, all at once ------------------------------------------------------------ */

static int run_change(struct watch *w, struct adapter_change *c, struct err *err)
{
    struct adapter_info info;
    if (adapter_change_run(c, err) < 0)
        return -1;
    return adapters_commit(w->server->parts.adapters, c, &info, err);
}

static void import_now(struct watch *w)
{
    struct watch_import *i = &w->import;
    while (watch_import_more(i)) {
        watch_import_read(i);
        struct adapter_change *c = watch_import_begin(i);
        if (c)
            run_change(w, c, &i->err);
        adapter_change_free(c);
        watch_import_end(i);
    }
    if (has_news(w))
        watch_import_tell(i);
}

static void count_refused(struct watch *w)
{
    const struct watch_list *l = &w->list;
    w->n_refused = 0;
    for (size_t i = 0; i < l->folder.n; i += watch_list_group(l, i))
        w->n_refused += l->marks[i].is_refused;
}

int watch_load(struct server *s, struct err *err)
{
    struct watch *w = watch_of(s);
    scan(w);
    if (w->scan_rc < 0) {
        *err = w->scan_err;
        return -1;
    }
    w->when.is_boot = true;
    begin_round(w);
    while (prepare_next(w)) {
        import_now(w);
        note_outcome(w);
    }
    count_refused(w);
    return 0;
}

/* ---- rounds while the loop runs ------------------------------------------------------ */

static void arm(struct watch *w)
{
    int64_t due = w->move_us && w->move_us < w->poll_us ? w->move_us : w->poll_us;
    int64_t ms = (due - clock_us()) / 1000;
    if (!w->is_busy)
        loop_timer_start(w->look, ms > 1 ? (int)ms : 1);
}

static void on_moved(void *ud)
{
    struct watch *w = ud;
    int64_t now = clock_us();
    if (!w->first_move_us)
        w->first_move_us = now;
    int64_t last = w->first_move_us + LONGEST_MS * 1000, due = now + WATCH_QUIET_MS * 1000;
    w->move_us = due < last ? due : last;
    arm(w);
}

static int poll_ms(struct watch *w, bool has_new_dirs)
{
    const struct watch_list *l = &w->list;
    bool is_soon = w->has_strangers || w->scan_rc < 0 || l->folder.has_links ||
                   l->folder.is_partial || l->n_gone || watch_dirs_are_blind(w->dirs);
    if (has_new_dirs)
        return WATCH_QUIET_MS;
    for (size_t i = 0; i < l->folder.n; i += watch_list_group(l, i)) {
        const struct watch_mark *m = &l->marks[i];
        if (m->is_settled || (!m->tenant && l->folder.entries[i].kind != FOLDER_TENANT))
            continue;
        if (m->retry_us <= w->when.now_us)
            return WATCH_QUIET_MS;
        is_soon = true;
    }
    return is_soon ? POLL_SOON_MS : POLL_MS;
}

static void end_round(struct watch *w)
{
    bool has_new_dirs = w->scan_rc == 0 && watch_dirs_follow(w->dirs, &w->list.folder);
    w->is_busy = false;
    count_refused(w);
    w->poll_us = clock_us() + poll_ms(w, has_new_dirs) * 1000LL;
    arm(w);
}

static void read_one(void *ud)
{
    struct watch *w = ud;
    watch_import_read(&w->import);
}

static void tell(void *ud)
{
    const struct watch *w = ud;
    watch_import_tell(&w->import);
}

static void on_read(void *ud);

static void next(struct watch *w)
{
    if (is_over(w))
        return;
    if (prepare_next(w))
        loop_block(w->server->loop, LOOP_REGISTRY, 0, read_one, on_read, w);
    else
        end_round(w);
}

static void end_import(void *ud)
{
    struct watch *w = ud;
    w->is_telling = false;
    note_outcome(w);
    next(w);
}

static void on_step(void *ud)
{
    struct watch *w = ud;
    watch_import_end(&w->import);
    if (watch_import_more(&w->import) && !is_over(w)) {
        loop_block(w->server->loop, LOOP_REGISTRY, 0, read_one, on_read, w);
    } else if (has_news(w) && !is_over(w)) {
        w->is_telling = true;
        loop_block(w->server->loop, LOOP_REGISTRY, 0, tell, end_import, w);
    } else {
        end_import(w);
    }
}

/* The queue is still busy with the change, which borrows the files: on with the next one in
 * a moment. */
static void on_changed(struct change *c, const struct adapter_info *info,
                       const struct err *err)
{
    struct watch *w = c->ud;
    if (!info)
        w->import.err = *err;
    if (!w->is_stopped)
        loop_timer_start(w->step, 0);
}

static void on_read(void *ud)
{
    struct watch *w = ud;
    if (is_over(w))
        return;
    struct adapter_change *work = watch_import_begin(&w->import);
    if (!work) {
        loop_timer_start(w->step, 0);
        return;
    }
    const struct change c = {.work = work,
                             .tenant = w->import.tenant,
                             .name = w->import.name,
                             .is_quick = w->is_gone,
                             .on_done = on_changed,
                             .ud = w};
    changes_add(w->server, &c);
}

static void on_scanned(void *ud)
{
    struct watch *w = ud;
    if (is_over(w))
        return;
    if (w->scan_rc < 0) {
        complain(w, w->scan_err.msg);
        end_round(w);
        return;
    }
    begin_round(w);
    next(w);
}

static void on_look(void *ud)
{
    struct watch *w = ud;
    if (w->is_busy || is_over(w))
        return;
    w->is_busy = true;
    w->first_move_us = w->move_us = 0;
    watch_dirs_renew(w->dirs);
    folder_fini(&w->scan);
    loop_block(w->server->loop, LOOP_REGISTRY, 0, scan, on_scanned, w);
}

void watch_start(struct server *s)
{
    struct watch *w = watch_of(s);
    CHECK(!w->look);
    w->look = loop_timer_new(s->loop, on_look, w);
    w->step = loop_timer_new(s->loop, on_step, w);
    w->dirs = watch_dirs_new(s->loop, w->dir, on_moved, w);
    watch_dirs_follow(w->dirs, &w->list.folder);
    w->poll_us = clock_us();
    arm(w);
}

void watch_stop(struct watch *w)
{
    if (!w || w->is_stopped)
        return;
    w->is_stopped = true;
    watch_dirs_free(w->dirs);
}

void watch_free(struct watch *w)
{
    if (!w)
        return;
    loaded_fini(&w->import.loaded);
    folder_fini(&w->scan);
    watch_list_fini(&w->list);
    free(w);
}

bool watch_is_writing(const struct watch *w)
{
    return w && w->is_telling;
}

int watch_n_refused(const struct watch *w)
{
    return w->n_refused;
}
