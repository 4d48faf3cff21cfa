/* Small tables that are nearly always empty, searched from end to end.
 *
 * An entry is written under its sequence number, which is odd meanwhile: a reader that saw it
 * odd, or changed after its copy, knows the copy to be torn. Keys only say where to look. */
#include "adapters/broken.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/check.h"
#include "core/base/clock.h"
#include "core/base/mem.h"
#include "core/base/utf8.h"

enum { TRIES = 100 };

/* Digests are as good as random from their first byte on. */
static uint64_t key_of(const char *digest)
{
    uint64_t key;
    memcpy(&key, digest, sizeof key);
    return key;
}

static struct broken_table *own_table(const struct broken *b)
{
    return &b->tables[b->own];
}

/* ---- opening ------------------------------------------------------------------------- */

/* Whoever had the table before may have died while writing. */
static void mend(struct broken_table *t)
{
    if (t->n > BROKEN_MAX)
        t->n = BROKEN_MAX;
    for (uint32_t i = 0; i < t->n; i++) {
        struct broken_entry *e = &t->entries[i];
        if (!(e->seq & 1))
            continue;
        t->keys[i] = 0;
        memset(&e->v, 0, sizeof e->v);
        __atomic_store_n(&e->seq, e->seq + 1, __ATOMIC_RELEASE);
    }
}

void broken_open(struct broken *b, void *memory, int n_tables, int own)
{
    CHECK(!memory || (own >= 0 && own < n_tables));
    *b = (struct broken){.tables = memory, .n_tables = n_tables, .own = own};
    b->found = xcalloc(1, sizeof *b->found);
    if (!memory) {
        b->tables = xcalloc(1, sizeof *b->tables);
        b->n_tables = 1;
        b->own = 0;
        b->is_owned = true;
    }
    mend(own_table(b));
}

void broken_close(struct broken *b)
{
    if (b->is_owned)
        free(b->tables);
    free(b->found);
    memset(b, 0, sizeof *b);
}

/* ---- reading ------------------------------------------------------------------------- */

static uint32_t length_of(const struct broken_table *t)
{
    uint32_t n = __atomic_load_n(&t->n, __ATOMIC_ACQUIRE);
    return n < BROKEN_MAX ? n : BROKEN_MAX;
}

bool broken_is_empty(const struct broken *b)
{
    for (int i = 0; i < b->n_tables; i++)
        if (length_of(&b->tables[i]) > 0)
            return false;
    return true;
}

static void make_safe(struct broken_version *v)
{
    v->digest[DIGEST_HEX] = '\0';
    v->why[sizeof v->why - 1] = '\0';
    v->why[utf8_valid_len(v->why, strlen(v->why))] = '\0';
}

/* A copy that is not torn. What stays torn is left by one who died, and is nothing. */
static bool read_entry(const struct broken_entry *e, struct broken_version *out)
{
    for (int i = 0; i < TRIES; i++) {
        uint32_t before = __atomic_load_n(&e->seq, __ATOMIC_ACQUIRE);
        *out = e->v;
        __atomic_thread_fence(__ATOMIC_ACQUIRE);
        if (!(before & 1) && __atomic_load_n(&e->seq, __ATOMIC_RELAXED) == before) {
            make_safe(out);
            return true;
        }
    }
    return false;
}

/* Where table t has it, with a copy, or NULL. A mark and a memory of the same version are two
 * entries. */
static struct broken_entry *entry_of(struct broken_table *t, int64_t tenant,
                                     const char *digest, bool is_mark,
                                     struct broken_version *out)
{
    uint64_t key = key_of(digest);
    uint32_t n = length_of(t);
    for (uint32_t i = 0; i < n; i++)
        if (__atomic_load_n(&t->keys[i], __ATOMIC_RELAXED) == key &&
            read_entry(&t->entries[i], out) && out->tenant == tenant &&
            out->is_mark == is_mark && strcmp(out->digest, digest) == 0)
            return &t->entries[i];
    return NULL;
}

