/* The pieces of a vocabulary, found by text or by id.
 *
 * Thread: filled at boot by one thread, read by any afterwards. A zeroed struct is an empty
 * vocabulary. Pieces are any bytes and need not be NUL-terminated; a returned piece lives
 * as long as the vocabulary and until the next vocab_add.
 *
 *     struct vocab v = {0};
 *     vocab_add(&v, 7, "the", 3, err);
 *     int32_t id = vocab_find(&v, "the", 3);
 */
#ifndef PREFIXD_TEXT_VOCAB_H
#define PREFIXD_TEXT_VOCAB_H

#include "core/base/buf.h"
#include "core/base/err.h"

#include <stddef.h>
#include <stdint.h>

enum { VOCAB_MAX_IDS = 1 << 22 };

struct vocab_piece;

struct vocab {
    struct buf pool;            /* the bytes of all pieces */
    struct vocab_piece *pieces; /* [id_cap], by id; gaps allowed */
    int32_t *slots;             /* [n_slots] ids or -1, open addressing */
    size_t id_cap, n_slots, n;
    int32_t id_end; /* one more than the largest id */
};

/* Refuses an id out of range, and an id or piece that is there already. */
int vocab_add(struct vocab *v, int32_t id, const char *piece, size_t len, struct err *err);
int32_t vocab_find(const struct vocab *v, const char *piece,
                   size_t len); /* -1: not there */
const char *vocab_piece(const struct vocab *v, int32_t id,
                        size_t *len); /* NULL: no such id */
void vocab_free(struct vocab *v);

#endif
