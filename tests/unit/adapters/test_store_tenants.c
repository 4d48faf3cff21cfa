/* store: tenants, keys and usage. */
#define _GNU_SOURCE
#include "adapters/store_tenants.h"

#include <dirent.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "adapters/store_usage.h"
#include "core/base/buf.h"
#include "tests/support/adapter_files.h"
#include "tests/test.h"
#include "tests/unit/adapters/stored.h"

struct place {
    char *dir;
    struct store *s;
    struct err err;
};

static bool open_place(struct place *p)
{
    *p = (struct place){.dir = adapter_files_tmp_dir()};
    p->s = stored_open(p->dir, 1, &p->err);
    return p->s != NULL;
}

static void close_place(struct place *p)
{
    store_close(p->s);
    adapter_files_remove_dir(p->dir);
    free(p->dir);
}

/* ---- tenants ------------------------------------------------------------------------- */

static const struct tenant_limits as_it_is = {INT64_MIN, INT64_MIN, INT64_MIN, INT64_MIN,
                                              INT64_MIN, INT64_MIN, INT64_MIN};

TEST(store_default_tenant_is_there)
{
    struct place p;
    struct tenant t;
    ASSERT(open_place(&p));
    EXPECT_EQ(store_find_tenant(p.s, "default", &t, &p.err), 0);
    EXPECT(t.id == STORE_DEFAULT_TENANT && t.weight == 1 && !t.is_suspended &&
           t.created > 0);
    EXPECT_EQ(t.set.max_running, -1);
    EXPECT_EQ(t.limits.requests_per_minute, 600000);
    EXPECT_EQ(t.limits.tokens_per_minute, 100000000);
    EXPECT_EQ(t.limits.max_running, 1024);
    EXPECT_EQ(t.limits.max_queued, 1024);
    EXPECT_EQ(t.limits.max_adapters, 100000);
    EXPECT_EQ(t.limits.max_adapter_bytes, 1099511627776);
    EXPECT_EQ(t.limits.max_virtual_tokens, 16777216);
    EXPECT_EQ(store_remove_tenant(p.s, "default", &p.err), -1);
    EXPECT_EQ(p.err.code, ERR_INVALID);
    close_place(&p);
}

TEST(store_tenants_are_added_and_set)
{
    struct place p;
    struct tenant t;
    struct tenant_limits set = as_it_is;
    ASSERT(open_place(&p));
    set.max_queued = 0;
    set.max_adapter_bytes = 12345;
    EXPECT_EQ(store_add_tenant(p.s, "acme", 3, &set, &t, &p.err), 0);
    EXPECT(t.id == 2 && t.weight == 3 && strcmp(t.name, "acme") == 0);
    EXPECT(t.limits.max_queued == 0 && t.set.max_queued == 0);
    EXPECT(t.limits.max_adapter_bytes == 12345 && t.limits.max_running == 1024);
    EXPECT_EQ(store_add_tenant(p.s, "acme", 0, NULL, NULL, &p.err), -1);
    EXPECT_EQ(p.err.code, ERR_CONFLICT);
    set = as_it_is;
    set.max_queued = -1;
    set.tokens_per_minute = 99;
    EXPECT_EQ(store_set_tenant(p.s, "acme", 0, &set, &t, &p.err), 0);
    EXPECT(t.weight == 3 && t.limits.max_queued == 1024 && t.set.max_queued == -1);
    EXPECT(t.limits.tokens_per_minute == 99 && t.limits.max_adapter_bytes == 12345);
    EXPECT_EQ(store_set_tenant(p.s, "acme", 1000, NULL, NULL, &p.err), 0);
    EXPECT_EQ(store_suspend_tenant(p.s, "acme", true, &t, &p.err), 0);
    EXPECT(t.is_suspended && t.weight == 1000);
    EXPECT_EQ(store_find_tenant_by_id(p.s, 2, &t, &p.err), 0);
    EXPECT(t.is_suspended && strcmp(t.name, "acme") == 0);
    EXPECT_EQ(store_suspend_tenant(p.s, "acme", false, &t, &p.err), 0);
    EXPECT(!t.is_suspended);
    close_place(&p);
}

