/* registry: what is in memory and what goes, loads and their waiters, and what does not load. */
#define _GNU_SOURCE
#include "adapters/adapters.h"

#include <pthread.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "adapters/spec.h"
#include "adapters/store_tenants.h"
#include "core/base/log.h"
#include "core/base/mem.h"
#include "tests/support/adapter_files.h"
#include "tests/test.h"
#include "tests/unit/adapters/registry_fixture.h"

static const char text_one[] = "{\"kind\":\"text\",\"text\":\"one\"}";
static const char text_two[] = "{\"kind\":\"text\",\"text\":\"two\"}";

/* Each takes one tile of every layer and head. */
static void put_number(struct fixture *f, int64_t tenant, const char *name, int i)
{
    char json[80];
    struct adapter_info info;
    struct err err = {0};
    snprintf(json, sizeof json, "{\"kind\":\"text\",\"text\":\"n%d\"}", i);
    if (put_text_of(f, tenant, name, json, &info, &err) < 0)
        test_fail(__FILE__, __LINE__, "put of %s: %s", name, err.msg);
    EXPECT_EQ(info.bytes, TILE_BYTES);
}

/* With a budget for tiles versions, and names a, b, c... put in this order. */
static bool open_with(struct fixture *f, int tiles, int n_names)
{
    if (!fixture_open(f, DTYPE_CHOICE_AUTO, false))
        return false;
    f->memory = (size_t)tiles * TILE_BYTES;
    if (!fixture_restart(f))
        return false;
    for (int i = 0; i < n_names; i++)
        put_number(f, TENANT, (const char[]){(char)('a' + i), 0}, i);
    return true;
}

static void expect_residents(struct fixture *f, const char *expected)
{
    char seen[32] = "";
    for (char c = 'a'; c <= 'h'; c++)
        if (is_resident(f, (const char[]){c, 0}))
            strcat(seen, (const char[]){c, 0});
    EXPECT_STR(seen, expected);
    EXPECT_EQ(stats_of(f).n_resident, strlen(expected));
    EXPECT_EQ(stats_of(f).bytes, strlen(expected) * TILE_BYTES);
}

static void use(struct fixture *f, const char *name)
{
    struct err err = {0};
    struct adapter_version *v = acquire(f, name, &err);
    if (v)
        adapters_release(v);
    else
        test_fail(__FILE__, __LINE__, "%s: %s", name, err.msg);
}

static int acquire_code(struct fixture *f, const char *name)
{
    struct err err = {0};
    struct adapter_version *v = acquire(f, name, &err);
    if (v)
        adapters_release(v);
    return err.code;
}

/* ---- what goes ----------------------------------------------------------------------- */

TEST(registry_keeps_what_was_used_last)
{
    struct fixture f;
    if (!open_with(&f, 3, 5))
        return;
    expect_residents(&f, "cde");
    use(&f, "c");
    use(&f, "a");
    expect_residents(&f, "ace");
    use(&f, "e");
    use(&f, "c");
    use(&f, "b");
    expect_residents(&f, "bce");
    struct adapters_stats s = stats_of(&f);
    EXPECT_EQ(s.hits, 3);
    EXPECT_EQ(s.misses, 2);
    EXPECT_EQ(s.loads, 2);
    EXPECT_EQ(s.evictions, 4);
    EXPECT_EQ(s.compiles, 5); /* what went came back without computing */
    EXPECT_EQ(s.load_failures + (uint64_t)s.n_loading, 0);
    fixture_close(&f);
}

TEST(registry_never_evicts_what_is_in_use)
{
    struct fixture f;
    struct err err = {0};
    if (!open_with(&f, 2, 4))
        return;
    struct adapter_version *a = acquire(&f, "a", &err), *b = acquire(&f, "b", &err);
    struct adapter_version *again = acquire(&f, "b", &err);
    ASSERT(a && b && again == b);
    expect_residents(&f, "ab");
    uint64_t loads = stats_of(&f).loads;
    EXPECT_EQ(acquire_code(&f, "c"), ERR_NO_MEMORY);
    EXPECT_EQ(stats_of(&f).loads, loads); /* it is refused before any work */
    put_number(&f, TENANT, "e", 9); /* a put is stored, and waits outside */
    expect_residents(&f, "ab");
    EXPECT_EQ(adapter_version_prefix(a, false, 0, &err)->first_pos,
              adapter_version_prefix(a, false, 0, &err)->n_tokens); /* asan: still there */
    adapters_release(b);
    EXPECT_EQ(acquire_code(&f, "c"), ERR_NO_MEMORY); /* still used by another */
    adapters_release(again);
    use(&f, "c");
    expect_residents(&f, "ac");
    EXPECT_EQ(delete_name(&f, "a", &err), 0);
    use(&f, "d");
    EXPECT_EQ(stats_of(&f).n_resident, 2); /* a goes on until it is released */
    EXPECT_EQ(adapter_version_prefix(a, false, 0, &err)->dtype, DTYPE_F32);
    adapters_release(a);
    use(&f, "b");
    use(&f, "e");
    expect_residents(&f, "be");
    fixture_close(&f);
}

