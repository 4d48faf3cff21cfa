/* The names of a state folder as older daemons kept them, one file each:
 *
 *     adapters/<name>.json    {"version": "<digest>", "created": <seconds>} or {"deleted":
 * true}
 *
 * Thread: boot (it parses JSON). Only read, to be taken over once. */
#ifndef PREFIXD_POINTERS_H
#define PREFIXD_POINTERS_H

#include <stdbool.h>
#include <stdint.h>

#include "core/base/digest.h"
#include "core/base/err.h"

struct pointer {
    char *name;                   /* lent for the call */
    char version[DIGEST_HEX + 1]; /* "": deleted, and to stay so */
    int64_t created;
    bool is_damaged; /* it cannot be read: version is "" */
};

/* Calls fn with every name there is. dir is the state folder. */
int pointers_each(int dir, void (*fn)(void *ud, const struct pointer *p), void *ud,
                  struct err *err);

/* Removes what pointers_each could read (damaged files are left aside), and the folder if
 * nothing else is in it. */
void pointers_remove(int dir);

bool pointers_are_left(int dir);

#endif