TEST(store_tenants_refuse_what_is_none)
{
    static const char *const bad[] = {
        "",
        ".a",
        "a/b",
        "a b",
        "\xc3\xa4", /* the last: 65 */
        "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0"};
    struct place p;
    struct tenant_limits set = as_it_is;
    ASSERT(open_place(&p));
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        EXPECT_EQ(store_add_tenant(p.s, bad[i], 0, NULL, NULL, &p.err), -1);
        EXPECT_EQ(p.err.code, ERR_INVALID);
    }
    EXPECT_EQ(store_add_tenant(p.s, "a", 1001, NULL, NULL, &p.err), -1);
    EXPECT_STR(p.err.param, "weight");
    EXPECT_EQ(store_add_tenant(p.s, "a", -1, NULL, NULL, &p.err), -1);
    set.max_running = 0;
    EXPECT_EQ(store_add_tenant(p.s, "a", 0, &set, NULL, &p.err), -1);
    EXPECT_STR(p.err.param, "max_running");
    set.max_running = -2;
    EXPECT_EQ(store_set_tenant(p.s, "default", 0, &set, NULL, &p.err), -1);
    EXPECT_EQ(p.err.code, ERR_INVALID);
    EXPECT_EQ(store_set_tenant(p.s, "a", 1, NULL, NULL, &p.err), -1);
    EXPECT_EQ(p.err.code, ERR_NOT_FOUND);
    EXPECT_EQ(store_suspend_tenant(p.s, "a", true, NULL, &p.err), -1);
    EXPECT_EQ(p.err.code, ERR_NOT_FOUND);
    EXPECT_EQ(store_remove_tenant(p.s, "a", &p.err), -1);
    EXPECT_EQ(p.err.code, ERR_NOT_FOUND);
    struct tenant t;
    EXPECT_EQ(store_find_tenant_by_id(p.s, 9, &t, &p.err), -1);
    EXPECT_EQ(p.err.code, ERR_NOT_FOUND);
    close_place(&p);
}

static void note_tenant(void *ud, const struct tenant *t)
{
    buf_printf(ud, "%s ", t->name);
}

TEST(store_tenants_are_listed_in_pages)
{
    struct place p;
    struct buf seen = {0};
    bool has_more;
    ASSERT(open_place(&p));
    stored_tenant(p.s, "b");
    stored_tenant(p.s, "a");
    EXPECT_EQ(store_each_tenant(p.s, "", 2, &has_more, note_tenant, &seen, &p.err), 0);
    EXPECT(has_more);
    EXPECT_STR(seen.data, "a b ");
    EXPECT_EQ(store_each_tenant(p.s, "b", 1, &has_more, note_tenant, &seen, &p.err), 0);
    EXPECT(!has_more);
    EXPECT_STR(seen.data, "a b default ");
    buf_free(&seen);
    close_place(&p);
}

TEST(store_tenants_are_removed_with_what_is_theirs)
{
    struct place p;
    struct tenant_key k;
    struct tenant t;
    char text[KEY_TEXT_MAX];
    unsigned char hash[KEY_HASH_BYTES];
    bool had_key = false;
    ASSERT(open_place(&p));
    int64_t a = stored_tenant(p.s, "a");
    EXPECT(stored_put(p.s, a, 0, 0, &p.err) == 0 && stored_put(p.s, a, 1, 1, &p.err) == 0);
    EXPECT_EQ(stored_put(p.s, STORE_DEFAULT_TENANT, 0, 0, &p.err), 0);
    EXPECT_EQ(store_add_key(p.s, "a", KEY_INFER, 0, text, &k, &p.err), 0);
    const struct usage_row row = {.hour = 3600, .tenant = a, .n.requests = 1};
    EXPECT_EQ(store_add_usage(p.s, &row, 1, &p.err), 0);
    EXPECT_EQ(store_remove_tenant(p.s, "a", &p.err), 0);
    EXPECT_EQ(store_find_tenant(p.s, "a", &t, &p.err), -1);
    key_hash(hash, text, strlen(text));
    EXPECT_EQ(store_find_key(p.s, hash, &k, &t, &p.err), 0);
    EXPECT(store_ever_had_key(p.s, &had_key, &p.err) == 0 && had_key);
    EXPECT(stored_in(p.s, a, 0) == STORED_NOTHING &&
           stored_count(p.dir, "blobs", false) == 1);
    EXPECT(stored_is_whole(p.s, STORE_DEFAULT_TENANT, 0));
    EXPECT_EQ(stored_sql(p.dir, "SELECT requests FROM usage"), 1);
    EXPECT_EQ(stored_tenant(p.s, "a"), a + 1); /* ids are never given twice */
    close_place(&p);
}

