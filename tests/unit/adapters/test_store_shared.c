/* store: names of many tenants, public ones, flags, limits, and what is told of them. */
#include "adapters/store.h"

#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "core/base/buf.h"
#include "tests/support/adapter_files.h"
#include "tests/test.h"
#include "tests/unit/adapters/stored.h"

struct two { /* tenants of one store */
    char *dir;
    struct store *s;
    int64_t one, other;
    struct err err;
};

static bool open_two(struct two *t)
{
    *t = (struct two){.dir = adapter_files_tmp_dir(), .one = STORE_DEFAULT_TENANT};
    t->s = stored_open(t->dir, 3, &t->err);
    if (t->s)
        t->other = stored_tenant(t->s, "other");
    return t->s != NULL;
}

static void close_two(struct two *t)
{
    store_close(t->s);
    adapter_files_remove_dir(t->dir);
    free(t->dir);
}

static void note(void *ud, const struct store_entry *e)
{
    buf_printf(ud, "%lld:%s:%.1s%s%s%s ", (long long)e->tenant, e->name,
               e->version[0] ? e->version : "-", e->is_public ? "+" : "",
               e->is_pinned ? "!" : "", e->is_from_folder ? "f" : "");
}

static void expect_found(struct two *t, int64_t tenant, int name, const char *expected)
{
    struct buf seen = {0};
    buf_add_str(&seen, "");
    int rc = store_find(t->s, tenant, stored_name(name), note, &seen, &t->err);
    EXPECT_STR(seen.data, expected);
    EXPECT_EQ(rc, expected[0] != '\0');
    buf_free(&seen);
}

static void expect_list(struct two *t, int64_t tenant, const char *after, size_t limit,
                        const char *expected, bool more)
{
    struct buf seen = {0};
    bool has_more = !more;
    buf_add_str(&seen, "");
    EXPECT_EQ(store_each(t->s, tenant, after, limit, &has_more, note, &seen, &t->err), 0);
    EXPECT_STR(seen.data, expected);
    EXPECT_EQ(has_more, more);
    buf_free(&seen);
}

static int publish(struct two *t, int64_t tenant, int name, int is_public)
{
    return store_set_flags(t->s, tenant, stored_name(name), is_public, -1, &t->err);
}

TEST(store_gives_each_tenant_names_of_his_own)
{
    struct two t;
    ASSERT(open_two(&t));
    EXPECT_EQ(t.other, 2);
    EXPECT_EQ(stored_put(t.s, t.one, 0, 0, &t.err), 0);
    expect_found(&t, t.other, 0, "");
    EXPECT_EQ(stored_put(t.s, t.other, 0, 1, &t.err), 0);
    EXPECT_EQ(stored_put(t.s, t.other, 1, 0, &t.err),
              0); /* content that the first has, too */
    expect_found(&t, t.one, 0, "1:a:0 ");
    expect_found(&t, t.other, 0, "2:a:3 ");
    EXPECT_EQ(stored_count(t.dir, "blobs", false), 3);
    EXPECT_EQ(stored_delete(t.s, t.one, 1, false, &t.err), -1);
    EXPECT_EQ(t.err.code, ERR_ADAPTER_NOT_FOUND);
    EXPECT_EQ(stored_roll_back(t.s, t.one, 0, 1, &t.err), -1);
    EXPECT_EQ(stored_delete(t.s, t.other, 0, false, &t.err), 0);
    EXPECT_EQ(stored_delete(t.s, t.other, 1, false, &t.err), 0);
    EXPECT(stored_is_whole(t.s, t.one, 0) && !stored_is_whole(t.s, t.other, 0));
    EXPECT_EQ(stored_put(t.s, 77, 0, 0, &t.err), -1); /* nobody */
    EXPECT_EQ(t.err.code, ERR_NOT_FOUND);
    EXPECT_EQ(stored_count(t.dir, "blobs", false), 1);
    close_two(&t);
}

