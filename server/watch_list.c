/* Comparing scans of a folder, and keeping what was done about each name. */
#include "server/watch_list.h"

#include "core/base/mem.h"

#include <stdlib.h>
#include <string.h>

static int compare_names(const struct folder_entry *a, const struct folder_entry *b)
{
    int c = strcmp(a->tenant, b->tenant);
    return c ? c : strcmp(a->name, b->name);
}

static size_t group_of(const struct folder *f, size_t at)
{
    size_t n = 1;
    while (at + n < f->n && compare_names(&f->entries[at], &f->entries[at + n]) == 0)
        n++;
    return n;
}

size_t watch_list_group(const struct watch_list *l, size_t at)
{
    return group_of(&l->folder, at);
}

/* ---- merging ------------------------------------------------------------------------- */

struct merge {
    struct watch_list *old, new;
    struct folder *scan;
    const struct watch_when *when;
};

static bool is_same_group(const struct folder *a, size_t i, size_t n_a,
                          const struct folder *b, size_t j, size_t n_b)
{
    if (n_a != n_b)
        return false;
    for (size_t k = 0; k < n_a; k++)
        if (!folder_is_same(&a->entries[i + k], &b->entries[j + k]))
            return false;
    return true;
}

/* Long unchanged by the disk's clock, or by ours, which no copied time deceives. */
static bool is_quiet(const struct merge *m, const struct folder_entry *entries, size_t n,
                     int64_t since_us)
{
    bool is_old = true;
    for (size_t i = 0; i < n; i++) {
        int64_t age = m->when->unix_ns - entries[i].changed_ns;
        is_old &= age >= WATCH_QUIET_MS * 1000000LL;
    }
    return m->when->is_boot || is_old ||
           m->when->now_us - since_us >= WATCH_QUIET_MS * 1000LL;
}

/* Moves a group to the new list; mark NULL: as one that was not there before. */
static void take(struct merge *m, struct folder *from, size_t at, size_t n,
                 const struct watch_mark *mark)
{
    struct watch_list *l = &m->new;
    size_t to = l->folder.n;
    struct watch_mark own = {.since_us = m->when->now_us};
    if (mark)
        own = *mark;
    own.is_quiet = is_quiet(m, &from->entries[at], n, own.since_us);
    for (size_t i = 0; i < n; i++)
        l->folder.entries[to + i] = from->entries[at + i];
    memset(&from->entries[at], 0, n * sizeof *from->entries);
    l->marks[to] = own;
    l->folder.n += n;
}

static void lose(struct merge *m, size_t at, size_t n)
{
    struct folder *old = &m->old->folder;
    const struct folder_entry *e = &old->entries[at];
    if (m->scan->is_partial)
        take(m, old, at, n, &m->old->marks[at]);
    else if (e->kind != FOLDER_TENANT)
        watch_list_add_gone(m->old, e->tenant, e->name);
}

/* A name that comes again is there, whatever was to be done about its going. */
static void forget_gone(struct watch_list *l)
{
    for (size_t i = l->n_gone; i-- > 0;)
        if (watch_list_has(l, l->gone[i].tenant, l->gone[i].name))
            watch_list_drop_gone(l, i);
}

static void finish(struct merge *m)
{
    struct watch_list *old = m->old;
    m->new.folder.has_links = m->scan->has_links;
    m->new.folder.is_partial = m->scan->is_partial;
    m->new.gone = old->gone;
    m->new.n_gone = old->n_gone;
    m->new.cap_gone = old->cap_gone;
    folder_fini(&old->folder);
    folder_fini(m->scan);
    free(old->marks);
    *old = m->new;
    forget_gone(old);
}

void watch_list_merge(struct watch_list *l, struct folder *scan,
                      const struct watch_when *when)
{
    struct merge m = {.old = l, .scan = scan, .when = when};
    struct folder *old = &l->folder;
    size_t i = 0, j = 0, cap = old->n + scan->n;
    m.new.folder.entries = xcalloc(cap ? cap : 1, sizeof *scan->entries);
    m.new.folder.cap = cap;
    m.new.marks = xcalloc(cap ? cap : 1, sizeof *m.new.marks);
    while (i < old->n || j < scan->n) {
        size_t n_old = i < old->n ? group_of(old, i) : 0;
        size_t n_new = j < scan->n ? group_of(scan, j) : 0;
        int c = !n_old   ? 1
                : !n_new ? -1
                         : compare_names(&old->entries[i], &scan->entries[j]);
        bool is_same = c == 0 && is_same_group(old, i, n_old, scan, j, n_new);
        if (c < 0)
            lose(&m, i, n_old);
        else
            take(&m, scan, j, n_new, is_same ? &l->marks[i] : NULL);
        i += c <= 0 ? n_old : 0;
        j += c >= 0 ? n_new : 0;
    }
    finish(&m);
}

/* ---- what is to be done -------------------------------------------------------------- */

bool watch_list_has(const struct watch_list *l, const char *tenant, const char *name)
{
    size_t low = 0, high = l->folder.n;
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        const struct folder_entry *e = &l->folder.entries[mid];
        int c = strcmp(e->tenant, tenant);
        c = c ? c : strcmp(e->name, name);
        if (c == 0)
            return true;
        if (c < 0)
            low = mid + 1;
        else
            high = mid;
    }
    return false;
}

bool watch_list_is_due(const struct watch_list *l, size_t at, int64_t now_us)
{
    const struct watch_mark *m = &l->marks[at];
    return !m->is_settled && m->is_quiet && now_us >= m->retry_us;
}

void watch_list_tenant(struct watch_list *l, size_t at, int64_t tenant)
{
    struct watch_mark *m = &l->marks[at];
    if (m->tenant != tenant) {
        m->tenant = tenant;
        m->is_settled = m->is_told = false;
        m->retry_us = m->n_tries = 0;
    }
}

void watch_list_settle(struct watch_list *l, size_t at)
{
    l->marks[at].is_settled = true;
}

void watch_list_postpone(struct watch_list *l, size_t at, int64_t until_us)
{
    l->marks[at].n_tries++;
    l->marks[at].retry_us = until_us;
}

void watch_list_add_gone(struct watch_list *l, const char *tenant, const char *name)
{
    if (l->n_gone == l->cap_gone) {
        l->cap_gone = l->cap_gone ? 2 * l->cap_gone : 16;
        l->gone = xrealloc(l->gone, l->cap_gone * sizeof *l->gone);
    }
    l->gone[l->n_gone++] = (struct watch_gone){xstrdup(tenant), xstrdup(name)};
}

void watch_list_drop_gone(struct watch_list *l, size_t i)
{
    free(l->gone[i].tenant);
    free(l->gone[i].name);
    l->gone[i] = l->gone[--l->n_gone];
}

void watch_list_fini(struct watch_list *l)
{
    while (l->n_gone)
        watch_list_drop_gone(l, l->n_gone - 1);
    free(l->gone);
    free(l->marks);
    folder_fini(&l->folder);
    memset(l, 0, sizeof *l);
}
