/* watch_list: what differs between two scans, when it is due, and what is done but once. */
#include "server/watch_list.h"

#include "core/base/buf.h"
#include "core/base/mem.h"
#include "tests/test.h"

#include <stdlib.h>

enum { SECOND_US = 1000000 };

#define DAY_NS (86400LL * 1000000000)

/* Each word of spec is tenant/name:stamp, in order; "acme/:1" is a tenant's folder. Changed
 * long ago by the disk's clock unless the stamp is odd, which is now. */
static void make_scan(struct folder *f, const char *spec, int64_t unix_ns)
{
    char *words = xstrdup(spec), *rest = words, *word;
    *f = (struct folder){0};
    f->entries = xcalloc(16, sizeof *f->entries);
    while ((word = strsep(&rest, " "))) {
        struct folder_entry *e = &f->entries[f->n];
        char *name = strchr(word, '/');
        if (!name)
            continue;
        char *stamp = strchr(name, ':');
        *name++ = '\0';
        *stamp++ = '\0';
        e->tenant = xstrdup(word);
        e->name = xstrdup(name);
        e->path = xstrdup(name);
        e->kind = name[0] ? FOLDER_PEFT : FOLDER_TENANT;
        e->files[0].size = atoi(stamp);
        e->changed_ns = e->files[0].size % 2 ? unix_ns : unix_ns - DAY_NS;
        f->n++;
    }
    free(words);
}

static void scan(struct watch_list *l, struct watch_when *when, int ms, const char *spec)
{
    struct folder f;
    when->now_us += ms * 1000;
    when->unix_ns += ms * 1000000LL;
    make_scan(&f, spec, when->unix_ns);
    watch_list_merge(l, &f, when);
    EXPECT_EQ(f.n, 0);
}

/* The names that are due, and those that went; all that are due are settled then. */
static void expect(struct watch_list *l, const struct watch_when *when, const char *due,
                   const char *gone)
{
    struct buf seen = {0};
    buf_add_str(&seen, "");
    for (size_t i = 0; i < l->folder.n; i += watch_list_group(l, i)) {
        if (!watch_list_is_due(l, i, when->now_us))
            continue;
        buf_printf(&seen, "%s/%s ", l->folder.entries[i].tenant, l->folder.entries[i].name);
        watch_list_settle(l, i);
    }
    EXPECT_STR(seen.len ? seen.data : "", due);
    buf_clear(&seen);
    for (size_t i = 0; i < l->n_gone; i++)
        buf_printf(&seen, "%s/%s ", l->gone[i].tenant, l->gone[i].name);
    while (l->n_gone)
        watch_list_drop_gone(l, 0);
    EXPECT_STR(seen.len ? seen.data : "", gone);
    buf_free(&seen);
}

TEST(watch_list_tells_new_changed_and_gone)
{
    struct watch_list l = {0};
    struct watch_when now = {.now_us = SECOND_US, .unix_ns = DAY_NS * 20000};
    scan(&l, &now, 0, "a/x:2 a/y:2 b/:2 b/x:2");
    expect(&l, &now, "a/x a/y b/ b/x ", "");
    scan(&l, &now, 10, "a/x:2 a/y:2 b/:2 b/x:2");
    expect(&l, &now, "", "");
    scan(&l, &now, 10, "a/x:4 a/z:2 b/:2 b/x:2");
    expect(&l, &now, "a/x a/z ", "a/y ");
    scan(&l, &now, 10, "");
    expect(&l, &now, "", "a/x a/z b/x "); /* a tenant's folder is no adapter */
    scan(&l, &now, 10, "");
    expect(&l, &now, "", "");
    watch_list_fini(&l);
}

TEST(watch_list_waits_until_it_is_quiet)
{
    struct watch_list l = {0};
    struct watch_when now = {.now_us = SECOND_US, .unix_ns = DAY_NS * 20000};
    scan(&l, &now, 0, "a/x:1 a/y:2");
    expect(&l, &now, "a/y ", "");
    scan(&l, &now, 400, "a/x:3 a/y:2"); /* still written to */
    expect(&l, &now, "", "");
    scan(&l, &now, 400, "a/x:3 a/y:2");
    expect(&l, &now, "", "");
    scan(&l, &now, 100, "a/x:3 a/y:2"); /* by our clock, whatever the disk's says */
    expect(&l, &now, "a/x ", "");
    now.is_boot = true;
    scan(&l, &now, 0, "a/x:5");
    expect(&l, &now, "a/x ", "a/y ");
    watch_list_fini(&l);
}