/* All were put aside while it was on its way: the work is not thrown away silently. */
TEST(registry_says_when_there_is_no_room_after_all)
{
    struct fixture f;
    struct err err = {0};
    struct adapter_version *v;
    struct adapter_load *l;
    if (!open_with(&f, 1, 2))
        return;
    ASSERT(adapters_acquire(f.a, TENANT, "a", &v, &l, &err) == 0);
    ASSERT(adapters_next_load(f.a) == l); /* makes room for it already */
    expect_residents(&f, "");
    adapter_load_run(l);
    put_number(&f, TENANT, "c", 3);
    expect_residents(&f, "c"); /* nothing is in use, so it was let in */
    struct adapter_version *c = acquire(&f, "c", &err);
    ASSERT(c);
    adapters_load_done(f.a, l);
    EXPECT_EQ(adapters_take(f.a, l, &v, &err), -1);
    EXPECT_EQ(err.code, ERR_NO_MEMORY);
    adapters_release(c);
    use(&f, "a");
    fixture_close(&f);
}

TEST(registry_serves_one_that_is_larger_than_the_budget)
{
    struct fixture f;
    struct err err = {0};
    struct adapter_info info;
    if (!open_with(&f, 2, 2))
        return;
    EXPECT_EQ(put_peft(&f, "c", "PREFIX_TUNING", "prompt_embeddings:F32:48,192", &info, &err), 0);
    EXPECT_EQ(info.bytes, 3 * TILE_BYTES);
    struct adapter_version *v = acquire(&f, "c", &err);
    ASSERT(v);
    EXPECT_EQ(stats_of(&f).bytes, 3 * TILE_BYTES);
    EXPECT_EQ(acquire_code(&f, "a"), ERR_NO_MEMORY);
    adapters_release(v);
    EXPECT_EQ(stats_of(&f).bytes, 0);
    use(&f, "a");
    expect_residents(&f, "a");
    fixture_close(&f);
}

TEST(registry_keeps_pinned_ones)
{
    struct fixture f;
    struct err err = {0};
    struct adapter_info info;
    if (!open_with(&f, 2, 5))
        return;
    EXPECT_EQ(adapters_set_flags(f.a, TENANT, "d", -1, 1, &err), 0); /* while it is idle */
    EXPECT_EQ(adapters_info(f.a, TENANT, "d", &info, &err), 0);
    EXPECT(info.is_pinned && info.is_resident);
    for (int i = 0; i < 3; i++) {
        use(&f, "a");
        expect_residents(&f, "ad");
        use(&f, "b");
        expect_residents(&f, "bd");
    }
    EXPECT_EQ(adapters_set_flags(f.a, TENANT, "a", -1, 1, &err), 0); /* before it is loaded */
    use(&f, "a");
    expect_residents(&f, "ad");
    use(&f, "b"); /* when everything is pinned, one that is used alone still can be */
    expect_residents(&f, "ad");
    EXPECT_EQ(adapters_set_flags(f.a, TENANT, "d", -1, 0, &err), 0);
    use(&f, "b");
    expect_residents(&f, "ab");
    EXPECT_EQ(delete_name(&f, "a", &err), 0); /* what nothing means is not pinned either */
    use(&f, "b");
    use(&f, "c");
    use(&f, "e");
    expect_residents(&f, "ce");
    fixture_close(&f);
}

/* ---- shares -------------------------------------------------------------------------- */

enum { TILES = 10, NAMES_OF_ONE = 40 };

/* Names n0, n1... of a tenant, none of them in memory afterwards. */
static bool open_for_tenants(struct fixture *f, int64_t *other)
{
    char name[16];
    if (!open_with(f, TILES, 0))
        return false;
    *other = fixture_add_tenant(f, "other");
    for (int i = 0; i < NAMES_OF_ONE; i++) {
        snprintf(name, sizeof name, "n%d", i);
        put_number(f, TENANT, name, i);
        put_number(f, *other, name, i);
    }
    return fixture_restart(f);
}

/* Those of n0, n1... that can be in use together; *held takes them. */
static int use_all(struct fixture *f, int64_t tenant, struct adapter_version **held)
{
    char name[16];
    int n = 0;
    for (int i = 0; i < NAMES_OF_ONE; i++) {
        struct err err = {0};
        snprintf(name, sizeof name, "n%d", i);
        struct adapter_version *v = acquire_of(f, tenant, name, &err);
        if (v)
            held[n++] = v;
        else
            EXPECT_EQ(err.code, ERR_NO_MEMORY);
    }
    return n;
}

static void release(struct adapter_version **held, int n)
{
    for (int i = 0; i < n; i++)
        adapters_release(held[i]);
}