TEST(store_finds_an_own_name_or_a_public_one)
{
    struct two t;
    ASSERT(open_two(&t));
    EXPECT(stored_put(t.s, t.one, 0, 0, &t.err) == 0 && publish(&t, t.one, 0, 1) == 0);
    expect_found(&t, t.other, 0, "1:a:0+ ");
    EXPECT_EQ(stored_put(t.s, t.other, 0, 1, &t.err), 0);
    expect_found(&t, t.other, 0, "2:a:3 ");
    expect_found(&t, t.one, 0, "1:a:0+ ");
    EXPECT_EQ(publish(&t, t.other, 0, 1), -1);
    EXPECT_EQ(t.err.code, ERR_CONFLICT);
    EXPECT_EQ(stored_delete(t.s, t.other, 0, true, &t.err), 0); /* remembered is nothing */
    expect_found(&t, t.other, 0, "1:a:0+ ");
    EXPECT_EQ(publish(&t, t.other, 0, 1), -1);
    EXPECT_EQ(t.err.code, ERR_ADAPTER_NOT_FOUND);
    EXPECT_EQ(stored_put(t.s, t.one, 0, 2, &t.err), 0); /* another version stays public */
    expect_found(&t, t.other, 0, "1:a:6+ ");
    EXPECT_EQ(stored_delete(t.s, t.one, 0, true, &t.err), 0);
    expect_found(&t, t.other, 0, "");
    EXPECT_EQ(stored_put(t.s, t.one, 0, 2, &t.err), 0); /* and a new one is not */
    expect_found(&t, t.other, 0, "");
    expect_found(&t, t.one, 0, "1:a:6 ");
    close_two(&t);
}

TEST(store_flags_change_one_by_one)
{
    struct two t;
    ASSERT(open_two(&t));
    EXPECT_EQ(stored_put(t.s, t.one, 0, 0, &t.err), 0);
    EXPECT_EQ(store_set_flags(t.s, t.one, stored_name(0), -1, 1, &t.err), 0);
    expect_found(&t, t.one, 0, "1:a:0! ");
    EXPECT_EQ(store_set_flags(t.s, t.one, stored_name(0), 1, -1, &t.err), 0);
    expect_found(&t, t.one, 0, "1:a:0+! ");
    EXPECT_EQ(store_set_flags(t.s, t.one, stored_name(0), 0, 0, &t.err), 0);
    expect_found(&t, t.one, 0, "1:a:0 ");
    EXPECT_EQ(store_set_flags(t.s, t.other, stored_name(0), 0, 0, &t.err), -1);
    EXPECT_EQ(t.err.code, ERR_ADAPTER_NOT_FOUND);
    close_two(&t);
}

TEST(store_lists_pages_of_what_a_tenant_sees)
{
    struct two t;
    ASSERT(open_two(&t));
    for (int name = 0; name < 3; name++)
        EXPECT_EQ(stored_put(t.s, t.one, name, name, &t.err), 0);
    EXPECT(publish(&t, t.one, 0, 1) == 0 && publish(&t, t.one, 2, 1) == 0);
    EXPECT_EQ(stored_put(t.s, t.other, 2, 3, &t.err), 0);
    expect_list(&t, t.one, "", 10, "1:a:0+ 1:b.json:3 1:c-C_9:6+ ", false);
    expect_list(&t, t.one, "", 3, "1:a:0+ 1:b.json:3 1:c-C_9:6+ ", false);
    expect_list(&t, t.one, "", 2, "1:a:0+ 1:b.json:3 ", true);
    expect_list(&t, t.one, "b.json", 2, "1:c-C_9:6+ ", false);
    expect_list(&t, t.other, "", 10, "1:a:0+ 2:c-C_9:9 ", false);
    expect_list(&t, t.other, "a", 10, "2:c-C_9:9 ", false);
    EXPECT_EQ(stored_delete(t.s, t.other, 2, true, &t.err), 0);
    expect_list(&t, t.other, "", 1, "1:a:0+ ", true);
    expect_list(&t, t.other, "a", 1, "1:c-C_9:6+ ", false);
    struct buf all = {0};
    EXPECT_EQ(store_each_all(t.s, note, &all, &t.err), 0);
    EXPECT_STR(all.data, "1:a:0+ 1:b.json:3 1:c-C_9:6+ 2:c-C_9:- ");
    buf_free(&all);
    close_two(&t);
}

