/* For tests: adapters of a folder in a registry of their own, over a real engine.
 *
 *     struct catalog *r = catalog_new(base, engine);
 *     catalog_import(r, "tests/golden/adapters/gqa");
 *     struct adapter_version *v = catalog_acquire(r, "lora");      loads it if it has to
 *     adapters_release(v);
 *     catalog_free(r);
 */
#ifndef PREFIXD_TEST_CATALOG_H
#define PREFIXD_TEST_CATALOG_H

#include "adapters/adapters.h"

struct catalog;

struct catalog *catalog_new(const struct base_model *b, struct engine *e);
void catalog_free(struct catalog *r); /* accepts NULL */

void catalog_import(struct catalog *r, const char *folder); /* fails the test if it cannot */
struct adapter_version *catalog_acquire(struct catalog *r, const char *name, struct err *err);

#endif