/* One uses as many as he can get; another's one adapter, which is cold, is served every time. */
TEST(registry_one_tenant_cannot_take_all_memory)
{
    struct fixture f;
    struct err err = {0};
    struct adapter_version *held[NAMES_OF_ONE];
    int64_t other;
    char name[16];
    if (!open_for_tenants(&f, &other))
        return;
    for (int round = 0; round < 2; round++) { /* cold, then with his own ones in memory */
        int n = use_all(&f, TENANT, held);
        EXPECT_EQ(n, TILES * 3 / 4);
        for (int i = 0; i < NAMES_OF_ONE; i++) {
            snprintf(name, sizeof name, "n%d", i);
            struct adapter_version *v = acquire_of(&f, other, name, &err);
            if (!v)
                test_fail(__FILE__, __LINE__, "%s: %s", name, err.msg);
            else
                adapters_release(v);
        }
        release(held, n);
        for (int i = 0; i < TILES; i++) {
            snprintf(name, sizeof name, "n%d", i);
            use(&f, name);
        }
        EXPECT_EQ(stats_of(&f).bytes, TILES * TILE_BYTES); /* what is not in use may fill it */
    }
    fixture_close(&f);
}

/* All that he asks for at once, before any of it is in memory. */
TEST(registry_loads_that_were_queued_keep_to_the_share)
{
    struct fixture f;
    struct err err = {0};
    struct adapter_version *v, *held[NAMES_OF_ONE];
    struct adapter_load *loads[NAMES_OF_ONE];
    int64_t other;
    int n = 0;
    char name[16];
    if (!open_for_tenants(&f, &other))
        return;
    for (int i = 0; i < NAMES_OF_ONE; i++) {
        snprintf(name, sizeof name, "n%d", i);
        ASSERT(adapters_acquire(f.a, TENANT, name, &v, &loads[i], &err) == 0);
    }
    for (int i = 0; i < NAMES_OF_ONE; i++) {
        ASSERT(adapters_next_load(f.a) == loads[i]);
        adapter_load_run(loads[i]);
        adapters_load_done(f.a, loads[i]);
        if (adapters_take(f.a, loads[i], &v, &err) == 0)
            held[n++] = v;
        else
            EXPECT_EQ(err.code, ERR_NO_MEMORY);
    }
    EXPECT_EQ(n, TILES * 3 / 4);
    EXPECT_EQ(stats_of(&f).loads, n); /* the others cost nothing */
    v = acquire_of(&f, other, "n0", &err);
    ASSERT(v);
    adapters_release(v);
    release(held, n);
    fixture_close(&f);
}

/* What old daemons stored has no size before it is loaded. */
TEST(registry_loads_of_unknown_size_keep_to_the_share)
{
    struct fixture f;
    struct err err = {0};
    struct adapter_version *held[NAMES_OF_ONE];
    char json[80], name[16], digest[DIGEST_HEX + 1];
    if (!open_with(&f, TILES, 0))
        return;
    int64_t other = fixture_add_tenant(&f, "other");
    put_number(&f, other, "n0", 0);
    for (int i = 0; i < NAMES_OF_ONE; i++) {
        snprintf(name, sizeof name, "n%d", i);
        snprintf(json, sizeof json, "{\"kind\":\"text\",\"text\":\"n%d\"}", i);
        const struct adapter_file file = {"adapter.json", json, strlen(json)};
        const struct blob_file blob = {"adapter.json", json, strlen(json)};
        spec_digest(&file, 1, digest);
        const struct store_entry e = {
            .tenant = TENANT, .name = name, .version = digest, .kind = "", .created = 1};
        EXPECT_EQ(store_put(f.store, &e, &blob, 1, NULL, NULL, &err), 0);
    }
    int n = use_all(&f, TENANT, held);
    EXPECT_EQ(n, TILES * 3 / 4);
    struct adapter_version *v = acquire_of(&f, other, "n0", &err);
    ASSERT(v);
    adapters_release(v);
    release(held, n);
    fixture_close(&f);
}

/* As what one has ends, the other gets to his share, and no further while the first is there. */
TEST(registry_tenants_come_to_equal_shares)
{
    struct fixture f;
    struct adapter_version *one[NAMES_OF_ONE], *two[NAMES_OF_ONE];
    int64_t other;
    if (!open_for_tenants(&f, &other))
        return;
    int n = use_all(&f, TENANT, one), m = use_all(&f, other, two);
    EXPECT_EQ(n, TILES * 3 / 4);
    EXPECT_EQ(m, 2);
    for (int i = 0; i < 20; i++) {
        struct adapter_version *more[NAMES_OF_ONE];
        adapters_release(one[--n]);
        release(two, m);
        m = use_all(&f, other, two); /* he is back at once; then the first is */
        int k = use_all(&f, TENANT, more);
        release(one, n);
        memcpy(one, more, sizeof more);
        n = k;
        EXPECT(n + m <= TILES);
    }
    EXPECT(n >= TILES / 2 - 1 && m >= TILES / 2 - 1);
    release(one, n);
    release(two, m);
    fixture_close(&f);
}

TEST(registry_one_tenant_alone_uses_all_memory)
{
    struct fixture f;
    struct adapter_version *held[NAMES_OF_ONE];
    char name[16];
    if (!open_with(&f, TILES, 0))
        return;
    for (int i = 0; i < NAMES_OF_ONE; i++) {
        snprintf(name, sizeof name, "n%d", i);
        put_number(&f, TENANT, name, i);
    }
    int n = use_all(&f, TENANT, held);
    EXPECT_EQ(n, TILES);
    release(held, n);
    fixture_close(&f);
}

/* ---- back from the disk -------------------------------------------------------------- */