/* ---- keys ---------------------------------------------------------------------------- */

TEST(store_keys_are_found_by_their_hash)
{
    struct place p;
    struct tenant_key k, found;
    struct tenant t;
    char text[KEY_TEXT_MAX], other[KEY_TEXT_MAX];
    unsigned char hash[KEY_HASH_BYTES];
    ASSERT(open_place(&p));
    stored_tenant(p.s, "acme");
    EXPECT_EQ(store_add_key(p.s, "acme", KEY_MANAGE, 2000000000, text, &k, &p.err), 0);
    EXPECT_EQ(store_add_key(p.s, NULL, KEY_ADMIN, 0, other, NULL, &p.err), 0);
    EXPECT(strncmp(text, "pfx_", 4) == 0 && strlen(text) == 47 && strcmp(text, other) != 0);
    EXPECT_EQ(strspn(text + 4,
                     "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"),
              43);
    key_hash(hash, text, strlen(text));
    EXPECT_EQ(store_find_key(p.s, hash, &found, &t, &p.err), 1);
    EXPECT(found.id == k.id && found.scope == KEY_MANAGE && found.expires == 2000000000);
    EXPECT(found.revoked == 0 && found.tenant_id == 2 && found.created == k.created);
    EXPECT_STR(found.tenant, "acme");
    EXPECT(t.id == 2 && t.limits.max_running == 1024);
    key_hash(hash, other, strlen(other));
    EXPECT_EQ(store_find_key(p.s, hash, &found, &t, &p.err), 1);
    EXPECT(found.scope == KEY_ADMIN && found.tenant_id == 0 && t.id == 0);
    EXPECT_STR(found.tenant, "");
    hash[31] ^= 1;
    EXPECT_EQ(store_find_key(p.s, hash, &found, &t, &p.err), 0);
    close_place(&p);
}

TEST(store_keys_are_refused)
{
    struct place p;
    char text[KEY_TEXT_MAX];
    enum key_scope scope;
    ASSERT(open_place(&p));
    EXPECT_EQ(store_add_key(p.s, "nobody", KEY_INFER, 0, text, NULL, &p.err), -1);
    EXPECT_EQ(p.err.code, ERR_NOT_FOUND);
    EXPECT_EQ(store_add_key(p.s, "default", KEY_ADMIN, 0, text, NULL, &p.err), -1);
    EXPECT_EQ(p.err.code, ERR_INVALID);
    EXPECT_EQ(store_add_key(p.s, NULL, KEY_INFER, 0, text, NULL, &p.err), -1);
    EXPECT_EQ(store_add_key(p.s, "default", KEY_INFER, -1, text, NULL, &p.err), -1);
    EXPECT(key_scope_of("manage", &scope, &p.err) == 0 && scope == KEY_MANAGE);
    EXPECT_EQ(key_scope_of("root", &scope, &p.err), -1);
    close_place(&p);
}

static void note_key(void *ud, const struct tenant_key *k)
{
    buf_printf(ud, "%lld:%s:%s%s ", (long long)k->id, k->tenant, key_scope_name(k->scope),
               k->revoked ? "-" : "");
}

static void expect_keys(struct place *p, const char *tenant, int64_t after, size_t limit,
                        const char *expected, bool more)
{
    struct buf seen = {0};
    bool has_more = !more;
    buf_add_str(&seen, "");
    EXPECT_EQ(
        store_each_key(p->s, tenant, after, limit, &has_more, note_key, &seen, &p->err), 0);
    EXPECT_STR(seen.data, expected);
    EXPECT_EQ(has_more, more);
    buf_free(&seen);
}

