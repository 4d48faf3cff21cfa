/* A small table that is nearly always empty, searched from end to end. */
#include "adapters/broken.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/mem.h"

/* Digests are as good as random from their first byte on. */
static uint64_t key_of(const char *digest)
{
    uint64_t key;
    memcpy(&key, digest, sizeof key);
    return key;
}

/* A mark and a memory of the same version are two entries. */
static struct broken_version *entry_of(const struct broken *b, int64_t tenant,
                                       const char *digest, bool is_mark)
{
    uint64_t key = key_of(digest);
    for (size_t i = 0; i < b->n; i++) {
        struct broken_version *v = &b->versions[i];
        if (v->key == key && v->tenant == tenant && v->is_mark == is_mark &&
            strcmp(v->digest, digest) == 0)
            return v;
    }
    return NULL;
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
    const struct broken_version *marked = entry_of(b, tenant, digest, true);
    if (marked && marked->until > now)
        return marked;
    const struct broken_version *v = entry_of(b, tenant, digest, false);
    return v && v->until > now && !has_changed(v, stamp) ? v : NULL;
}

/* A mark is more than a memory, so it goes only if there is nothing else. */
static struct broken_version *least_needed(const struct broken *b)
{
    struct broken_version *least = &b->versions[0];
    for (size_t i = 1; i < b->n; i++) {
        struct broken_version *v = &b->versions[i];
        if (v->is_mark != least->is_mark ? least->is_mark : v->until < least->until)
            least = v;
    }
    return least;
}

static struct broken_version *need_entry(struct broken *b, int64_t tenant, const char *digest,
                                         bool is_mark)
{
    struct broken_version *v = entry_of(b, tenant, digest, is_mark);
    if (v)
        return v;
    if (!b->versions)
        b->versions = xcalloc(BROKEN_MAX, sizeof *b->versions);
    v = b->n < BROKEN_MAX ? &b->versions[b->n++] : least_needed(b);
    *v = (struct broken_version){.key = key_of(digest), .tenant = tenant, .is_mark = is_mark};
    snprintf(v->digest, sizeof v->digest, "%s", digest);
    return v;
}

const struct broken_version *broken_note(struct broken *b, int64_t tenant, const char *digest,
                                         const struct broken_stamp *stamp, const char *why,
                                         int64_t now)
{
    struct broken_version *v = need_entry(b, tenant, digest, false);
    int64_t pause = v->pause_s && !has_changed(v, stamp) ? 2 * v->pause_s : BROKEN_FIRST_S;
    v->pause_s = pause < BROKEN_LONGEST_S ? pause : BROKEN_LONGEST_S;
    v->until = now + v->pause_s;
    v->stamp = *stamp;
    snprintf(v->why, sizeof v->why, "%s", why);
    return v;
}

void broken_mark(struct broken *b, int64_t tenant, const char *digest, int64_t until,
                 const char *why)
{
    struct broken_version *v = need_entry(b, tenant, digest, true);
    v->until = until;
    snprintf(v->why, sizeof v->why, "%s", why);
}

void broken_clear(struct broken *b, int64_t tenant, const char *digest)
{
    struct broken_version *v = b->n ? entry_of(b, tenant, digest, false) : NULL;
    if (v)
        *v = b->versions[--b->n];
}

void broken_fini(struct broken *b)
{
    free(b->versions);
    memset(b, 0, sizeof *b);
}
