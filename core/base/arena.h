/* Memory freed all at once: what one exchange allocates lives and dies with it.
 *
 * Thread: one at a time. A zeroed struct is a valid empty arena. Pointers stay valid until
 * arena_free. Allocation aborts when memory is out; callers bound what clients can ask for. */
#ifndef PREFIXD_ARENA_H
#define PREFIXD_ARENA_H

#include <stddef.h>

struct arena_chunk;

struct arena {
    struct arena_chunk *chunks;
    size_t total; /* bytes handed out, for limits and logs */
};

void *arena_alloc(struct arena *a, size_t size); /* 16-byte aligned, zeroed */
void *arena_array(struct arena *a, size_t n, size_t size); /* aborts on overflow of n * size */
char *arena_strndup(struct arena *a, const char *s, size_t len);
char *arena_strdup(struct arena *a, const char *s);
void arena_free(struct arena *a);

#endif
