/* Files of a stored version that are known to be what they were when it was put.
 *
 * Thread: any; blocks while it reads all files of the version, a piece at a time. */
#ifndef PREFIXD_WHOLE_H
#define PREFIXD_WHOLE_H

#include "adapters/blobs.h"

/* A read-only descriptor (the caller closes) on a file of the version, at its beginning.
 * ERR_NOT_FOUND if it has no such file; ERR_ADAPTER if its files do not give its digest. */
int whole_open_file(const struct blobs *b, int64_t tenant, const char *digest,
                    const char *file, struct err *err);

#endif
