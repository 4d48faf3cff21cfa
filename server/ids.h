/* Names that nobody can guess, for requests and completions.
 *
 * Thread: one. Zeroed to start. Chance is fetched for many names at once: a fetch is a call
 * of the kernel, and more than the rest of a short request's work on its name. */
#ifndef PREFIXD_IDS_H
#define PREFIXD_IDS_H

#include <stddef.h>

enum { IDS_STORE = 512, IDS_MAX = 16 };

struct ids {
    unsigned char bytes[IDS_STORE];
    size_t n_left; /* at the end */
};

/* So many bytes, 1 to IDS_MAX, as hexadecimal digits and a NUL: hex has 2 * n + 1. */
void ids_next(struct ids *ids, char *hex, size_t n);

#endif
