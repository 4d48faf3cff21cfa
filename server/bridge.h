/* Jobs to the engine, events back.
 *
 * Thread: loop. The job lies in the exchange; the engine borrows it from bridge_post until
 * its final event, and the exchange outlives that whatever the client does. */
#ifndef PREFIXD_BRIDGE_H
#define PREFIXD_BRIDGE_H

#include "core/base/err.h"

struct exchange;
struct server;

int bridge_post(struct exchange *x, struct err *err);
void bridge_cancel(struct exchange *x); /* no job: nothing happens */

/* Hands out all events so far, then lets every exchange that got some write once. */
void bridge_drain(struct server *s);

#endif
