/* The table of what workers run. */
#include "server/running.h"

#include "core/base/check.h"

#include <string.h>
#include <sys/mman.h>

struct running *running_new(int n)
{
    void *p = mmap(NULL, (size_t)n * sizeof(struct running), PROT_READ | PROT_WRITE,
                   MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(p != MAP_FAILED);
    return p;
}

void running_free(struct running *r, int n)
{
    if (r)
        munmap(r, (size_t)n * sizeof *r);
}

static struct running_version *find(struct running *r, const char *digest)
{
    for (int i = 0; i < RUNNING_MAX; i++)
        if (r->versions[i].n > 0 && strcmp(r->versions[i].digest, digest) == 0)
            return &r->versions[i];
    return NULL;
}

void running_add(struct running *r, const char *digest)
{
    struct running_version *v = find(r, digest);
    for (int i = 0; i < RUNNING_MAX && !v; i++)
        if (r->versions[i].n == 0)
            v = &r->versions[i];
    if (!v || strlen(digest) != DIGEST_HEX)
        return;
    memcpy(v->digest, digest, DIGEST_HEX + 1);
    v->n++;
}

void running_remove(struct running *r, const char *digest)
{
    struct running_version *v = find(r, digest);
    if (v)
        v->n--;
}

void running_clear(struct running *r)
{
    memset(r, 0, sizeof *r);
}

void running_each(const struct running *r,
                  void (*fn)(const char *digest, int n_requests, void *ud), void *ud)
{
    for (int i = 0; i < RUNNING_MAX; i++) {
        const struct running_version *v = &r->versions[i];
        if (v->n > 0 && v->digest[DIGEST_HEX] == '\0' &&
            strspn(v->digest, "0123456789abcdef") == DIGEST_HEX)
            fn(v->digest, v->n, ud);
    }
}
