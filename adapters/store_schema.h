/* The tables of the registry, as the steps that lead from one version of them to the next.
 *
 * Thread: any. Step i leads from version i to i + 1 and is never changed once a daemon with
 * it was released: what is to be different is another step. */
#ifndef PREFIXD_STORE_SCHEMA_H
#define PREFIXD_STORE_SCHEMA_H

int store_schema_version(void);
const char *store_schema_step(int i); /* SQL */

#endif
