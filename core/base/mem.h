/* Allocation that cannot fail for small things, and checked allocation for large ones.
 *
 * Thread: any. The x-functions abort when memory is out: for list nodes, names, tables whose size the
 * program chose. What a client's or a file's size decides uses mem_try_*, which gives NULL. */
#ifndef PREFIXD_MEM_H
#define PREFIXD_MEM_H

#include <stdbool.h>
#include <stddef.h>

void *xmalloc(size_t size);
void *xcalloc(size_t n, size_t size);
void *xrealloc(void *p, size_t size);
char *xstrdup(const char *s);
char *xstrndup(const char *s, size_t len);

/* n * size bytes, zeroed, NULL on overflow or when memory is out. Freed with free(). */
void *mem_try_calloc(size_t n, size_t size);

/* n * size bytes on a 64-byte boundary, zeroed; NULL on overflow or when memory is out. free(). */
void *mem_try_aligned(size_t n, size_t size);

/* false if a * b does not fit; else *out = a * b. */
bool mem_mul(size_t a, size_t b, size_t *out);

#endif
