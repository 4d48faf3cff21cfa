/* For tests of the store: a few names and versions with files that can be told apart.
 *
 *     struct store *s = stored_open(dir, 1, &err);
 *     stored_put(s, 1, 0, 2, &err);       name 0 of tenant 1 gets version 2
 *     EXPECT_EQ(stored_in(s, 1, 0), 2);
 */
#ifndef PREFIXD_TEST_STORED_H
#define PREFIXD_TEST_STORED_H

#include "adapters/store.h"

enum { STORED_NAMES = 3, STORED_VERSIONS = 4, STORED_BYTES = 40000 };
enum { STORED_NOTHING = -1, STORED_DELETED = -2, STORED_DAMAGED = -5 };

/* As a daemon begins: home, then the store; then the home is left. */
struct store *stored_open(const char *dir, int keep_versions, struct err *err);

const char *stored_name(int name);
void stored_version(int v, char out[DIGEST_HEX + 1]);
char *stored_weights(int v); /* STORED_BYTES of them; caller frees */
int stored_put_if(struct store *s, int64_t tenant, int name, int v,
                  const struct store_condition *only_if, const struct store_limits *limits,
                  struct err *err);
int stored_put(struct store *s, int64_t tenant, int name, int v, struct err *err);
int stored_delete(struct store *s, int64_t tenant, int name, bool stays_deleted,
                  struct err *err);
int stored_roll_back(struct store *s, int64_t tenant, int name, int v, struct err *err);

/* The version that the tenant's name means (-3: with another's date), or one of the above.
 */
int stored_in(struct store *s, int64_t tenant, int name);
bool stored_is_whole(const struct store *s, int64_t tenant, int v); /* its files */
int stored_count(const char *dir, const char *sub,
                 bool only_hidden); /* entries of dir/sub */

/* Adds a tenant; his id. */
int64_t stored_tenant(struct store *s, const char *name);

/* The one number that sql gives, by a connection of its own; -1 if there is none. */
int64_t stored_sql(const char *dir, const char *sql);

#endif
