/* Counting deaths by version, and who may not be run. */
#include "server/quarantine.h"

#include "server/shared.h"

#include <string.h>

struct quarantine *quarantine_new(void)
{
    return shared_map(sizeof(struct quarantine));
}

void quarantine_free(struct quarantine *q)
{
    shared_unmap(q, sizeof *q);
}

/* ---- the supervisor's side ----------------------------------------------------------- */

static int64_t last_death(const struct quarantine_entry *e)
{
    return e->n_deaths ? e->deaths[(e->n_deaths - 1) % QUARANTINE_DEATHS] : 0;
}

/* Least is nobody, else who is not quarantined, else whose death is longest ago. */
static bool is_worth_less(const struct quarantine_entry *a,
                          const struct quarantine_entry *b, int64_t now)
{
    if (!a->digest[0] || !b->digest[0])
        return !a->digest[0] && b->digest[0];
    if ((a->until > now) != (b->until > now))
        return b->until > now;
    return last_death(a) < last_death(b);
}

static struct quarantine_entry *entry_of(struct quarantine *q, int64_t owner,
                                         const char *digest, int64_t now)
{
    struct quarantine_entry *least = &q->entries[0];
    for (int i = 0; i < QUARANTINE_MAX; i++) {
        struct quarantine_entry *e = &q->entries[i];
        if (e->owner == owner && strcmp(e->digest, digest) == 0)
            return e;
        if (is_worth_less(e, least, now))
            least = e;
    }
    memset(least, 0, sizeof *least);
    least->owner = owner;
    memcpy(least->digest, digest, DIGEST_HEX);
    return least;
}

/* A change cannot be read half: who dies in the middle of one takes all workers along. */
bool quarantine_add_death(struct quarantine *q, int64_t owner, const char *digest,
                          int64_t now)
{
    if (strspn(digest, "0123456789abcdef") != DIGEST_HEX || digest[DIGEST_HEX])
        return false;
    __atomic_store_n(&q->seq, q->seq | 1, __ATOMIC_RELAXED);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    struct quarantine_entry *e = entry_of(q, owner, digest, now);
    int64_t *oldest = &e->deaths[e->n_deaths % QUARANTINE_DEATHS];
    *oldest = now;
    e->n_deaths++;
    int64_t first = e->deaths[e->n_deaths % QUARANTINE_DEATHS]; /* 0: fewer than three */
    bool is_often = first && now - first <= QUARANTINE_WINDOW_S;
    if (is_often) {
        e->until = now + QUARANTINE_S;
        memset(e->deaths, 0, sizeof e->deaths);
    }
    __atomic_store_n(&q->seq, (q->seq | 1) + 1, __ATOMIC_RELEASE);
    return is_often;
}

/* ---- the workers' side --------------------------------------------------------------- */

/* A copy of one entry, not torn. While the supervisor writes, which takes a microsecond,
 * this waits; not for one that never goes on, since then nothing will run for long. */
static bool read_entry(const struct quarantine *q, int i, struct quarantine_entry *out)
{
    for (int tries = 0; tries < 100000; tries++) {
        uint32_t before = __atomic_load_n(&q->seq, __ATOMIC_ACQUIRE);
        *out = q->entries[i];
        __atomic_thread_fence(__ATOMIC_ACQUIRE);
        if (!(before & 1) && __atomic_load_n(&q->seq, __ATOMIC_RELAXED) == before)
            return true;
    }
    return false;
}

bool quarantine_has(const struct quarantine *q, int64_t owner, const char *digest,
                    int64_t now, int64_t *until)
{
    struct quarantine_entry e;
    if (__atomic_load_n(&q->seq, __ATOMIC_ACQUIRE) == 0)
        return false; /* nothing ever died, as most of the time */
    for (int i = 0; i < QUARANTINE_MAX; i++) {
        if (!q->entries[i].digest[0] || !read_entry(q, i, &e))
            continue;
        if (e.until > now && e.owner == owner &&
            memcmp(e.digest, digest, DIGEST_HEX) == 0) {
            *until = e.until;
            return true;
        }
    }
    return false;
}

bool quarantine_changed(const struct quarantine *q, uint32_t *seen)
{
    uint32_t now = __atomic_load_n(&q->seq, __ATOMIC_ACQUIRE);
    if ((now & 1) || now == *seen)
        return false;
    *seen = now;
    return true;
}

void quarantine_each(const struct quarantine *q, int64_t now,
                     void (*fn)(int64_t owner, const char *digest, int64_t until,
                                void *ud),
                     void *ud)
{
    struct quarantine_entry e;
    for (int i = 0; i < QUARANTINE_MAX; i++) {
        if (!read_entry(q, i, &e) || e.until <= now)
            continue;
        e.digest[DIGEST_HEX] = '\0';
        fn(e.owner, e.digest, e.until, ud);
    }
}
