/* residents: found by tenant and digest, whatever else lies in the same bucket. */
#include "adapters/registry.h"

#include <stdio.h>

#include "tests/test.h"

static void add(struct adapters *a, int64_t tenant, const char *digest, size_t bytes)
{
    struct compiled compiled = {.bytes = bytes};
    struct adapter_version *v = version_new(a, tenant, digest, "x", KIND_TEXT, &compiled);
    residents_add(&a->residents, v);
    version_unref(v); /* idle from here on */
}

/* Scattered, so that some share a bucket. */
static int64_t tenant_of(int i)
{
    uint32_t x = (uint32_t)i;
    for (int round = 0; round < 3; round++)
        x = (x ^ x >> 15) * 0x2c1b3c6du;
    return 1 + (int64_t)x;
}

TEST(residents_are_found_by_tenant_and_digest)
{
    enum { TENANTS = 300, DIGESTS = 7 };
    struct adapters a = {.residents.memory = SIZE_MAX};
    char digest[DIGEST_HEX + 1];
    thread_owner_set(&a.owner);
    EXPECT(residents_find(&a.residents, 1, "") == NULL);
    for (int t = 1; t <= TENANTS; t++)
        for (int i = 0; i < DIGESTS; i++) {
            snprintf(digest, sizeof digest, "%064d", i); /* alike at their beginning */
            add(&a, tenant_of(t), digest, 10);
        }
    EXPECT_EQ(a.residents.n, TENANTS * DIGESTS);
    EXPECT_EQ(a.residents.bytes, 10 * TENANTS * DIGESTS);
    EXPECT_EQ(residents_in_use(&a.residents), 0);
    EXPECT_EQ(a.residents.n_users, 0);
    for (int t = TENANTS; t >= 1; t--)
        for (int i = 0; i < DIGESTS; i++) {
            snprintf(digest, sizeof digest, "%064d", i);
            struct adapter_version *v = residents_find(&a.residents, tenant_of(t), digest);
            ASSERT(v && v->tenant == tenant_of(t));
            EXPECT_STR(v->digest, digest);
            if ((t + i) % 2)
                residents_drop(&a.residents, v);
            EXPECT((residents_find(&a.residents, tenant_of(t), digest) != NULL) == ((t + i) % 2 == 0));
        }
    EXPECT_EQ(a.residents.n, TENANTS * DIGESTS / 2);
    residents_fini(&a.residents);
    EXPECT_EQ(a.residents.n + a.residents.bytes, 0);
}

/* What is in use adds up, whatever begins and ends. */
TEST(residents_count_what_each_tenant_uses)
{
    enum { N = 40, TENANTS = 5 };
    struct adapters a = {.residents.memory = SIZE_MAX};
    struct adapter_version *v[N];
    char digest[DIGEST_HEX + 1];
    size_t used[TENANTS + 1] = {0};
    uint32_t random = 1;
    thread_owner_set(&a.owner);
    for (int i = 0; i < N; i++) {
        snprintf(digest, sizeof digest, "%064d", i);
        add(&a, 1 + i % TENANTS, digest, (size_t)(i + 1));
        v[i] = residents_find(&a.residents, 1 + i % TENANTS, digest);
    }
    for (int step = 0; step < 2000; step++) {
        random = random * 1664525u + 1013904223u;
        struct adapter_version *x = v[(random >> 10) % N];
        size_t all = 0, n_users = 0;
        if (x->n_refs > 1 && random >> 30) {
            version_unref(x);
            used[x->tenant] -= x->n_refs == 1 ? x->compiled.bytes : 0;
        } else {
            used[x->tenant] += x->n_refs == 1 ? x->compiled.bytes : 0;
            version_ref(x);
        }
        for (int t = 1; t <= TENANTS; t++) {
            EXPECT_EQ(residents_in_use_of(&a.residents, t), used[t]);
            all += used[t];
            n_users += used[t] > 0;
        }
        EXPECT_EQ(residents_in_use(&a.residents), all);
        EXPECT_EQ(a.residents.n_users, n_users);
    }
    for (int i = 0; i < N; i++)
        while (v[i]->n_refs > 1)
            version_unref(v[i]);
    EXPECT_EQ(a.residents.n_users, 0);
    residents_fini(&a.residents);
}