TEST(store_keys_are_listed_and_revoked)
{
    struct place p;
    struct tenant_key k;
    struct tenant t;
    char text[KEY_TEXT_MAX];
    unsigned char hash[KEY_HASH_BYTES];
    bool had_key = true;
    ASSERT(open_place(&p));
    stored_tenant(p.s, "a");
    EXPECT(store_ever_had_key(p.s, &had_key, &p.err) == 0 && !had_key);
    EXPECT_EQ(store_add_key(p.s, "a", KEY_INFER, 0, text, NULL, &p.err), 0);
    EXPECT_EQ(store_add_key(p.s, "default", KEY_MANAGE, 1, text, NULL, &p.err), 0);
    EXPECT_EQ(store_add_key(p.s, NULL, KEY_ADMIN, 0, text, NULL, &p.err), 0);
    expect_keys(&p, NULL, 0, 9, "1:a:infer 2:default:manage 3::admin ", false);
    expect_keys(&p, NULL, 1, 1, "2:default:manage ", true);
    expect_keys(&p, "a", 0, 1, "1:a:infer ", false);
    EXPECT(store_ever_had_key(p.s, &had_key, &p.err) == 0 && had_key);
    EXPECT_EQ(store_revoke_key(p.s, 3, &p.err), 0);
    EXPECT_EQ(store_revoke_key(p.s, 3, &p.err), 0);
    EXPECT_EQ(store_revoke_key(p.s, 4, &p.err), -1);
    EXPECT_EQ(p.err.code, ERR_NOT_FOUND);
    EXPECT(store_ever_had_key(p.s, &had_key, &p.err) == 0 && had_key);
    expect_keys(&p, NULL, 2, 9, "3::admin- ", false);
    key_hash(hash, text, strlen(text));
    EXPECT_EQ(store_find_key(p.s, hash, &k, &t, &p.err), 1);
    EXPECT(k.revoked > 0);
    close_place(&p);
}

static bool has_bytes(const char *path, const char *needle)
{
    struct stat st;
    FILE *f = fopen(path, "rb");
    if (!f || fstat(fileno(f), &st) < 0 || !S_ISREG(st.st_mode)) {
        if (f)
            fclose(f);
        return false;
    }
    char *bytes = malloc((size_t)st.st_size + 1);
    size_t n = fread(bytes, 1, (size_t)st.st_size, f);
    bool has = memmem(bytes, n, needle, strlen(needle)) != NULL;
    free(bytes);
    fclose(f);
    return has;
}

static int files_with(const char *dir, const char *needle)
{
    char path[512];
    int n = 0;
    struct dirent *e;
    DIR *d = opendir(dir);
    while (d && (e = readdir(d))) {
        snprintf(path, sizeof path, "%s/%s", dir, e->d_name);
        n += has_bytes(path, needle);
    }
    if (d)
        closedir(d);
    return n;
}

TEST(store_keys_are_nowhere_in_the_files)
{
    struct place p;
    char text[KEY_TEXT_MAX];
    ASSERT(open_place(&p));
    stored_tenant(p.s, "is-looked-for");
    EXPECT_EQ(store_add_key(p.s, "is-looked-for", KEY_INFER, 0, text, NULL, &p.err), 0);
    EXPECT(files_with(p.dir, "is-looked-for") >
           0); /* in the log that is not folded in yet */
    EXPECT_EQ(files_with(p.dir, text), 0);
    EXPECT_EQ(files_with(p.dir, text + 4), 0);
    store_close(p.s);
    EXPECT(files_with(p.dir, "is-looked-for") > 0);
    EXPECT_EQ(files_with(p.dir, text + 4), 0);
    p.s = NULL;
    close_place(&p);
}

/* ---- usage --------------------------------------------------------------------------- */

enum { DAY = 86400, HOUR = 3600 };