TEST(registry_comes_back_bitwise)
{
    struct fixture f;
    struct err err = {0};
    struct adapter_info info;
    if (!open_with(&f, 1, 0))
        return;
    EXPECT_EQ(put_peft(&f, "a", "PROMPT_TUNING", ROWS, &info, &err), 0);
    char version[DIGEST_HEX + 1];
    memcpy(version, info.version, sizeof version);
    double ms = info.compile_ms;
    struct adapter_version *v = acquire(&f, "a", &err);
    ASSERT(v);
    const struct kv_prefix *p = adapter_version_prefix(v, false, 0, &err);
    char *kv = xmalloc(p->bytes), *path = compiled_path(&f, TENANT, version);
    memcpy(kv, p->k, p->bytes / 2);
    memcpy(kv + p->bytes / 2, p->v, p->bytes / 2);
    adapters_release(v);
    for (int i = 0; i < 4; i++) {
        put_number(&f, TENANT, "b", i); /* a goes */
        EXPECT(!is_resident(&f, "a"));
        if (i == 1)
            EXPECT_EQ(unlink(path), 0);
        if (i == 2)
            EXPECT_EQ(truncate(path, 1000), 0);
        log_init(LOG_TEXT, LOG_ERROR);
        uint64_t compiles = stats_of(&f).compiles;
        v = acquire(&f, "a", &err);
        ASSERT(v);
        EXPECT_EQ(stats_of(&f).compiles - compiles, i == 1 || i == 2);
        p = adapter_version_prefix(v, false, 0, &err);
        EXPECT_EQ(memcmp(kv, p->k, p->bytes / 2), 0);
        EXPECT_EQ(memcmp(kv + p->bytes / 2, p->v, p->bytes / 2), 0);
        EXPECT_STR(adapter_version_name(v), "a");
        adapters_release(v);
        EXPECT_EQ(access(path, R_OK), 0);
    }
    EXPECT_EQ(adapters_info(f.a, TENANT, "a", &info, &err), 0);
    EXPECT(info.compile_ms == ms);
    EXPECT_EQ(delete_name(&f, "a", &err), 0);
    free(path);
    free(kv);
    fixture_close(&f);
}

/* Versions of older daemons, of which the store knows no numbers. */
/* 1: the call itself brought it, 0: it has to be waited for. */
static int acquire_at_once(struct fixture *f, const char *name)
{
    struct adapter_version *v = NULL;
    struct adapter_load *l = NULL;
    struct err err = {0};
    int rc = adapters_acquire(f->a, TENANT, name, &v, &l, &err);
    if (rc > 0)
        adapters_release(v);
    if (rc == 0)
        adapters_give_up(f->a, l);
    return rc;
}

TEST(registry_reads_small_ones_at_once)
{
    struct fixture f;
    struct err err = {0};
    if (!open_with(&f, 2, 4))
        return;
    expect_residents(&f, "cd");
    EXPECT_EQ(acquire_at_once(&f, "a"), 0);
    f.at_once_bytes = TILE_BYTES - 1;
    ASSERT(fixture_restart(&f));
    EXPECT_EQ(acquire_at_once(&f, "a"), 0);
    f.at_once_bytes = TILE_BYTES; /* the file's header and sum do not count */
    ASSERT(fixture_restart(&f));
    EXPECT_EQ(acquire_at_once(&f, "a"), 1);
    EXPECT_EQ(acquire_at_once(&f, "b"), 1);
    EXPECT_EQ(acquire_at_once(&f, "c"), 1);
    expect_residents(&f, "bc");
    EXPECT_EQ(stats_of(&f).loads, 3);
    EXPECT_EQ(stats_of(&f).misses, 3);
    EXPECT_EQ(stats_of(&f).compiles, 0);
    struct adapter_version *b = acquire(&f, "b", &err), *c = acquire(&f, "c", &err);
    EXPECT(b && c);
    EXPECT_EQ(acquire_code(&f, "d"), ERR_NO_MEMORY); /* those in use stay */
    adapters_release(b);
    adapters_release(c);
    fixture_close(&f);
}

/* Who waits already is not overtaken. */
TEST(registry_reads_at_once_behind_nobody)
{
    struct fixture f;
    struct err err = {0};
    struct adapter_version *v = NULL;
    struct adapter_load *l = NULL;
    if (!open_with(&f, 2, 4))
        return;
    f.at_once_bytes = 2 * TILE_BYTES;
    ASSERT(fixture_restart(&f));
    struct adapter_info info;
    EXPECT_EQ(adapters_info(f.a, TENANT, "a", &info, &err), 0);
    char *path = compiled_path(&f, TENANT, info.version);
    EXPECT_EQ(unlink(path), 0);
    EXPECT_EQ(adapters_acquire(f.a, TENANT, "a", &v, &l, &err), 0);
    EXPECT_EQ(acquire_at_once(&f, "b"), 0);
    run_loads(&f);
    EXPECT_EQ(adapters_take(f.a, l, &v, &err), 0);
    adapters_release(v);
    EXPECT_EQ(acquire_at_once(&f, "b"), 1);
    free(path);
    fixture_close(&f);
}

