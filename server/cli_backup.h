/* `prefixd backup`. Thread: the only one. */
#ifndef PREFIXD_CLI_BACKUP_H
#define PREFIXD_CLI_BACKUP_H

#include "server/cli_args.h"

int cli_backup(const struct cli_args *a, struct store *s, struct buf *out, struct err *err);

#endif
