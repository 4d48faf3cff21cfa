/* Memory between the supervisor and its workers. */
#include "server/shared.h"

#include "adapters/adapters.h"
#include "core/base/check.h"
#include "server/metrics.h"
#include "server/quarantine.h"
#include "server/running.h"

#include <string.h>
#include <sys/mman.h>

void *shared_map(size_t size)
{
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(p != MAP_FAILED);
    return p;
}

void shared_unmap(void *p, size_t size)
{
    if (p)
        munmap(p, size);
}

void shared_open(struct shared *sh, int n_workers)
{
    sh->n_workers = n_workers;
    sh->running = running_new(n_workers);
    sh->metrics = metrics_slots_new(n_workers);
    sh->quarantine = quarantine_new();
    sh->adapters = shared_map(adapters_shared_size(n_workers));
}

void shared_close(struct shared *sh)
{
    running_free(sh->running, sh->n_workers);
    metrics_slots_free(sh->metrics);
    quarantine_free(sh->quarantine);
    shared_unmap(sh->adapters, adapters_shared_size(sh->n_workers));
    memset(sh, 0, sizeof *sh);
}

void shared_enter(struct shared *sh, int place)
{
    running_start(&sh->running[place]);
    metrics_enter(sh->metrics, place);
}

void shared_leave(struct shared *sh, int place)
{
    running_clear(&sh->running[place]);
    metrics_leave(sh->metrics, place);
}