TEST(registry_notes_what_older_daemons_did_not)
{
    struct fixture f;
    struct err err = {0};
    struct adapter_info info;
    char digest[DIGEST_HEX + 1];
    if (!fixture_open(&f, DTYPE_CHOICE_AUTO, false))
        return;
    const struct adapter_file file = {"adapter.json", text_one, sizeof text_one - 1};
    const struct blob_file blob = {"adapter.json", text_one, sizeof text_one - 1};
    spec_digest(&file, 1, digest);
    const struct store_entry e = {
        .tenant = TENANT, .name = "x", .version = digest, .kind = "", .created = 12345};
    EXPECT_EQ(store_put(f.store, &e, &blob, 1, NULL, NULL, &err), 0);
    EXPECT_EQ(adapters_info(f.a, TENANT, "x", &info, &err), 0);
    EXPECT(!info.kind && info.n_virtual_tokens == 0 && info.bytes == 0 && info.created == 12345);
    EXPECT_EQ(info.state, ADAPTER_READY);
    use(&f, "x");
    ASSERT(fixture_restart(&f));
    EXPECT_EQ(adapters_info(f.a, TENANT, "x", &info, &err), 0);
    EXPECT_STR(info.kind, "text");
    EXPECT(info.n_virtual_tokens > 0 && info.bytes == TILE_BYTES && !info.is_resident);
    fixture_close(&f);
}

/* ---- waiting ------------------------------------------------------------------------- */

TEST(registry_loads_once_for_many)
{
    enum { WAITERS = 100 };
    struct fixture f;
    struct err err = {0};
    struct adapter_info info;
    struct adapter_version *v, *first = NULL;
    struct adapter_load *l = NULL, *loads[WAITERS];
    if (!open_with(&f, 2, 1))
        return;
    char *path = NULL;
    EXPECT_EQ(adapters_info(f.a, TENANT, "a", &info, &err), 0);
    path = compiled_path(&f, TENANT, info.version);
    EXPECT_EQ(unlink(path), 0);
    ASSERT(fixture_restart(&f));
    for (int i = 0; i < WAITERS; i++) {
        EXPECT_EQ(adapters_acquire(f.a, TENANT, "a", &v, &loads[i], &err), 0);
        EXPECT(!v && loads[i] == loads[0]);
        if (i == WAITERS / 2) {
            l = adapters_next_load(f.a);
            EXPECT(l == loads[0] && !adapters_next_load(f.a));
        }
    }
    EXPECT_EQ(adapters_info(f.a, TENANT, "a", &info, &err), 0);
    EXPECT_EQ(info.state, ADAPTER_LOADING);
    EXPECT_EQ(stats_of(&f).n_loading, 1);
    adapter_load_run(l);
    for (int i = 0; i < 10; i++)
        adapters_give_up(f.a, loads[i]);
    adapters_load_done(f.a, l);
    for (int i = 10; i < WAITERS; i++) {
        if (i % 3 == 0) {
            adapters_give_up(f.a, loads[i]);
            continue;
        }
        ASSERT(adapters_take(f.a, loads[i], &v, &err) == 0);
        EXPECT(!first || v == first);
        first = v;
    }
    EXPECT_EQ(adapters_info(f.a, TENANT, "a", &info, &err), 0);
    EXPECT_EQ(info.state, ADAPTER_READY);
    EXPECT_EQ(info.n_refs, 60);
    for (int i = 0; i < 60; i++)
        adapters_release(first);
    EXPECT_EQ(stats_of(&f).compiles, 1);
    EXPECT_EQ(stats_of(&f).loads, 1);
    EXPECT_EQ(stats_of(&f).misses, WAITERS);
    free(path);
    fixture_close(&f);
}

TEST(registry_load_that_nobody_waits_for)
{
    struct fixture f;
    struct err err = {0};
    struct adapter_version *v;
    struct adapter_load *l, *m;
    if (!open_with(&f, 1, 3))
        return;
    ASSERT(adapters_acquire(f.a, TENANT, "a", &v, &l, &err) == 0);
    adapters_give_up(f.a, l); /* before it ran */
    EXPECT(!adapters_next_load(f.a));
    ASSERT(adapters_acquire(f.a, TENANT, "a", &v, &l, &err) == 0);
    EXPECT(adapters_next_load(f.a) == l);
    adapters_give_up(f.a, l); /* while it runs */
    adapter_load_run(l);
    adapters_load_done(f.a, l);
    expect_residents(&f, "a");
    ASSERT(adapters_acquire(f.a, TENANT, "b", &v, &l, &err) == 0);
    EXPECT(adapters_next_load(f.a) == l);
    adapters_give_up(f.a, l);
    ASSERT(adapters_acquire(f.a, TENANT, "b", &v, &m, &err) == 0); /* somebody else comes */
    EXPECT(m == l);
    adapter_load_run(l);
    adapters_load_done(f.a, l);
    EXPECT_EQ(adapters_take(f.a, l, &v, &err), 0);
    adapters_release(v);
    fixture_close(&f);
}