static void note_usage(void *ud, const struct usage_row *r)
{
    buf_printf(ud, "%lld/%lld%s%s/%lld/%s:%lld,%lld,%lld,%lld,%lld ", (long long)r->hour,
               (long long)r->tenant, r->tenant_name[0] ? "=" : "", r->tenant_name,
               (long long)r->key, r->adapter, (long long)r->n.requests,
               (long long)r->n.prompt_tokens, (long long)r->n.cached_tokens,
               (long long)r->n.virtual_tokens, (long long)r->n.generated_tokens);
}

static void expect_usage(struct place *p, struct usage_query q, const char *expected, bool more)
{
    struct buf seen = {0};
    bool has_more = !more;
    buf_add_str(&seen, "");
    EXPECT_EQ(store_each_usage(p->s, &q, &has_more, note_usage, &seen, &p->err), 0);
    EXPECT_STR(seen.data, expected);
    EXPECT_EQ(has_more, more);
    buf_free(&seen);
}

TEST(store_usage_is_added_up)
{
    struct place p;
    ASSERT(open_place(&p));
    int64_t a = stored_tenant(p.s, "a");
    const struct usage_row rows[] = {
        {DAY, 1, 5, "x", NULL, 0, {1, 10, 2, 3, 4}},
        {DAY + HOUR + 59, a, 6, "", NULL, 0, {1, 100, 20, 30, 40}}, /* of the hour that it is
                                                                    in */
        {DAY + HOUR, a, 6, "x", NULL, 0, {2, 1, 1, 1, 1}},
        {2 * DAY, a, 7, "x", NULL, 0, {1, 1000, 200, 300, 400}},
        {2 * DAY, 99, 0, "y", NULL, 0, {1, 1, 1, 1, 1}},
    };
    expect_usage(&p, (struct usage_query){.limit = 9}, "0/0/0/:0,0,0,0,0 ", false);
    expect_usage(&p, (struct usage_query){.limit = 9, .group_by = USAGE_BY_HOUR}, "", false);
    EXPECT_EQ(store_add_usage(p.s, rows, 5, &p.err), 0);
    EXPECT_EQ(store_add_usage(p.s, rows, 2, &p.err), 0);
    expect_usage(&p, (struct usage_query){.limit = 9}, "0/0/0/:8,1222,246,368,490 ", false);
    expect_usage(&p, (struct usage_query){.limit = 9, .group_by = USAGE_BY_TENANT},
                 "0/1=default/0/:2,20,4,6,8 0/2=a/0/:5,1201,241,361,481 0/99/0/:1,1,1,1,1 ",
                 false);
    expect_usage(&p, (struct usage_query){.limit = 2, .group_by = USAGE_BY_ADAPTER},
                 "0/0/0/:2,200,40,60,80 0/0/0/x:5,1021,205,307,409 ", true);
    expect_usage(&p,
                 (struct usage_query){
                     .tenant = a, .limit = 9, .group_by = USAGE_BY_KEY | USAGE_BY_ADAPTER},
                 "0/0/6/:2,200,40,60,80 0/0/6/x:2,1,1,1,1 0/0/7/x:1,1000,200,300,400 ",
                 false);
    expect_usage(&p, (struct usage_query){.tenant = a, .limit = 9, .group_by = USAGE_BY_DAY},
                 "86400/0/0/:4,201,41,61,81 172800/0/0/:1,1000,200,300,400 ", false);
    expect_usage(&p, (struct usage_query){.limit = 9, .end = 2 * DAY, .group_by = USAGE_BY_HOUR},
                 "86400/0/0/:2,20,4,6,8 90000/0/0/:4,201,41,61,81 ", false);
    expect_usage(&p, (struct usage_query){.limit = 9, .start = DAY + HOUR, .end = 2 * DAY},
                 "0/0/0/:4,201,41,61,81 ", false);
    expect_usage(&p, (struct usage_query){.tenant = 1, .limit = 9, .start = DAY + 1},
                 "0/0/0/:0,0,0,0,0 ", false);
    close_place(&p);
}

