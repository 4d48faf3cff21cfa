/* store: what the adapters folder has of a name and is refused. */
#include "adapters/store.h"

#include <stdlib.h>
#include <string.h>

#include "core/base/buf.h"
#include "tests/support/adapter_files.h"
#include "tests/test.h"
#include "tests/unit/adapters/stored.h"

struct world {
    char *dir;
    struct store *s;
    int64_t other; /* another tenant */
};

static bool open_world(struct world *w)
{
    struct err err = {0};
    w->dir = adapter_files_tmp_dir();
    w->s = stored_open(w->dir, 3, &err);
    if (!w->s)
        return false;
    w->other = stored_tenant(w->s, "other");
    return true;
}

static void close_world(struct world *w)
{
    store_close(w->s);
    adapter_files_remove_dir(w->dir);
    free(w->dir);
}

static int refuse(struct world *w, int name, const char *why, int64_t until)
{
    return store_note_refusal(w->s, 1, stored_name(name), why, until, NULL);
}

static int put_from_folder(struct world *w, int name, int v)
{
    char digest[DIGEST_HEX + 1], *weights = stored_weights(v);
    const struct blob_file file = {"adapter_model.safetensors", weights, STORED_BYTES};
    stored_version(v, digest);
    const struct store_entry e = {.tenant = 1,
                                  .name = stored_name(name),
                                  .version = digest,
                                  .bytes = STORED_BYTES,
                                  .is_from_folder = true};
    int rc = store_put(w->s, &e, &file, 1, NULL, NULL, NULL);
    free(weights);
    return rc;
}

static void describe(void *ud, const struct store_entry *e)
{
    buf_printf(ud, "%s%s", e->version[0] ? "used" : "", e->is_from_folder ? " folder" : "");
    if (e->refused)
        buf_printf(ud, " %s %lld", e->refused, (long long)e->refused_until);
}

/* What the tenant finds under the name; and that the list says the same. */
static void expect_found(struct world *w, int64_t tenant, int name, const char *wanted)
{
    struct buf found = {0}, listed = {0};
    bool has_more;
    buf_add_str(&found, "");
    buf_add_str(&listed, "");
    store_find(w->s, tenant, stored_name(name), describe, &found, NULL);
    store_each(w->s, tenant, "", 100, &has_more, describe, &listed, NULL);
    EXPECT_STR(found.data ? found.data : "", wanted);
    EXPECT_STR(listed.data ? listed.data : "", wanted);
    buf_free(&found);
    buf_free(&listed);
}

TEST(store_refusals_make_a_name_known_to_its_tenant)
{
    struct world w;
    ASSERT(open_world(&w));
    EXPECT_EQ(refuse(&w, 0, "why", 7), 0);
    expect_found(&w, 1, 0, " folder why 7");
    expect_found(&w, w.other, 0, "");
    EXPECT_EQ(refuse(&w, 0, "again", 0), 0);
    expect_found(&w, 1, 0, " folder again 0");
    EXPECT_EQ(refuse(&w, 0, NULL, 0), 0);
    expect_found(&w, 1, 0, "");
    EXPECT_EQ(stored_sql(w.dir, "SELECT count(*) FROM adapters"), 0);
    EXPECT_EQ(store_note_refusal(w.s, 99, "a", "nobody's", 0, NULL), -1);
    close_world(&w);
}

TEST(store_refusals_change_nothing_that_is_in_use)
{
    struct world w;
    ASSERT(open_world(&w));
    EXPECT_EQ(put_from_folder(&w, 0, 1), 0);
    EXPECT_EQ(refuse(&w, 0, "why", 0), 0);
    expect_found(&w, 1, 0, "used folder why 0");
    EXPECT_EQ(refuse(&w, 0, NULL, 0), 0);
    expect_found(&w, 1, 0, "used folder");
    EXPECT_EQ(refuse(&w, 0, "why", 0), 0);
    EXPECT_EQ(put_from_folder(&w, 0, 2), 0);
    expect_found(&w, 1, 0, "used folder");
    close_world(&w);
}

/* Whoever else sees a public adapter is told nothing of its owner's files and limits. */
TEST(store_refusals_are_told_to_their_tenant_alone)
{
    struct world w;
    ASSERT(open_world(&w));
    EXPECT_EQ(put_from_folder(&w, 0, 1), 0);
    EXPECT_EQ(store_set_flags(w.s, 1, stored_name(0), 1, -1, NULL), 0);
    EXPECT_EQ(refuse(&w, 0, "why", 0), 0);
    expect_found(&w, 1, 0, "used folder why 0");
    expect_found(&w, w.other, 0, "used folder");
    close_world(&w);
}

TEST(store_refusals_that_pass_hide_no_public_adapter)
{
    struct world w;
    struct err err = {0};
    ASSERT(open_world(&w));
    EXPECT_EQ(stored_put(w.s, w.other, 0, 1, &err), 0);
    EXPECT_EQ(refuse(&w, 0, "full", 7), 0);
    expect_found(&w, 1, 0, " folder full 7");
    EXPECT_EQ(store_set_flags(w.s, w.other, stored_name(0), 1, -1, NULL), 0);
    expect_found(&w, 1, 0, "used");
    EXPECT_EQ(refuse(&w, 0, "broken", 0), 0);
    expect_found(&w, 1, 0, " folder broken 0");
    close_world(&w);
}

/* A request's word goes before the folder's, before and after. */
TEST(store_refusals_are_over_with_a_put_or_delete)
{
    struct world w;
    struct err err = {0};
    ASSERT(open_world(&w));
    EXPECT_EQ(refuse(&w, 0, "why", 0), 0);
    EXPECT_EQ(stored_put(w.s, 1, 0, 1, &err), 0);
    expect_found(&w, 1, 0, "used");
    EXPECT_EQ(refuse(&w, 0, "why", 0), 0);
    expect_found(&w, 1, 0, "used");
    EXPECT_EQ(stored_delete(w.s, 1, 0, false, &err), 0);
    EXPECT_EQ(refuse(&w, 0, "why", 0), 0);
    expect_found(&w, 1, 0, ""); /* the folder had it: it stays deleted */
    EXPECT_EQ(refuse(&w, 1, "why", 0), 0);
    EXPECT_EQ(stored_delete(w.s, 1, 1, true, &err), 0);
    EXPECT_EQ(stored_in(w.s, 1, 1), STORED_DELETED);
    EXPECT_EQ(refuse(&w, 1, "why", 0), 0);
    expect_found(&w, 1, 1, "");
    close_world(&w);
}

/* They are found again by whoever watches the folder, if anybody does. */
TEST(store_refusals_do_not_outlive_the_daemon)
{
    struct world w;
    struct err err = {0};
    ASSERT(open_world(&w));
    EXPECT_EQ(put_from_folder(&w, 0, 1), 0);
    EXPECT_EQ(refuse(&w, 0, "why", 0), 0);
    EXPECT_EQ(refuse(&w, 1, "why", 0), 0);
    store_close(w.s);
    w.s = stored_open(w.dir, 3, &err);
    ASSERT(w.s);
    expect_found(&w, 1, 0, "used folder");
    EXPECT_EQ(stored_sql(w.dir, "SELECT count(*) FROM adapters"), 1);
    close_world(&w);
}
