/* Helpers for refusing the content of an adapter in words that its owner can act on.
 *
 * Thread: any. */
#ifndef PREFIXD_REFUSE_H
#define PREFIXD_REFUSE_H

#include "core/base/err.h"

/* What is wrong inside a file is the adapter's fault (422), whichever parser found it;
 * running out of memory or failing to read is not. Returns -1. */
int refuse_content(struct err *err, const char *what, const struct err *why);

/* For "%.*s": bytes of s to show, whole characters and not too many. */
int refuse_shown(const char *s);

#endif
