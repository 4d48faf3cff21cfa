/* Tenants and keys as JSON objects: over HTTP and on the command line alike.
 *
 * Thread: any. */
#ifndef PREFIXD_TENANT_JSON_H
#define PREFIXD_TENANT_JSON_H

#include "adapters/store_tenants.h"
#include "core/base/buf.h"

void tenant_json(struct buf *out, const struct tenant *t);

int64_t tenant_json_key_id(const char *id); /* of "key_12"; 0: it is none */

/* text: the key itself, told once when it is made; else NULL. */
void tenant_json_key(struct buf *out, const struct tenant_key *k, const char *text);

#endif
