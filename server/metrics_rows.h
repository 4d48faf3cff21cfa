/* Whose the rows of the metrics are, in all workers' slots: a tenant's, or a tenant's for
 * one of his adapters.
 *
 * Thread: any, of any process. Finding a row takes no lock; taking and freeing one takes a
 * robust one. A row is its tenant's until metrics_rows_forget finds him gone, and may be
 * another's then: what is counted in it has to be kept with its key.
 *
 *     int i = metrics_rows_tenant(rows, id, "acme", &key);    METRICS_TENANTS: none is left
 *
 * Of the rows of adapters METRICS_OWN are kept for each tenant. Of those beyond, a tenant
 * takes one as long as he has fewer of them than are free: who comes first with more
 * adapters than there are rows gets half of them, the next half of the rest, and nobody
 * gets all.
 */
#ifndef PREFIXD_METRICS_ROWS_H
#define PREFIXD_METRICS_ROWS_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

enum {
    METRICS_TENANTS = 200,   /* that have rows of their own; all others share one */
    METRICS_ADAPTERS = 2000, /* the same, of pairs of tenant and adapter */
    METRICS_OWN = 5,
    METRICS_NAME = 65,
};

struct metrics_row {
    uint64_t key; /* 0: nobody's */
    char tenant[METRICS_NAME], adapter[METRICS_NAME];
};

struct metrics_rows {
    pthread_mutex_t lock;
    uint64_t tenant_keys[METRICS_TENANTS], adapter_keys[METRICS_ADAPTERS];
    uint8_t holders[METRICS_ADAPTERS]; /* the tenant's row, where there is a key */
    struct metrics_row tenants[METRICS_TENANTS], adapters[METRICS_ADAPTERS]; /* names */
};

void metrics_rows_init(struct metrics_rows *r); /* zeroed, and shared */

/* Its place and key. METRICS_TENANTS or METRICS_ADAPTERS: it has none, and gets none. */
int metrics_rows_tenant(struct metrics_rows *r, int64_t id, const char *name,
                        uint64_t *key);
int metrics_rows_adapter(struct metrics_rows *r, int64_t id, const char *name,
                         const char *adapter, uint64_t *key);

/* Frees all rows of the tenants that are gone. */
void metrics_rows_forget(struct metrics_rows *r, bool (*is_gone)(int64_t id, void *ud),
                         void *ud);

/* As it is now; the key is 0 where there is nobody's, or one is just being taken. */
void metrics_rows_read_tenant(const struct metrics_rows *r, int i, struct metrics_row *out);
void metrics_rows_read_adapter(const struct metrics_rows *r, int i,
                               struct metrics_row *out);

#endif
