/* `prefixd key ...`. Thread: the only one. */
#ifndef PREFIXD_CLI_KEY_H
#define PREFIXD_CLI_KEY_H

#include "server/cli_args.h"

int cli_key_add(const struct cli_args *a, struct store *s, struct buf *out,
                struct err *err);
int cli_key_list(const struct cli_args *a, struct store *s, struct buf *out,
                 struct err *err);
int cli_key_revoke(const struct cli_args *a, struct store *s, struct buf *out,
                   struct err *err);

#endif