/* What was said last of it, by whomever. */
static bool find_latest(const struct broken *b, int64_t tenant, const char *digest,
                        bool is_mark, struct broken_version *out)
{
    struct broken_version v;
    bool is_found = false;
    for (int i = 0; i < b->n_tables; i++) {
        if (!entry_of(&b->tables[i], tenant, digest, is_mark, &v) ||
            (is_found && v.at_us <= out->at_us))
            continue;
        *out = v;
        is_found = true;
    }
    return is_found && !out->is_clear;
}

static bool has_changed(const struct broken_version *v, const struct broken_stamp *now)
{
    return v->stamp.inode != now->inode || v->stamp.mtime_s != now->mtime_s ||
           v->stamp.mtime_ns != now->mtime_ns;
}

const struct broken_version *broken_find(const struct broken *b, int64_t tenant,
                                         const char *digest, const struct broken_stamp *stamp,
                                         int64_t now)
{
    struct broken_version *v = b->found;
    if (broken_is_empty(b))
        return NULL;
    if (find_latest(b, tenant, digest, true, v) && v->until > now)
        return v;
    bool is_known = find_latest(b, tenant, digest, false, v);
    return is_known && v->until > now && !has_changed(v, stamp) ? v : NULL;
}

/* ---- writing ------------------------------------------------------------------------- */

/* A mark is more than a memory, so it goes only if there is nothing else. */
static struct broken_entry *least_needed(struct broken_table *t)
{
    struct broken_entry *least = &t->entries[0];
    for (uint32_t i = 1; i < t->n; i++) {
        const struct broken_version *v = &t->entries[i].v, *w = &least->v;
        if (v->is_mark != w->is_mark ? w->is_mark : v->until < w->until)
            least = &t->entries[i];
    }
    return least;
}

/* Takes the place of what this process said of it before. */
static void write_version(struct broken *b, const struct broken_version *v)
{
    struct broken_table *t = own_table(b);
    struct broken_version old;
    struct broken_entry *e = entry_of(t, v->tenant, v->digest, v->is_mark, &old);
    bool is_more = !e && t->n < BROKEN_MAX;
    if (!e)
        e = is_more ? &t->entries[t->n] : least_needed(t);
    __atomic_store_n(&e->seq, e->seq | 1, __ATOMIC_RELAXED);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    e->v = *v;
    __atomic_store_n(&t->keys[e - t->entries], key_of(v->digest), __ATOMIC_RELAXED);
    __atomic_store_n(&e->seq, (e->seq | 1) + 1, __ATOMIC_RELEASE);
    if (is_more)
        __atomic_store_n(&t->n, t->n + 1, __ATOMIC_RELEASE);
}

static struct broken_version said_now(int64_t tenant, const char *digest, int64_t until,
                                      const char *why)
{
    struct broken_version v = {.tenant = tenant, .at_us = clock_us(), .until = until};
    snprintf(v.digest, sizeof v.digest, "%s", digest);
    snprintf(v.why, sizeof v.why, "%s", why);
    make_safe(&v);
    return v;
}

const struct broken_version *broken_note(struct broken *b, int64_t tenant, const char *digest,
                                         const struct broken_stamp *stamp, const char *why,
                                         int64_t now)
{
    struct broken_version old;
    bool is_again =
        find_latest(b, tenant, digest, false, &old) && !has_changed(&old, stamp);
    int64_t pause = is_again && old.pause_s > 0 ? 2 * old.pause_s : BROKEN_FIRST_S;
    pause = pause < BROKEN_LONGEST_S ? pause : BROKEN_LONGEST_S;
    *b->found = said_now(tenant, digest, now + pause, why);
    b->found->pause_s = pause;
    b->found->stamp = *stamp;
    write_version(b, b->found);
    return b->found;
}

void broken_mark(struct broken *b, int64_t tenant, const char *digest, int64_t until,
                 const char *why)
{
    struct broken_version v = said_now(tenant, digest, until, why);
    v.is_mark = true;
    write_version(b, &v);
}

/* What it takes back stands in another table until its time is over: this stays as long. */
void broken_clear(struct broken *b, int64_t tenant, const char *digest)
{
    struct broken_version old;
    if (broken_is_empty(b) || !find_latest(b, tenant, digest, false, &old))
        return;
    struct broken_version v = said_now(tenant, digest, old.until, "");
    v.is_clear = true;
    write_version(b, &v);
}
