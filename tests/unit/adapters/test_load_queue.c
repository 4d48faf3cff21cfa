/* load_queue: tenants in turn, one load of each at a time, in order within a tenant. */
#include "adapters/load_queue.h"

#include <stdlib.h>

#include "core/base/buf.h"
#include "core/base/mem.h"
#include "tests/test.h"

static struct adapter_load *add(struct load_queue *q, int64_t tenant, const char *digest)
{
    struct adapter_load *l = xcalloc(1, sizeof *l);
    l->tenant = tenant;
    snprintf(l->digest, sizeof l->digest, "%s", digest);
    load_queue_add(q, l);
    return l;
}

/* Runs what may run, up to n, and says which. */
static int start(struct load_queue *q, struct adapter_load **out, int n, struct buf *said)
{
    int i = 0;
    struct adapter_load *l;
    for (; i < n && (l = load_queue_next(q)); i++) {
        out[i] = l;
        buf_printf(said, "%s ", l->digest);
    }
    return i;
}

TEST(load_queue_gives_tenants_their_turn)
{
    struct load_queue q = {0};
    struct buf said = {0};
    struct adapter_load *running[8];
    static const char *const loads[] = {"a1", "a2", "a3", "a4", "b1", "b2", "c1"};
    for (size_t i = 0; i < 7; i++)
        add(&q, loads[i][0], loads[i]);
    EXPECT_EQ(q.n, 7);
    int n;
    while ((n = start(&q, running, 8, &said)) > 0) {
        buf_add_str(&said, "| ");
        for (int i = 0; i < n; i++) {
            load_queue_done(&q, running[i]);
            free(running[i]);
        }
    }
    EXPECT_STR(said.data, "a1 b1 c1 | a2 b2 | a3 | a4 | ");
    EXPECT(q.n == 0 && !q.tenants && !q.first_turn);
    buf_clear(&said);

    /* One at a time: whoever had a turn stands behind the others, however many he brings. */
    for (size_t i = 0; i < 7; i++)
        add(&q, loads[i][0], loads[i]);
    while (start(&q, running, 1, &said) > 0) {
        load_queue_done(&q, running[0]);
        free(running[0]);
    }
    EXPECT_STR(said.data, "a1 b1 c1 a2 b2 a3 a4 ");
    buf_free(&said);
}

TEST(load_queue_finds_and_removes)
{
    struct load_queue q = {0};
    struct adapter_load *a = add(&q, 1, "a"), *b = add(&q, 1, "b"), *c = add(&q, 1, "c");
    struct adapter_load *d = add(&q, 2, "a");
    EXPECT(load_queue_find(&q, 1, "a") == a && load_queue_find(&q, 2, "a") == d);
    EXPECT(!load_queue_find(&q, 2, "b") && !load_queue_find(&q, 3, "a"));
    EXPECT_EQ(load_queue_length(&q, 1), 3);
    EXPECT(load_queue_next(&q) == a && load_queue_find(&q, 1, "a") == a);
    load_queue_remove(&q, d);
    EXPECT(load_queue_next(&q) == NULL && !load_queue_find(&q, 2, "a"));
    load_queue_remove(&q, c); /* the last: what comes next stands behind b */
    struct adapter_load *e = add(&q, 1, "e");
    load_queue_done(&q, a);
    EXPECT(load_queue_find(&q, 1, "a") == NULL);
    load_queue_remove(&q, b);
    EXPECT(load_queue_next(&q) == e && q.n == 1);
    load_queue_done(&q, e);
    EXPECT(q.n == 0 && !q.tenants);
    struct adapter_load *all[] = {a, b, c, d, e};
    for (int i = 0; i < 5; i++)
        free(all[i]);
}

/* Long ones leave room for short ones, which go before them; and lose nothing by it. */
TEST(load_queue_bounds_long_ones)
{
    struct load_queue q = {.max_long = 2};
    struct buf said = {0};
    struct adapter_load *running[4], *more[4];
    static const char *const loads[] = {"a-long", "b-long", "c-long", "c", "d"};
    for (size_t i = 0; i < 5; i++)
        add(&q, loads[i][0], loads[i])->is_long = loads[i][1] != '\0';
    EXPECT_EQ(start(&q, running, 4, &said), 3);
    EXPECT_STR(said.data, "a-long b-long d ");
    load_queue_done(&q, running[2]);
    EXPECT(!load_queue_next(&q));
    load_queue_done(&q, running[0]);
    EXPECT_EQ(start(&q, more, 4, &said), 1);
    EXPECT_STR(said.data, "a-long b-long d c-long ");
    load_queue_done(&q, running[1]);
    load_queue_done(&q, more[0]);
    EXPECT_EQ(start(&q, &running[3], 1, &said), 1);
    load_queue_done(&q, running[3]);
    EXPECT(q.n == 0 && q.n_long == 0 && !q.tenants);
    for (int i = 0; i < 4; i++)
        free(running[i]);
    free(more[0]);
    buf_free(&said);
}