TEST(store_usage_is_there_after_a_restart)
{
    struct place p;
    const struct usage_row row = {DAY, 1, 0, "", NULL, 0, {1, 2, 3, 4, 5}};
    ASSERT(open_place(&p));
    EXPECT_EQ(store_add_usage(p.s, &row, 1, &p.err), 0);
    store_close(p.s);
    p.s = stored_open(p.dir, 1, &p.err);
    ASSERT(p.s);
    EXPECT_EQ(store_add_usage(p.s, &row, 1, &p.err), 0);
    expect_usage(&p, (struct usage_query){.limit = 1, .group_by = USAGE_BY_TENANT},
                 "0/1=default/0/:2,4,6,8,10 ", false);
    close_place(&p);
}

/* Each page begins behind the last row of the one before, whatever came in between. */
TEST(store_usage_is_read_in_pages)
{
    struct place p;
    struct usage_row last = {2 * DAY, 2, 6, "", NULL, 0, {0}};
    struct usage_query q = {.limit = 2, .group_by = USAGE_BY_TENANT | USAGE_BY_KEY |
                                                    USAGE_BY_ADAPTER | USAGE_BY_DAY};
    ASSERT(open_place(&p));
    int64_t a = stored_tenant(p.s, "a");
    const struct usage_row rows[] = {
        {2 * DAY, 1, 5, "x", NULL, 0, {1, 0, 0, 0, 0}},
        {2 * DAY, a, 6, "", NULL, 0, {1, 0, 0, 0, 0}},
        {2 * DAY, a, 6, "a", NULL, 0, {1, 0, 0, 0, 0}},
        {2 * DAY + HOUR, a, 6, "a", NULL, 0, {1, 0, 0, 0, 0}},
        {3 * DAY, 1, 5, "", NULL, 0, {1, 0, 0, 0, 0}},
        {DAY, 1, 5, "late", NULL, 0, {1, 0, 0, 0, 0}},
    };
    EXPECT_EQ(store_add_usage(p.s, rows, 5, &p.err), 0);
    expect_usage(&p, q, "172800/1=default/5/x:1,0,0,0,0 172800/2=a/6/:1,0,0,0,0 ", true);
    EXPECT_EQ(store_add_usage(p.s, &rows[5], 1, &p.err), 0);
    q.after = &last;
    expect_usage(&p, q, "172800/2=a/6/a:2,0,0,0,0 259200/1=default/5/:1,0,0,0,0 ", false);
    q.start = 2 * DAY + HOUR; /* of a day that is asked for in part */
    expect_usage(&p, q, "172800/2=a/6/a:1,0,0,0,0 259200/1=default/5/:1,0,0,0,0 ", false);
    last = (struct usage_row){3 * DAY, 1, 5, "", NULL, 0, {0}};
    expect_usage(&p, q, "", false);
    close_place(&p);
}

static void note_removed(void *ud, const struct usage_row *r)
{
    buf_printf(ud, "%lld=%s%s ", (long long)r->tenant, r->tenant_name,
               r->removed ? "-" : "");
}

TEST(store_usage_keeps_the_names_of_former_tenants)
{
    struct place p;
    struct buf seen = {0};
    int64_t id = 0;
    ASSERT(open_place(&p));
    EXPECT_EQ(store_find_former_tenant(p.s, "a", &id, &p.err), -1);
    EXPECT_EQ(p.err.code, ERR_NOT_FOUND);
    for (int i = 0; i < 3; i++) {
        const struct usage_row row = {.hour = DAY, .tenant = stored_tenant(p.s, "a")};
        EXPECT_EQ(store_add_usage(p.s, &row, 1, &p.err), 0);
        if (i < 2)
            EXPECT_EQ(store_remove_tenant(p.s, "a", &p.err), 0);
    }
    EXPECT_EQ(store_find_former_tenant(p.s, "a", &id, &p.err), 0);
    EXPECT_EQ(id, 3);
    EXPECT_EQ(store_find_former_tenant(p.s, "default", &id, &p.err), -1);
    const struct usage_query q = {.group_by = USAGE_BY_TENANT, .limit = 9};
    EXPECT_EQ(store_each_usage(p.s, &q, NULL, note_removed, &seen, &p.err), 0);
    EXPECT_STR(seen.data, "2=a- 3=a- 4=a ");
    buf_free(&seen);
    close_place(&p);
}
