/* Memory that can be written once, sealed, and then read by any process that has its
 * descriptor.
 *
 * Thread: any. After image_memory_seal the kernel itself refuses every write, by whatever
 * process and through whatever mapping, and every change of size.
 *
 *     int fd = image_memory_new(bytes, par, &err);
 *     unsigned char *p = image_memory_map_writable(fd, bytes, &err);
 *     ... write ...; image_memory_unmap(p, bytes);
 *     image_memory_seal(fd, &err);
 *     const unsigned char *q = image_memory_map_sealed(fd, &bytes, &err);     anywhere
 */
#ifndef PREFIXD_IMAGE_MEMORY_H
#define PREFIXD_IMAGE_MEMORY_H

#include <stddef.h>
#include <stdint.h>

#include "core/base/err.h"
#include "core/par.h"

/* A descriptor of zeroed memory, all of it there already; closed on exec. It is in huge pages
 * where the kernel grants them (from Linux 6.1 on): a decoding step reads the whole model, and in
 * pages of 4 KiB takes a third more of processor time. */
int image_memory_new(uint64_t bytes, struct par *par, struct err *err);
unsigned char *image_memory_map_writable(int fd, size_t bytes, struct err *err);
void image_memory_unmap(const void *base, size_t bytes);

/* No writable mapping may be left. */
int image_memory_seal(int fd, struct err *err);

/* Read-only. Refuses a descriptor that lacks any of the seals. */
const unsigned char *image_memory_map_sealed(int fd, size_t *bytes, struct err *err);

#endif
