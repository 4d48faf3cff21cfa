/* `prefixd tenant ...`. Thread: the only one. */
#ifndef PREFIXD_CLI_TENANT_H
#define PREFIXD_CLI_TENANT_H

#include "server/cli_args.h"

int cli_tenant_add(const struct cli_args *a, struct store *s, struct buf *out,
                   struct err *err);
int cli_tenant_list(const struct cli_args *a, struct store *s, struct buf *out,
                    struct err *err);
int cli_tenant_show(const struct cli_args *a, struct store *s, struct buf *out,
                    struct err *err);
int cli_tenant_set(const struct cli_args *a, struct store *s, struct buf *out,
                   struct err *err);
int cli_tenant_suspend(const struct cli_args *a, struct store *s, struct buf *out,
                       struct err *err);
int cli_tenant_resume(const struct cli_args *a, struct store *s, struct buf *out,
                      struct err *err);
int cli_tenant_remove(const struct cli_args *a, struct store *s, struct buf *out,
                      struct err *err);

/* 0 and the tenant, or -1: ERR_NOT_FOUND says that there is none of this name. */
int cli_tenant_find(struct store *s, const char *name, struct tenant *out, struct err *err);

#endif