TEST(registry_name_goes_while_it_loads)
{
    struct fixture f;
    struct err err = {0};
    struct adapter_info info;
    struct adapter_version *v;
    struct adapter_load *l;
    if (!open_with(&f, 1, 0))
        return;
    for (int is_deleted = 0; is_deleted < 2; is_deleted++) {
        EXPECT_EQ(put_text(&f, "x", text_one, &info, &err), 0);
        char *dir = blob_path(&f, info.version), *file = compiled_path(&f, TENANT, info.version);
        put_number(&f, TENANT, "b", is_deleted); /* x goes from memory */
        ASSERT(adapters_acquire(f.a, TENANT, "x", &v, &l, &err) == 0);
        if (is_deleted)
            EXPECT_EQ(delete_name(&f, "x", &err), 0);
        else
            EXPECT_EQ(put_text(&f, "x", text_two, &info, &err), 0);
        adapter_files_remove_dir(dir); /* as collecting does, sooner or later */
        unlink(file);
        run_loads(&f);
        EXPECT_EQ(adapters_take(f.a, l, &v, &err), -1);
        EXPECT_EQ(err.code, is_deleted ? ERR_MODEL_NOT_FOUND : ERR_LOADING);
        EXPECT_EQ(put_text(&f, "x", text_one, &info, &err), 0); /* not taken for broken */
        use(&f, "x");
        EXPECT_EQ(delete_name(&f, "x", &err), 0);
        free(dir);
        free(file);
    }
    fixture_close(&f);
}

static struct fixture *deletes_before_rename; /* "x", before a compiled file appears */

/* Stands before the C library's. */
int renameat(int from_dir, const char *from, int to_dir, const char *to)
{
    struct fixture *f = deletes_before_rename;
    struct err err = {0};
    if (f && strlen(to) > BLOB_NAME_SIZE && to[0] != '.') {
        deletes_before_rename = NULL;
        EXPECT_EQ(store_delete(f->store, TENANT, "x", false, NULL, &err), 0);
    }
    return renameat2(from_dir, from, to_dir, to, 0);
}

/* What was deleted leaves no compiled file behind, whoever was about to write one. */
TEST(registry_name_goes_before_its_compiled_file_is_written)
{
    struct fixture f;
    struct err err = {0};
    struct adapter_info info;
    struct adapter_version *v;
    struct adapter_load *l;
    if (!open_with(&f, 1, 0))
        return;
    EXPECT_EQ(put_text(&f, "x", text_one, &info, &err), 0);
    char *file = compiled_path(&f, TENANT, info.version);
    put_number(&f, TENANT, "b", 0); /* x goes from memory */
    EXPECT_EQ(unlink(file), 0);
    ASSERT(adapters_acquire(f.a, TENANT, "x", &v, &l, &err) == 0);
    EXPECT(adapters_next_load(f.a) == l);
    deletes_before_rename = &f;
    adapter_load_run(l);
    EXPECT(!deletes_before_rename);
    adapters_load_done(f.a, l);
    adapters_give_up(f.a, l);
    EXPECT(access(file, F_OK) != 0);
    free(file);
    fixture_close(&f);
}

static void *run_on_pool(void *load)
{
    adapter_load_run(load);
    return NULL;
}

/* A load of each tenant at once, while others are served: thread sanitizer looks on. */
TEST(registry_loads_of_tenants_at_once)
{
    enum { TENANTS = 4, NAMES = 3 };
    struct fixture f;
    struct err err = {0};
    struct adapter_version *v;
    struct adapter_load *loads[TENANTS][NAMES];
    int64_t tenants[TENANTS];
    if (!open_with(&f, 100, 1))
        return;
    for (int t = 0; t < TENANTS; t++) {
        tenants[t] = fixture_add_tenant(&f, (const char[]){(char)('a' + t), 0});
        for (int i = 0; i < NAMES; i++)
            put_number(&f, tenants[t], (const char[]){(char)('a' + i), 0}, i);
    }
    ASSERT(fixture_restart(&f));
    char clear[600];
    snprintf(clear, sizeof clear, "rm -rf %s/compiled", f.state);
    EXPECT_EQ(system(clear), 0);
    use(&f, "a");
    for (int t = 0; t < TENANTS; t++)
        for (int i = 0; i < NAMES; i++)
            ASSERT(adapters_acquire(f.a, tenants[t], (const char[]){(char)('a' + i), 0}, &v,
                                    &loads[t][i], &err) == 0);
    for (int round = 0; round < NAMES; round++) {
        struct adapter_load *running[TENANTS];
        pthread_t threads[TENANTS];
        for (int t = 0; t < TENANTS; t++) {
            running[t] = adapters_next_load(f.a);
            ASSERT(running[t] && running[t] == loads[t][round]); /* one of each, in order */
            ASSERT(pthread_create(&threads[t], NULL, run_on_pool, running[t]) == 0);
        }
        EXPECT(!adapters_next_load(f.a));
        for (int n = 0; n < 20; n++)
            use(&f, "a");
        for (int t = 0; t < TENANTS; t++) {
            pthread_join(threads[t], NULL);
            adapters_load_done(f.a, running[t]);
            ASSERT(adapters_take(f.a, running[t], &v, &err) == 0);
            adapters_release(v);
        }
    }
    EXPECT_EQ(stats_of(&f).compiles, TENANTS * NAMES + 1);
    fixture_close(&f);
}

