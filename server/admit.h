/* What is known from a request's headers alone: its id, its route, its key, what body it
 * may send.
 *
 * Thread: loop. */
#ifndef PREFIXD_ADMIT_H
#define PREFIXD_ADMIT_H

#include "server/exchange.h"

enum exchange_result admit_run(struct exchange *x);

/* While the server drains, nothing is begun that could change anything. */
int admit_check_state(const struct exchange *x, struct err *err);

#endif
