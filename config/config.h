/* PUBLIC. What the operator says: one table of settings (config_keys.h), read from flags and a JSON file.
 *
 * Thread: boot; immutable afterwards. Flags win over --config FILE, which wins over defaults. A wrong
 * flag, key, type or a value out of range is one line that names the thing, the value and what is
 * accepted (ERR_INVALID).
 *
 *     struct config cfg;
 *     enum config_action act = config_from_args(&cfg, argc, argv, &err);
 */
#ifndef PREFIXD_CONFIG_H
#define PREFIXD_CONFIG_H

#include "config/config_keys.h"
#include "core/base/buf.h"
#include "core/base/err.h"

#include <stdbool.h>
#include <stdint.h>

enum config_action { CONFIG_RUN, CONFIG_HELP, CONFIG_VERSION, CONFIG_BAD };

struct config { /* one field per row of CONFIG_KEYS: char * ("" when unset), int64_t or bool */
#define CONFIG_STR(field, ...) char *field;
#define CONFIG_INT(field, ...) int64_t field;
#define CONFIG_BOOL(field, ...) bool field;
    CONFIG_KEYS(CONFIG_STR, CONFIG_INT, CONFIG_BOOL)
#undef CONFIG_STR
#undef CONFIG_INT
#undef CONFIG_BOOL
};

enum config_action config_from_args(struct config *cfg, int argc, char **argv, struct err *err);
void config_fini(struct config *cfg);

/* Whether the flags, good or bad otherwise, ask for JSON lines: for the line that refuses them. */
bool config_wants_json(int argc, char **argv);

void config_help(struct buf *out);      /* --help: every flag and key with default, range, unit */
void config_markdown(struct buf *out);  /* the README's table */

#endif
