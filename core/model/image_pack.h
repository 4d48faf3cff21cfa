/* The work of packing: every tensor of a source into its place in an image.
 *
 * Thread: boot, over a pool. */
#ifndef PREFIXD_IMAGE_PACK_H
#define PREFIXD_IMAGE_PACK_H

#include "core/base/digest.h"
#include "core/base/err.h"
#include "core/par.h"

struct source;

enum { IMAGE_PACK_THREADS = 16 }; /* at most */

/* base: a writable image whose header and table are filled. Writes tensors and the
 * digest. */
int image_pack_tensors(const struct source *src, unsigned char *base, struct par *par,
                       struct err *err);

/* The digest of what an image holds, taken anew. base: an image that was checked. */
void image_pack_digest(const unsigned char *base, char hex[DIGEST_HEX + 1]);

#endif
