/* Work of a request that blocks: done on the pool, answered on the loop.
 *
 * Thread: loop; work runs on the pool and touches ud alone. It is carried through even if
 * the client goes away, unless it looks at the exchange's is_gone itself, and no deadline
 * counts until its end; x's fini_extra, if any, is called there.
 *
 *     return offload_run(x, LOOP_REGISTRY, add_tenant, answer_tenant, ud);   a handler's last word
 */
#ifndef PREFIXD_OFFLOAD_H
#define PREFIXD_OFFLOAD_H

#include "core/base/err.h"
#include "server/exchange.h"
#include "server/loop.h"

/* ud lives in x's arena. answer is called if work gave 0; else the request fails. */
enum exchange_result
offload_run(struct exchange *x, enum loop_lane lane, int (*work)(void *ud, struct err *err),
            enum exchange_result (*answer)(struct exchange *x, void *ud), void *ud);

#endif