/* ---- what is told of a version ------------------------------------------------------- */

static void check_entry(void *ud, const struct store_entry *e)
{
    ++*(int *)ud;
    EXPECT_STR(e->kind, "K");
    EXPECT_STR(e->base_hint, "some/base");
    EXPECT(e->created == 1001 && e->n_tokens == 11 && e->n_tasks == 1 &&
           e->compile_ms == 1.5);
    EXPECT_EQ(e->bytes, STORED_BYTES + 2);
}

static void check_version(void *ud, const struct store_version *v)
{
    ++*(int *)ud;
    EXPECT_STR(v->kind, "K");
    EXPECT(v->created == 1001 && v->n_tokens == 11 && v->n_tasks == 1 && v->number == 2);
    EXPECT_EQ(v->bytes, STORED_BYTES + 2);
}

TEST(store_tells_what_a_version_is)
{
    char version[DIGEST_HEX + 1];
    int n = 0;
    struct two t;
    ASSERT(open_two(&t));
    EXPECT(stored_put(t.s, t.one, 0, 0, &t.err) == 0 &&
           stored_put(t.s, t.one, 0, 1, &t.err) == 0);
    EXPECT_EQ(store_find(t.s, t.one, "a", check_entry, &n, &t.err), 1);
    stored_version(1, version);
    EXPECT_EQ(store_find_version(t.s, t.one, "a", version, check_version, &n, &t.err), 1);
    EXPECT_EQ(n, 2);
    stored_version(2, version);
    EXPECT_EQ(store_find_version(t.s, t.one, "a", version, check_version, &n, &t.err), 0);
    stored_version(1, version);
    EXPECT_EQ(store_find_version(t.s, t.other, "a", version, check_version, &n, &t.err), 0);
    close_two(&t);
}

static void note_compiled(void *ud, const struct store_entry *e)
{
    buf_printf(ud, "%s %d %d %.1f %s", e->kind, e->n_tokens, e->n_tasks, e->compile_ms,
               e->base_hint ? e->base_hint : "-");
}

TEST(store_learns_what_compiling_told)
{
    const struct blob_file file = {"adapter.json", "{}", 2};
    char version[DIGEST_HEX + 1];
    struct buf seen = {0};
    struct two t;
    ASSERT(open_two(&t));
    stored_version(0, version);
    const struct store_entry e = {.tenant = t.one, .name = "a", .version = version};
    EXPECT_EQ(store_put(t.s, &e, &file, 1, NULL, NULL, &t.err), 0);
    EXPECT_EQ(store_find(t.s, t.one, "a", note_compiled, &seen, &t.err), 1);
    EXPECT_STR(seen.data, " 0 0 0.0 -");
    EXPECT_EQ(store_note_compiled(t.s, t.other, version, "X", 1, 1, 1, &t.err), 0);
    EXPECT_EQ(store_note_compiled(t.s, t.one, version, "LORA", 7, 2, 2.5, &t.err), 0);
    buf_clear(&seen);
    EXPECT_EQ(store_find(t.s, t.one, "a", note_compiled, &seen, &t.err), 1);
    EXPECT_STR(seen.data, "LORA 7 2 2.5 -");
    buf_free(&seen);
    close_two(&t);
}

static int ask(void *ud, const char *current, bool is_from_folder, struct err *err)
{
    (void)err;
    buf_printf(ud, "%.1s%s ", current ? current : "-", is_from_folder ? "f" : "");
    return 0;
}