/* ---- broken ones --------------------------------------------------------------------- */

static char *damage(struct fixture *f, const char *name)
{
    struct adapter_info info;
    EXPECT_EQ(adapters_info(f->a, TENANT, name, &info, NULL), 0);
    char *dir = blob_path(f, info.version), *file = compiled_path(f, TENANT, info.version);
    adapter_files_write(dir, "adapter.json", "{", 1);
    EXPECT_EQ(unlink(file), 0);
    free(file);
    return dir;
}

TEST(registry_broken_one_fails_alone)
{
    struct fixture f;
    struct err err = {0};
    struct adapter_info info;
    if (!open_with(&f, 8, 2))
        return;
    free(damage(&f, "a"));
    use(&f, "a"); /* what is in memory is whole */
    ASSERT(fixture_restart(&f));
    log_init(LOG_TEXT, LOG_ERROR);
    EXPECT_EQ(adapters_info(f.a, TENANT, "a", &info, &err), 0);
    EXPECT_EQ(info.state, ADAPTER_READY); /* nobody has tried */
    for (int i = 0; i < 5; i++) {
        EXPECT(!acquire(&f, "a", &err));
        EXPECT_EQ(err.code, ERR_ADAPTER);
        EXPECT(strstr(err.msg, "the stored files are damaged") != NULL);
        EXPECT(strstr(err.msg, f.state) == NULL);
        EXPECT_STR(err.param, "model");
        use(&f, "b");
    }
    EXPECT_EQ(stats_of(&f).load_failures, 1); /* and is not tried over and over */
    EXPECT_EQ(stats_of(&f).misses, 2);
    EXPECT_EQ(adapters_info(f.a, TENANT, "a", &info, &err), 0);
    EXPECT_EQ(info.state, ADAPTER_BROKEN);
    EXPECT_STR(adapter_state_name(info.state), "broken");
    EXPECT_STR(info.why, "the stored files are damaged");
    int64_t now = (int64_t)time(NULL);
    EXPECT(info.until > now && info.until <= now + 5);
    fixture_close(&f);
}

/* The same content, put again by another process: this one sees it at once. */
TEST(registry_broken_one_is_mended_by_a_put)
{
    struct fixture f;
    struct err err = {0};
    struct adapter_info info;
    for (int is_other = 0; is_other < 2; is_other++) {
        if (!open_with(&f, 8, 0))
            return;
        EXPECT_EQ(put_text(&f, "x", text_one, &info, &err), 0);
        free(damage(&f, "x"));
        ASSERT(fixture_restart(&f));
        log_init(LOG_TEXT, LOG_ERROR);
        EXPECT_EQ(acquire_code(&f, "x"), ERR_ADAPTER);
        struct adapters *other = adapters_open(&(struct adapters_opts){
            .engine = f.engine, .base = f.base, .base_name = "gqa", .store = f.store});
        struct adapters *own = f.a;
        f.a = is_other ? other : own;
        EXPECT_EQ(put_text(&f, "x", text_one, &info, &err), 0);
        f.a = own;
        use(&f, "x");
        EXPECT_EQ(adapters_info(f.a, TENANT, "x", &info, &err), 0);
        EXPECT_EQ(info.state, ADAPTER_READY);
        adapters_free(other);
        fixture_close(&f);
    }
}

TEST(registry_marked_one_is_out_of_service)
{
    struct fixture f;
    struct err err = {0};
    struct adapter_info a, info;
    if (!open_with(&f, 8, 2))
        return;
    int64_t other = fixture_add_tenant(&f, "other");
    put_number(&f, other, "its", 0); /* the same content */
    EXPECT_EQ(adapters_info(f.a, TENANT, "a", &a, &err), 0);
    struct adapter_version *v = acquire(&f, "a", &err);
    int64_t until = (int64_t)time(NULL) + 100;
    adapters_mark_broken(f.a, TENANT, "no digest", until, "x");
    adapters_mark_broken(f.a, TENANT, a.version, until, "quarantined");
    EXPECT(!acquire(&f, "a", &err) && err.code == ERR_ADAPTER);
    EXPECT(strstr(err.msg, "quarantined") != NULL);
    EXPECT_EQ(adapters_info(f.a, TENANT, "a", &info, &err), 0);
    EXPECT(info.state == ADAPTER_BROKEN && info.until == until);
    EXPECT_STR(info.why, "quarantined");
    EXPECT_EQ(adapters_info(f.a, other, "its", &info, &err), 0);
    EXPECT_STR(info.version, a.version);
    EXPECT_EQ(info.state, ADAPTER_READY);
    struct adapter_version *w = acquire_of(&f, other, "its", &err);
    ASSERT(w);
    EXPECT_EQ(adapter_version_owner(w), other);
    EXPECT_EQ(adapter_version_owner(v), TENANT);
    adapters_release(w);
    use(&f, "b");
    adapters_release(v);
    adapters_mark_broken(f.a, TENANT, a.version, 0, "");
    use(&f, "a");
    fixture_close(&f);
}

/* ---- states of versions -------------------------------------------------------------- */

