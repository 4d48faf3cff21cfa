/* Who asks, over a real registry that another process may change at any time. */
#include "server/tenants.h"

#include "core/base/check.h"
#include "server/auth.h"
#include "tests/test.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

struct bench {
    char dir[64];
    struct store *store, *other; /* the loop's, and that of a command beside it */
    struct auth *keys, *admin_keys;
    struct tenants *tenants;
};

static struct auth *keys_of(const char *text)
{
    char path[] = "/tmp/prefixd-keys-XXXXXX";
    struct err err = {0};
    int fd = mkstemp(path);
    CHECK(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
    close(fd);
    struct auth *a = auth_open("--api-key-file", path, &err);
    unlink(path);
    CHECK(a);
    return a;
}

static void open_bench(struct bench *b, const char *keys, const char *admin_keys,
                       bool is_loopback)
{
    struct err err = {0};
    memset(b, 0, sizeof *b);
    strcpy(b->dir, "/tmp/prefixd-tenants-XXXXXX");
    CHECK(mkdtemp(b->dir));
    b->store = store_open(&(struct store_opts){.dir = b->dir}, &err);
    b->other = store_open(&(struct store_opts){.dir = b->dir}, &err);
    CHECK(b->store && b->other);
    b->keys = keys ? keys_of(keys) : NULL;
    b->admin_keys = admin_keys ? keys_of(admin_keys) : NULL;
    b->tenants = tenants_new(&(struct tenants_opts){.store = b->store,
                                                    .keys = b->keys,
                                                    .admin_keys = b->admin_keys,
                                                    .is_loopback = is_loopback});
}

static void close_bench(struct bench *b)
{
    char command[128];
    tenants_free(b->tenants);
    auth_free(b->keys);
    auth_free(b->admin_keys);
    store_close(b->store);
    store_close(b->other);
    snprintf(command, sizeof command, "rm -rf '%s'", b->dir);
    CHECK(system(command) == 0);
}

/* ERR_NONE, or why not. */
static enum err_code ask(struct bench *b, const char *key, struct caller *who)
{
    char header[128];
    struct err err = {0};
    snprintf(header, sizeof header, "Bearer %s", key ? key : "");
    tenants_identify(b->tenants, key ? header : NULL, who, &err);
    return err.code;
}

static struct tenant_key add_key(struct bench *b, const char *tenant, enum key_scope scope,
                                 int64_t expires, char text[KEY_TEXT_MAX])
{
    struct tenant_key k;
    struct err err = {0};
    CHECK(store_add_key(b->other, tenant, scope, expires, text, &k, &err) == 0);
    return k;
}

static void add_tenant(struct bench *b, const char *name, int64_t weight)
{
    struct tenant t;
    struct err err = {0};
    CHECK(store_add_tenant(b->other, name, weight, NULL, &t, &err) == 0);
}

TEST(tenants_nobody_has_a_key)
{
    struct bench b;
    struct caller who;
    open_bench(&b, NULL, NULL, true);
    EXPECT_EQ(ask(&b, NULL, &who), ERR_NONE);
    EXPECT_EQ(who.tenant, STORE_DEFAULT_TENANT);
    EXPECT_STR(who.tenant_name, "default");
    EXPECT(who.scope == KEY_MANAGE && who.is_admin && !who.has_key);
    EXPECT_EQ(who.weight, 1);
    EXPECT_EQ(who.limits.requests_per_minute, 600000);
    EXPECT_EQ(ask(&b, "whatever", &who), ERR_NONE);
    close_bench(&b);
}

/* The last key's going opens nothing, wherever the request comes from. */
TEST(tenants_the_last_key_revoked_opens_nothing)
{
    struct bench b;
    struct caller who;
    char text[KEY_TEXT_MAX];
    struct err err = {0};
    open_bench(&b, NULL, NULL, true);
    struct tenant_key k = add_key(&b, NULL, KEY_ADMIN, 0, text);
    EXPECT_EQ(store_revoke_key(b.other, k.id, &err), 0);
    EXPECT_EQ(ask(&b, text, &who), ERR_UNAUTHORIZED);
    EXPECT_EQ(ask(&b, NULL, &who), ERR_UNAUTHORIZED);
    close_bench(&b);
}

TEST(tenants_from_elsewhere_need_a_key)
{
    struct bench b;
    struct caller who;
    open_bench(&b, NULL, NULL, false);
    EXPECT_EQ(ask(&b, NULL, &who), ERR_UNAUTHORIZED);
    tenants_free(b.tenants);
    b.tenants = tenants_new(&(struct tenants_opts){.store = b.store, .allows_open = true});
    EXPECT_EQ(ask(&b, NULL, &who), ERR_NONE);
    EXPECT(!who.is_admin && who.scope == KEY_MANAGE);
    close_bench(&b);
}

TEST(tenants_of_key_files)
{
    struct bench b;
    struct caller who;
    open_bench(&b, "one\ntwo\n", "boss\n", true);
    EXPECT_EQ(ask(&b, NULL, &who), ERR_UNAUTHORIZED);
    EXPECT_EQ(ask(&b, "", &who), ERR_UNAUTHORIZED);
    EXPECT_EQ(ask(&b, "on", &who), ERR_UNAUTHORIZED);
    EXPECT_EQ(ask(&b, "two", &who), ERR_NONE);
    EXPECT(who.tenant == STORE_DEFAULT_TENANT && who.scope == KEY_MANAGE);
    EXPECT(!who.is_admin && who.has_key && who.key == 0);
    EXPECT_EQ(ask(&b, "boss", &who), ERR_NONE);
    EXPECT(who.tenant == STORE_DEFAULT_TENANT && who.scope == KEY_ADMIN && who.is_admin);
    close_bench(&b);
}

TEST(tenants_of_stored_keys)
{
    struct bench b;
    struct caller who;
    struct err err = {0};
    char manage[KEY_TEXT_MAX], infer[KEY_TEXT_MAX], admin[KEY_TEXT_MAX];
    open_bench(&b, NULL, NULL, true);
    add_tenant(&b, "acme", 3);
    EXPECT_EQ(ask(&b, NULL, &who), ERR_NONE);
    struct tenant_key k = add_key(&b, "acme", KEY_INFER, 0, infer);
    EXPECT_EQ(ask(&b, NULL, &who), ERR_UNAUTHORIZED); /* at once */
    add_key(&b, "acme", KEY_MANAGE, 0, manage);
    add_key(&b, NULL, KEY_ADMIN, 0, admin);
    EXPECT_EQ(ask(&b, infer, &who), ERR_NONE);
    EXPECT_STR(who.tenant_name, "acme");
    EXPECT(who.scope == KEY_INFER && who.key == k.id && who.weight == 3 && !who.is_admin);
    EXPECT_EQ(ask(&b, manage, &who), ERR_NONE);
    EXPECT_EQ(who.scope, KEY_MANAGE);
    EXPECT_EQ(ask(&b, admin, &who), ERR_NONE);
    EXPECT(who.is_admin && who.tenant == STORE_DEFAULT_TENANT);
    EXPECT_EQ(store_revoke_key(b.other, k.id, &err), 0);
    EXPECT_EQ(ask(&b, infer, &who), ERR_UNAUTHORIZED);
    EXPECT_EQ(ask(&b, manage, &who), ERR_NONE);
    EXPECT_EQ(store_remove_tenant(b.other, "acme", &err), 0);
    EXPECT_EQ(ask(&b, manage, &who), ERR_UNAUTHORIZED);
    close_bench(&b);
}

/* With his tenant the only key there ever was is gone, and still nobody comes in. */
TEST(tenants_stay_closed_once_there_was_a_key)
{
    struct bench b;
    struct caller who;
    struct err err = {0};
    char text[KEY_TEXT_MAX];
    bool has_key = false;
    open_bench(&b, NULL, NULL, true);
    add_tenant(&b, "acme", 1);
    EXPECT_EQ(ask(&b, NULL, &who), ERR_NONE);
    add_key(&b, "acme", KEY_MANAGE, 0, text);
    EXPECT_EQ(ask(&b, NULL, &who), ERR_UNAUTHORIZED);
    EXPECT_EQ(store_remove_tenant(b.other, "acme", &err), 0);
    EXPECT_EQ(ask(&b, NULL, &who), ERR_UNAUTHORIZED);
    EXPECT_EQ(ask(&b, text, &who), ERR_UNAUTHORIZED);
    EXPECT_EQ(tenants_has_key(b.dir, &has_key, &err), 0);
    EXPECT(has_key);
    add_key(&b, NULL, KEY_ADMIN, 0, text);
    EXPECT_EQ(ask(&b, text, &who), ERR_NONE);
    close_bench(&b);
}

TEST(tenants_keys_expire)
{
    struct bench b;
    struct caller who;
    char soon[KEY_TEXT_MAX], later[KEY_TEXT_MAX];
    int64_t now = (int64_t)time(NULL);
    open_bench(&b, NULL, NULL, true);
    add_key(&b, "default", KEY_MANAGE, now - 1, soon);
    add_key(&b, "default", KEY_MANAGE, now + 3600, later);
    EXPECT_EQ(ask(&b, soon, &who), ERR_UNAUTHORIZED);
    EXPECT_EQ(ask(&b, later, &who), ERR_NONE);
    close_bench(&b);
}

TEST(tenants_are_suspended_and_resumed)
{
    struct bench b;
    struct caller who;
    struct tenant t;
    struct err err = {0};
    char text[KEY_TEXT_MAX], admin[KEY_TEXT_MAX];
    open_bench(&b, NULL, NULL, true);
    add_tenant(&b, "acme", 1);
    add_key(&b, "acme", KEY_MANAGE, 0, text);
    add_key(&b, NULL, KEY_ADMIN, 0, admin);
    EXPECT_EQ(ask(&b, text, &who), ERR_NONE);
    EXPECT_EQ(store_suspend_tenant(b.other, "acme", true, &t, &err), 0);
    EXPECT_EQ(ask(&b, text, &who), ERR_SUSPENDED);
    EXPECT_EQ(store_suspend_tenant(b.other, "acme", false, &t, &err), 0);
    EXPECT_EQ(ask(&b, text, &who), ERR_NONE);
    EXPECT_EQ(store_suspend_tenant(b.other, "default", true, &t, &err), 0);
    EXPECT_EQ(ask(&b, admin, &who), ERR_NONE); /* or nobody could resume it */
    EXPECT_EQ(ask(&b, text, &who), ERR_NONE);
    close_bench(&b);
}

TEST(tenants_administrators_act_as_others)
{
    struct bench b;
    struct caller who;
    struct err err = {0};
    open_bench(&b, "mine\n", "boss\n", true);
    add_tenant(&b, "acme", 5);
    EXPECT_EQ(ask(&b, "boss", &who), ERR_NONE);
    EXPECT_EQ(tenants_act_as(b.tenants, &who, "nobody", &err), -1);
    EXPECT_EQ(err.code, ERR_NOT_FOUND);
    EXPECT_EQ(tenants_act_as(b.tenants, &who, "acme", &err), 0);
    EXPECT_STR(who.tenant_name, "acme");
    EXPECT(who.weight == 5 && who.is_admin && who.scope == KEY_ADMIN);
    EXPECT_EQ(ask(&b, "mine", &who), ERR_NONE);
    EXPECT_EQ(tenants_act_as(b.tenants, &who, "acme", &err), -1);
    EXPECT_EQ(err.code, ERR_FORBIDDEN);
    EXPECT_EQ(who.tenant, STORE_DEFAULT_TENANT);
    close_bench(&b);
}

TEST(tenants_keys_of_a_folder)
{
    struct bench b;
    struct err err = {0};
    char text[KEY_TEXT_MAX];
    bool has_key = true;
    open_bench(&b, NULL, NULL, true);
    EXPECT_EQ(tenants_has_key(b.dir, &has_key, &err), 0);
    EXPECT(!has_key);
    add_key(&b, "default", KEY_INFER, 0, text);
    EXPECT_EQ(tenants_has_key(b.dir, &has_key, &err), 0);
    EXPECT(has_key);
    close_bench(&b);
}