/* A change by request takes the mark away, so that the folder leaves the name alone. */
TEST(store_marks_what_the_folder_brought)
{
    const struct blob_file file = {"adapter.json", "{}", 2};
    char version[DIGEST_HEX + 1];
    struct buf asked = {0};
    const struct store_condition only_if = {ask, &asked};
    struct two t;
    ASSERT(open_two(&t));
    stored_version(0, version);
    const struct store_entry e = {
        .tenant = t.one, .name = "a", .version = version, .is_from_folder = true};
    EXPECT_EQ(store_put(t.s, &e, &file, 1, &only_if, NULL, &t.err), 0);
    expect_found(&t, t.one, 0, "1:a:0f ");
    EXPECT_EQ(stored_put_if(t.s, t.one, 0, 1, &only_if, NULL, &t.err), 0);
    expect_found(&t, t.one, 0, "1:a:3 ");
    EXPECT_EQ(store_put(t.s, &e, &file, 1, &only_if, NULL, &t.err), 0);
    EXPECT_EQ(stored_roll_back(t.s, t.one, 0, 1, &t.err), 0);
    expect_found(&t, t.one, 0, "1:a:3 ");
    EXPECT_EQ(store_delete(t.s, t.one, "a", true, &only_if, &t.err), 0);
    EXPECT_EQ(stored_in(t.s, t.one, 0), STORED_DELETED);
    EXPECT_EQ(stored_put_if(t.s, t.one, 0, 1, &only_if, NULL, &t.err), 0);
    EXPECT_STR(asked.data, "- 0f 3 3  ");
    buf_free(&asked);
    close_two(&t);
}

/* What was PUT over one of the folder's is deleted for good, or the folder's would come
 * back. */
TEST(store_remembers_what_was_put_over_the_folder)
{
    const struct blob_file file = {"adapter.json", "{}", 2};
    char version[DIGEST_HEX + 1];
    struct two t;
    ASSERT(open_two(&t));
    stored_version(0, version);
    const struct store_entry e = {
        .tenant = t.one, .name = "a", .version = version, .is_from_folder = true};
    EXPECT_EQ(store_put(t.s, &e, &file, 1, NULL, NULL, &t.err), 0);
    for (int i = 0; i < 2; i++) {
        EXPECT_EQ(stored_put(t.s, t.one, 0, 1, &t.err), 0);
        expect_found(&t, t.one, 0, "1:a:3 ");
        EXPECT_EQ(stored_delete(t.s, t.one, 0, false, &t.err), 0);
        EXPECT_EQ(stored_in(t.s, t.one, 0), STORED_DELETED);
    }
    EXPECT_EQ(store_put(t.s, &e, &file, 1, NULL, NULL, &t.err), 0);
    EXPECT_EQ(stored_delete(t.s, t.one, 0, false, &t.err), 0); /* it went from the folder */
    EXPECT_EQ(stored_in(t.s, t.one, 0), STORED_NOTHING);
    close_two(&t);
}

/* ---- limits -------------------------------------------------------------------------- */

static int put_within(struct two *t, int64_t tenant, int name, int v, int64_t names,
                      int64_t blobs)
{
    const struct store_limits limits = {.max_adapters = names,
                                        .max_bytes = blobs * (STORED_BYTES + 2)};
    return stored_put_if(t->s, tenant, name, v, NULL, &limits, &t->err);
}

