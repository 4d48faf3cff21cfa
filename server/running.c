/* The tables of what workers run: one writer each, readers that look twice.
 *
 * An entry's texts change under its sequence number: odd while they are written, so that a
 * reader that saw it odd, or changed after its copy, knows the copy to be torn. Numbers are
 * words, which are read whole. */
#include "server/running.h"

#include "core/base/mem.h"
#include "server/shared.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct running *running_new(int n)
{
    return shared_map((size_t)n * sizeof(struct running));
}

void running_free(struct running *r, int n)
{
    shared_unmap(r, (size_t)n * sizeof *r);
}

/* ---- writing ------------------------------------------------------------------------- */

static void begin_write(struct running_entry *e)
{
    __atomic_store_n(&e->seq, e->seq | 1, __ATOMIC_RELAXED);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

static void end_write(struct running_entry *e)
{
    __atomic_store_n(&e->seq, (e->seq | 1) + 1, __ATOMIC_RELEASE);
}

static void put(int32_t *to, int value)
{
    __atomic_store_n(to, value, __ATOMIC_RELAXED);
}

static void copy_text(char *to, size_t size, const char *from)
{
    size_t n = strnlen(from, size - 1);
    memcpy(to, from, n);
    to[n] = '\0';
}

static void set_used(struct running *r, struct running_entry *e, int32_t is_used)
{
    r->n_used += is_used - e->is_used;
    e->is_used = is_used;
}

/* A writer that died may have left any number behind; used or not, entries start anew. */
void running_clear(struct running *r)
{
    put(&r->pid, 0);
    for (int i = 0; i < RUNNING_MAX; i++)
        if (r->entries[i].is_used || (r->entries[i].seq & 1))
            running_end(r, &r->entries[i]);
    r->n_used = r->next = 0;
}

void running_start(struct running *r)
{
    running_clear(r);
    put(&r->pid, getpid());
}

static struct running_entry *find_free(struct running *r)
{
    for (int i = 0; i < RUNNING_MAX && r->n_used < RUNNING_MAX; i++) {
        int at = (r->next + i) % RUNNING_MAX;
        if (r->entries[at].is_used)
            continue;
        r->next = at + 1;
        return &r->entries[at];
    }
    return NULL;
}

struct running_entry *running_begin(struct running *r,
                                    const struct running_request *request)
{
    struct running_entry *e = find_free(r);
    if (!e)
        return NULL;
    begin_write(e);
    e->r = *request;
    set_used(r, e, 1);
    end_write(e);
    return e;
}

void running_set_version(struct running_entry *e, const char *adapter, int64_t owner,
                         const char *digest)
{
    if (!e)
        return;
    struct running_texts *t = &e->r.texts;
    begin_write(e);
    copy_text(t->adapter, sizeof t->adapter, adapter);
    copy_text(t->version, sizeof t->version, digest);
    t->owner = owner;
    end_write(e);
}

void running_set_station(struct running_entry *e, int station)
{
    if (e)
        put(&e->r.n.station, station);
}

void running_set_tokens(struct running_entry *e, int prompt, int virtual, int generated)
{
    if (!e)
        return;
    put(&e->r.n.prompt_tokens, prompt);
    put(&e->r.n.virtual_tokens, virtual);
    put(&e->r.n.generated_tokens, generated);
}

void running_end(struct running *r, struct running_entry *e)
{
    if (!e)
        return;
    begin_write(e);
    set_used(r, e, 0);
    end_write(e);
}

/* ---- reading ------------------------------------------------------------------------- */

/* Characters that a name, an id or a digest may have; whatever else stands there is cut. */
static void make_safe(char *text, size_t size)
{
    size_t n = 0;
    while (n < size - 1 && text[n] > ' ' && text[n] < 0x7f)
        n++;
    memset(text + n, '\0', size - n);
}

static void check_texts(struct running_texts *t)
{
    make_safe(t->id, sizeof t->id);
    make_safe(t->tenant_name, sizeof t->tenant_name);
    make_safe(t->adapter, sizeof t->adapter);
    make_safe(t->version, sizeof t->version);
    if (strspn(t->version, "0123456789abcdef") != DIGEST_HEX)
        t->version[0] = '\0';
}

/* False if nothing is there, or if it changed under the reader's eyes. */
static bool read_entry(const struct running_entry *e, struct running_request *out)
{
    uint32_t before = __atomic_load_n(&e->seq, __ATOMIC_ACQUIRE);
    if ((before & 1) || !__atomic_load_n(&e->is_used, __ATOMIC_RELAXED))
        return false;
    *out = e->r;
    __atomic_thread_fence(__ATOMIC_ACQUIRE);
    if (__atomic_load_n(&e->seq, __ATOMIC_RELAXED) != before)
        return false;
    check_texts(&out->texts);
    return true;
}

void running_each(const struct running *r,
                  void (*fn)(const struct running_request *request, void *ud), void *ud)
{
    struct running_request copy;
    for (int i = 0; i < RUNNING_MAX; i++)
        if (read_entry(&r->entries[i], &copy))
            fn(&copy, ud);
}

/* What seems to be it without a copy is looked at in one. */
bool running_has(const struct running *r, int64_t owner, const char *digest)
{
    struct running_request copy;
    for (int i = 0; i < RUNNING_MAX; i++) {
        const struct running_entry *e = &r->entries[i];
        if (__atomic_load_n(&e->is_used, __ATOMIC_RELAXED) &&
            __atomic_load_n(&e->r.texts.owner, __ATOMIC_RELAXED) == owner &&
            read_entry(e, &copy) && copy.texts.owner == owner &&
            strcmp(copy.texts.version, digest) == 0)
            return true;
    }
    return false;
}

struct version {
    int64_t owner;
    char digest[DIGEST_HEX + 1];
};

struct versions {
    struct version *all;
    int n;
};

static void add_version(const struct running_request *request, void *ud)
{
    struct versions *v = ud;
    if (!request->texts.version[0])
        return;
    struct version *one = &v->all[v->n++];
    one->owner = request->texts.owner;
    memcpy(one->digest, request->texts.version, sizeof one->digest);
}

static int compare(const void *a, const void *b)
{
    const struct version *v = a, *w = b;
    int owners = (v->owner > w->owner) - (v->owner < w->owner);
    return owners ? owners : strcmp(v->digest, w->digest);
}

void running_each_version(const struct running *r,
                          void (*fn)(int64_t owner, const char *digest, int n_requests,
                                     void *ud),
                          void *ud)
{
    struct versions v = {.all = xcalloc(RUNNING_MAX, sizeof *v.all)};
    running_each(r, add_version, &v);
    qsort(v.all, (size_t)v.n, sizeof *v.all, compare);
    for (int i = 0, first = 0; i < v.n; i++) {
        if (i + 1 < v.n && compare(&v.all[i], &v.all[i + 1]) == 0)
            continue;
        fn(v.all[i].owner, v.all[i].digest, i + 1 - first, ud);
        first = i + 1;
    }
    free(v.all);
}
