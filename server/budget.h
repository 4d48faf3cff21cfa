/* Memory that tenants share: bounded together, and so that none of them keeps the others out.
 *
 * Thread: loop. No tenant may hold more than twice what it leaves free: alone that is two
 * thirds of the budget, and there always is room for one that holds nothing.
 *
 *     budget_set(&b, 1000000);
 *     struct budget_hold h = {0};
 *     if (!budget_take(&h, &b, tenant, n)) return "try later";
 *     budget_drop(&h);
 */
#ifndef PREFIXD_BUDGET_H
#define PREFIXD_BUDGET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct budget_share; /* of one tenant that holds something */

struct budget {
    size_t max, used; /* bytes */
    struct budget_share *shares;
};

/* Some of a budget; zeroed: nothing. */
struct budget_hold {
    struct budget *budget;
    struct budget_share *share;
    size_t bytes;
};

/* So large that one tenant may hold that much while nobody else holds anything. */
void budget_set(struct budget *b, size_t alone);

bool budget_has_room(const struct budget *b, int64_t tenant, size_t more);

/* False, with nothing changed, if the tenant may not have more now. One hold is always of
 * the same budget and tenant. */
bool budget_take(struct budget_hold *h, struct budget *b, int64_t tenant, size_t more);
void budget_drop(struct budget_hold *h); /* all of it; accepts what holds nothing */

#endif