static void note_state(const struct adapter_version_info *v, void *ud)
{
    buf_printf(ud, "%s%s:%d ", v->is_current ? "*" : "", adapter_state_name(v->state), v->n_refs);
}

static void expect_states(struct fixture *f, const char *expected)
{
    struct buf seen = {0};
    EXPECT_EQ(adapters_each_version(f->a, TENANT, "x", note_state, &seen, NULL), 0);
    EXPECT_STR(seen.data, expected);
    buf_free(&seen);
}

TEST(registry_tells_states_of_versions)
{
    struct fixture f;
    struct err err = {0};
    struct adapter_info info;
    struct adapter_load *l;
    struct adapter_version *v;
    if (!open_with(&f, 8, 0))
        return;
    EXPECT_EQ(put_text(&f, "x", text_one, &info, &err), 0);
    struct adapter_version *old = acquire(&f, "x", &err);
    ASSERT(old);
    EXPECT_EQ(put_text(&f, "x", text_two, &info, &err), 0);
    char second[DIGEST_HEX + 1];
    memcpy(second, info.version, sizeof second);
    expect_states(&f, "*ready:0 draining:1 ");
    adapters_release(old);
    expect_states(&f, "*ready:0 ready:0 ");
    adapters_mark_broken(f.a, TENANT, second, (int64_t)time(NULL) + 100, "why");
    expect_states(&f, "*broken:0 ready:0 ");
    ASSERT(fixture_restart(&f));
    ASSERT(adapters_acquire(f.a, TENANT, "x", &v, &l, &err) == 0);
    expect_states(&f, "*loading:0 ready:0 ");
    adapters_give_up(f.a, l);
    fixture_close(&f);
}

/* ---- many ---------------------------------------------------------------------------- */

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* Names beyond the first some, which mean the same versions: putting so many takes too long. */
static void add_names(struct fixture *f, int from, int to)
{
    static const char sql[] =
        "BEGIN;"
        "CREATE TEMP TABLE more AS WITH RECURSIVE n (i) AS"
        "  (SELECT %d UNION ALL SELECT i + 1 FROM n WHERE i + 1 < %d)"
        "  SELECT 'n' || i AS name, 'n' || (i %% %d) AS of FROM n;"
        "INSERT INTO adapters (tenant, name, current)"
        "  SELECT a.tenant, more.name, a.current FROM more JOIN adapters a ON a.name = of;"
        "INSERT INTO versions (tenant, name, digest, kind, n_tokens, n_tasks, created, number)"
        "  SELECT v.tenant, more.name, v.digest, v.kind, v.n_tokens, v.n_tasks, v.created, 1"
        "  FROM more JOIN versions v ON v.name = of;"
        "COMMIT;";
    char text[1200], path[512], *why = NULL;
    sqlite3 *db = NULL;
    snprintf(path, sizeof path, "%s/registry.db", f->state);
    snprintf(text, sizeof text, sql, from, to, from);
    if (sqlite3_open(path, &db) != SQLITE_OK || sqlite3_exec(db, text, NULL, NULL, &why) != SQLITE_OK)
        test_fail(__FILE__, __LINE__, "names: %s", why ? why : "");
    sqlite3_free(why);
    sqlite3_close(db);
}

/* The store has more names than the memory has room for; no use of one goes wrong. */
TEST(registry_serves_ten_thousand_names_from_little_memory)
{
    enum { NAMES = 10000, VERSIONS = 200, ROOM = 50, USES = 2000, HITS = 20000 };
    struct fixture f;
    struct err err = {0};
    char name[16], digests[VERSIONS][DIGEST_HEX + 1];
    if (!open_with(&f, ROOM, 0))
        return;
    for (int i = 0; i < VERSIONS; i++) {
        struct adapter_info info;
        snprintf(name, sizeof name, "n%d", i);
        put_number(&f, TENANT, name, i);
        EXPECT_EQ(adapters_info(f.a, TENANT, name, &info, &err), 0);
        memcpy(digests[i], info.version, sizeof digests[i]);
    }
    add_names(&f, VERSIONS, NAMES);
    double start = now_s();
    uint32_t random = 1;
    for (int i = 0; i < USES; i++) {
        random = random * 1664525u + 1013904223u;
        unsigned n = (random >> 8) % (i % 2 ? NAMES : ROOM / 2);
        snprintf(name, sizeof name, "n%u", n);
        struct adapter_version *v = acquire(&f, name, &err);
        ASSERT(v);
        EXPECT_STR(adapter_version_digest(v), digests[n % VERSIONS]);
        EXPECT(stats_of(&f).bytes <= f.memory);
        adapters_release(v);
    }
    double used = now_s();
    for (int i = 0; i < HITS; i++)
        adapters_release(acquire(&f, "n9999", &err));
    if (getenv("PREFIXD_TEST_TIMES"))
        printf("  a use %.1f us, a hit %.2f us\n", (used - start) / USES * 1e6,
               (now_s() - used) / HITS * 1e6);
    EXPECT_EQ(stats_of(&f).compiles, VERSIONS);
    EXPECT(stats_of(&f).n_resident <= ROOM && stats_of(&f).loads > 100);
    fixture_close(&f);
}