TEST(watch_list_looks_at_a_name_as_one)
{
    struct watch_list l = {0};
    struct watch_when now = {.now_us = SECOND_US, .unix_ns = DAY_NS * 20000};
    scan(&l, &now, 0, "a/x:2 a/x:4 a/y:2");
    EXPECT_EQ(watch_list_group(&l, 0), 2);
    expect(&l, &now, "a/x a/y ", "");
    scan(&l, &now, 1, "a/x:2 a/x:6 a/y:2"); /* the second alone */
    expect(&l, &now, "a/x ", "");
    scan(&l, &now, 1, "a/x:6 a/y:2"); /* one went, the name did not */
    expect(&l, &now, "a/x ", "");
    scan(&l, &now, 1, "a/x:6 a/x:8 a/y:2");
    expect(&l, &now, "a/x ", "");
    watch_list_fini(&l);
}

TEST(watch_list_keeps_what_a_partial_scan_does_not_see)
{
    struct watch_list l = {0};
    struct watch_when now = {.now_us = SECOND_US, .unix_ns = DAY_NS * 20000};
    struct folder f;
    scan(&l, &now, 0, "a/x:2 b/x:2 c/x:2");
    expect(&l, &now, "a/x b/x c/x ", "");
    make_scan(&f, "b/x:4 d/x:2", now.unix_ns);
    f.is_partial = true;
    watch_list_merge(&l, &f, &now);
    EXPECT(l.folder.is_partial);
    EXPECT(watch_list_has(&l, "a", "x") && watch_list_has(&l, "c", "x"));
    expect(&l, &now, "b/x d/x ", "");
    scan(&l, &now, 1, "b/x:4 c/x:2 d/x:2");
    expect(&l, &now, "", "a/x ");
    watch_list_fini(&l);
}

TEST(watch_list_forgets_that_it_went_when_it_comes_again)
{
    struct watch_list l = {0};
    struct watch_when now = {.now_us = SECOND_US, .unix_ns = DAY_NS * 20000};
    watch_list_add_gone(&l, "a", "x"); /* of the registry */
    watch_list_add_gone(&l, "a", "y");
    scan(&l, &now, 0, "a/x:2");
    EXPECT_EQ(l.n_gone, 1);
    expect(&l, &now, "a/x ", "a/y ");
    scan(&l, &now, 1, "");
    EXPECT_EQ(l.n_gone, 1);
    scan(&l, &now, 1, "a/x:2"); /* before anything was done about it */
    expect(&l, &now, "a/x ", "");
    watch_list_fini(&l);
}

TEST(watch_list_postpones_and_begins_again_for_another_tenant)
{
    struct watch_list l = {0};
    struct watch_when now = {.now_us = SECOND_US, .unix_ns = DAY_NS * 20000};
    scan(&l, &now, 0, "a/x:2");
    watch_list_tenant(&l, 0, 7);
    watch_list_postpone(&l, 0, now.now_us + 5 * SECOND_US);
    EXPECT_EQ(l.marks[0].n_tries, 1);
    scan(&l, &now, 4000, "a/x:2");
    expect(&l, &now, "", "");
    scan(&l, &now, 1000, "a/x:2");
    expect(&l, &now, "a/x ", "");
    watch_list_tenant(&l, 0, 7);
    expect(&l, &now, "", "");
    watch_list_tenant(&l, 0, 9); /* removed and added again, with nothing */
    EXPECT_EQ(l.marks[0].n_tries, 0);
    expect(&l, &now, "a/x ", "");
    watch_list_postpone(&l, 0, now.now_us + 5 * SECOND_US);
    scan(&l, &now, 1, "a/x:4"); /* changed: at once */
    expect(&l, &now, "a/x ", "");
    watch_list_fini(&l);
}
