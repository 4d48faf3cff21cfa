/* progress: one line a second, from whichever thread. */
#include "core/model/progress.h"

#include <pthread.h>

#include "tests/test.h"

TEST(progress_is_due_once_a_second)
{
    struct progress p;
    progress_init(&p, 110, 5000);
    EXPECT(!progress_add(&p, 10, 5000));
    EXPECT(!progress_add(&p, 10, 5999)); /* what is done within a second needs no line */
    EXPECT(progress_add(&p, 10, 6000));
    EXPECT_EQ(progress_done(&p), 30);
    EXPECT(!progress_add(&p, 10, 6000));
    EXPECT(!progress_add(&p, 10, 6999));
    EXPECT(progress_add(&p, 10, 9500));
    EXPECT(!progress_add(&p, 10, 10499));
    EXPECT(progress_add(&p, 40, 10500));
    EXPECT_EQ(progress_done(&p), p.total);
}

enum { N_THREADS = 4, N_ADDS = 2000 };

struct worker {
    struct progress *p;
    int n_due;
};

static void *add_some(void *arg)
{
    struct worker *w = arg;
    for (int i = 0; i < N_ADDS; i++)
        w->n_due += progress_add(w->p, 1, i / 200 * 1000);
    return NULL;
}

TEST(progress_is_due_for_one_of_many_threads)
{
    struct progress p;
    struct worker workers[N_THREADS];
    pthread_t threads[N_THREADS];
    int n_due = 0;
    progress_init(&p, N_THREADS * N_ADDS, 0);
    for (int i = 0; i < N_THREADS; i++) {
        workers[i] = (struct worker){.p = &p};
        ASSERT(pthread_create(&threads[i], NULL, add_some, &workers[i]) == 0);
    }
    for (int i = 0; i < N_THREADS; i++) {
        pthread_join(threads[i], NULL);
        n_due += workers[i].n_due;
    }
    EXPECT_EQ(n_due, N_ADDS / 200 - 1);
    EXPECT_EQ(progress_done(&p), p.total);
}