TEST(store_limits_names)
{
    struct two t;
    ASSERT(open_two(&t));
    EXPECT_EQ(put_within(&t, t.one, 0, 0, 2, 0), 0);
    EXPECT_EQ(put_within(&t, t.one, 1, 0, 2, 0), 0);
    EXPECT_EQ(put_within(&t, t.other, 0, 0, 1, 0), 0); /* everybody has his own */
    EXPECT_EQ(put_within(&t, t.one, 2, 1, 2, 0), -1);
    EXPECT_EQ(t.err.code, ERR_FORBIDDEN);
    EXPECT_STR(t.err.msg, "the limit of 2 adapters is reached: there are 2");
    EXPECT_EQ(stored_in(t.s, t.one, 2), STORED_NOTHING);
    EXPECT(!stored_is_whole(t.s, t.one, 1)); /* nothing of it stays */
    EXPECT_EQ(stored_count(t.dir, "blobs", false), 2);
    EXPECT_EQ(put_within(&t, t.one, 1, 1, 2, 0), 0); /* another version is no other name */
    EXPECT_EQ(put_within(&t, t.one, 1, 2, 1, 0),
              0); /* not even under a limit that came later */
    EXPECT_EQ(stored_delete(t.s, t.one, 0, true, &t.err), 0);
    EXPECT_EQ(put_within(&t, t.one, 2, 1, 2, 0), 0);
    EXPECT_EQ(put_within(&t, t.one, 0, 1, 2, 0),
              -1); /* what is remembered comes back as a new one */
    EXPECT_EQ(stored_in(t.s, t.one, 0), STORED_DELETED);
    close_two(&t);
}

TEST(store_limits_bytes_of_kept_versions)
{
    struct two t;
    ASSERT(open_two(&t)); /* which keeps 3 versions */
    EXPECT_EQ(put_within(&t, t.one, 0, 0, 0, 3), 0);
    EXPECT_EQ(put_within(&t, t.one, 1, 0, 0, 1), 0); /* equal content counts once */
    EXPECT_EQ(put_within(&t, t.one, 0, 1, 0, 3), 0);
    EXPECT_EQ(put_within(&t, t.one, 0, 2, 0, 3), 0);
    EXPECT_EQ(put_within(&t, t.other, 0, 3, 0, 1), 0);
    EXPECT_EQ(put_within(&t, t.one, 0, 3, 0, 3), -1);
    EXPECT_EQ(t.err.code, ERR_TOO_LARGE);
    EXPECT_STR(t.err.msg,
               "all kept versions together would be 160008 bytes, and the limit is 120006");
    EXPECT(stored_in(t.s, t.one, 0) == 2 && !stored_is_whole(t.s, t.one, 3));
    EXPECT_EQ(stored_delete(t.s, t.one, 1, false, &t.err), 0); /* now 0 goes by trimming */
    EXPECT_EQ(put_within(&t, t.one, 0, 3, 0, 3), 0);
    EXPECT_EQ(put_within(&t, t.one, 0, 3, 0, 1), 0); /* nothing changes */
    close_two(&t);
}

/* What a put would be refused for is told without one; a check changes nothing. */
static int check_within(struct two *t, int64_t tenant, int name, int v, int64_t names,
                        int64_t blobs)
{
    char version[DIGEST_HEX + 1];
    stored_version(v, version);
    const struct store_entry e = {.tenant = tenant,
                                  .name = stored_name(name),
                                  .version = version,
                                  .bytes = STORED_BYTES + 2};
    const struct store_limits limits = {.max_adapters = names,
                                        .max_bytes = blobs * (STORED_BYTES + 2)};
    t->err = (struct err){0};
    return store_check_put(t->s, &e, NULL, &limits, &t->err);
}

