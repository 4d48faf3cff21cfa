/* The files of an adapter out of the body of a PUT.
 *
 * Thread: loop. */
#ifndef PREFIXD_SERVER_ADAPTER_FILES_H
#define PREFIXD_SERVER_ADAPTER_FILES_H

#include "adapters/adapters.h"
#include "server/exchange.h"

/* At most ADAPTER_MAX_FILES; their bytes are lent as long as the body. */
int adapter_files_of(struct exchange *x, struct adapter_file *files, int *n, struct err *err);

#endif