TEST(store_check_puts_before_they_cost_anything)
{
    struct two t;
    ASSERT(open_two(&t)); /* which keeps 3 versions */
    for (int v = 0; v < 3; v++) {
        EXPECT_EQ(check_within(&t, t.one, 0, v, 1, v + 1), 0);
        EXPECT_EQ(check_within(&t, t.one, 0, v, 1, v + 1), 0); /* nothing was done */
        EXPECT_EQ(put_within(&t, t.one, 0, v, 1, v + 1), 0);
    }
    EXPECT_EQ(check_within(&t, t.one, 1, 0, 1, 0), -1);
    EXPECT_EQ(t.err.code, ERR_FORBIDDEN);
    EXPECT_STR(t.err.msg, "the limit of 1 adapters is reached: there are 1");
    EXPECT_EQ(check_within(&t, t.one, 1, 3, 0, 3), -1);
    EXPECT_EQ(t.err.code, ERR_TOO_LARGE);
    EXPECT_STR(t.err.msg,
               "all kept versions together would be 160008 bytes, and the limit is 120006");
    EXPECT_EQ(check_within(&t, t.one, 0, 3, 1, 3), 0); /* the oldest goes for it */
    EXPECT_EQ(check_within(&t, t.one, 1, 2, 2, 3), 0); /* equal content counts once */
    EXPECT_EQ(check_within(&t, t.one, 0, 2, 1, 1), 0); /* what it has already */
    EXPECT_EQ(check_within(&t, t.other, 0, 2, 1, 1), 0);
    EXPECT_EQ(check_within(&t, 99, 0, 0, 0, 0), -1);
    EXPECT_EQ(t.err.code, ERR_NOT_FOUND);
    EXPECT(stored_in(t.s, t.one, 0) == 2 && stored_in(t.s, t.one, 1) == STORED_NOTHING);
    EXPECT_EQ(stored_in(t.s, t.other, 0), STORED_NOTHING);
    EXPECT_EQ(stored_count(t.dir, "blobs", false), 3);
    EXPECT(stored_is_whole(t.s, t.one, 0) && stored_is_whole(t.s, t.one, 2));
    close_two(&t);
}

/* ---- compiled files ------------------------------------------------------------------ */

static void make_compiled(const char *dir, int64_t tenant, int v, const char *rest)
{
    char name[200], version[DIGEST_HEX + 1], path[512];
    stored_version(v, version);
    snprintf(path, sizeof path, "%s/compiled", dir);
    if (access(path, F_OK) != 0)
        adapter_files_make_dir(dir, "compiled");
    snprintf(name, sizeof name, "%lld-%s%s", (long long)tenant, version, rest);
    adapter_files_write(path, name, "x", 1);
}

static bool has_compiled(const char *dir, int64_t tenant, int v, const char *rest)
{
    char path[512], version[DIGEST_HEX + 1];
    stored_version(v, version);
    snprintf(path, sizeof path, "%s/compiled/%lld-%s%s", dir, (long long)tenant, version,
             rest);
    return access(path, F_OK) == 0;
}

TEST(store_compiled_files_go_with_their_blob)
{
    struct two t;
    ASSERT(open_two(&t));
    EXPECT_EQ(stored_put(t.s, t.one, 0, 0, &t.err), 0);
    EXPECT_EQ(stored_put(t.s, t.one, 1, 1, &t.err), 0);
    make_compiled(t.dir, t.one, 0, "-m-f32");
    make_compiled(t.dir, t.one, 0, "-n-f16");
    make_compiled(t.dir, t.one, 1, "-m-f32");
    make_compiled(t.dir, t.other, 0, "-m-f32");
    for (int v = 1; v < 4; v++)
        EXPECT_EQ(stored_put(t.s, t.one, 0, v, &t.err), 0); /* drops the first */
    EXPECT(has_compiled(t.dir, t.one, 0, "-m-f32"));
    EXPECT_EQ(stored_put(t.s, t.one, 0, 0, &t.err), 0); /* wanted again: it stays */
    EXPECT(has_compiled(t.dir, t.one, 0, "-m-f32"));
    EXPECT_EQ(stored_delete(t.s, t.one, 0, false, &t.err), 0);
    EXPECT(!has_compiled(t.dir, t.one, 0, "-m-f32") &&
           !has_compiled(t.dir, t.one, 0, "-n-f16"));
    EXPECT(has_compiled(t.dir, t.one, 1, "-m-f32") &&
           has_compiled(t.dir, t.other, 0, "-m-f32"));
    adapter_files_write(t.dir, "compiled/.new-1-x", "x", 1);
    make_compiled(t.dir, t.one, 1, "");
    store_close(t.s);
    t.s = stored_open(t.dir, 3, &t.err); /* sweeps: of the second nothing is a version */
    ASSERT(t.s);
    EXPECT(has_compiled(t.dir, t.one, 1, "-m-f32") &&
           stored_count(t.dir, "compiled", false) == 1);
    close_two(&t);
}
