/* The pieces of a vocabulary in one pool, with a hash table over them. */
#include "core/text/vocab.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/mem.h"

struct vocab_piece {
    size_t at;
    uint32_t len;
    uint32_t hash; /* compared before the bytes */
    bool is_set;
};

static uint32_t hash_of(const char *s, size_t len)
{
    uint64_t h = 0xcbf29ce484222325u;
    for (size_t i = 0; i < len; i++)
        h = (h ^ (unsigned char)s[i]) * 0x100000001b3u;
    h ^= h >> 32;
    return (uint32_t)(h * 0x9e3779b97f4a7c15u >> 32);
}

/* The slot that holds the piece, or the free one where it belongs. There always is a free
 * one. */
static size_t slot_of(const struct vocab *v, const char *s, size_t len, uint32_t hash)
{
    size_t mask = v->n_slots - 1;
    for (size_t i = hash & mask;; i = (i + 1) & mask) {
        if (v->slots[i] < 0)
            return i;
        const struct vocab_piece *p = &v->pieces[v->slots[i]];
        if (p->hash == hash && p->len == len && memcmp(v->pool.data + p->at, s, len) == 0)
            return i;
    }
}

static void grow_slots(struct vocab *v)
{
    v->n_slots = v->n_slots ? 2 * v->n_slots : 256;
    v->slots = xrealloc(v->slots, v->n_slots * sizeof *v->slots);
    memset(v->slots, 0xff, v->n_slots * sizeof *v->slots);
    for (int32_t id = 0; id < v->id_end; id++) {
        const struct vocab_piece *p = &v->pieces[id];
        if (p->is_set)
            v->slots[slot_of(v, v->pool.data + p->at, p->len, p->hash)] = id;
    }
}

static void grow_ids(struct vocab *v, size_t need)
{
    size_t cap = v->id_cap ? v->id_cap : 256;
    while (cap < need)
        cap *= 2;
    v->pieces = xrealloc(v->pieces, cap * sizeof *v->pieces);
    memset(v->pieces + v->id_cap, 0, (cap - v->id_cap) * sizeof *v->pieces);
    v->id_cap = cap;
}

int vocab_add(struct vocab *v, int32_t id, const char *piece, size_t len, struct err *err)
{
    if (id < 0 || id >= VOCAB_MAX_IDS || len > UINT32_MAX)
        return err_set(err, ERR_INVALID, "vocabulary: id %d is not from 0 to %d", id,
                       VOCAB_MAX_IDS - 1);
    if (2 * (v->n + 1) > v->n_slots)
        grow_slots(v);
    if ((size_t)id >= v->id_cap)
        grow_ids(v, (size_t)id + 1);
    uint32_t hash = hash_of(piece, len);
    size_t slot = slot_of(v, piece, len, hash);
    if (v->pieces[id].is_set || v->slots[slot] >= 0)
        return err_set(err, ERR_INVALID,
                       "vocabulary: id %d or its piece \"%.*s\" occurs twice", id,
                       (int)(len < 64 ? len : 64), piece);
    v->pieces[id] = (struct vocab_piece){v->pool.len, (uint32_t)len, hash, true};
    buf_add(&v->pool, piece, len);
    v->slots[slot] = id;
    v->n++;
    if (id >= v->id_end)
        v->id_end = id + 1;
    return 0;
}

int32_t vocab_find(const struct vocab *v, const char *piece, size_t len)
{
    if (!v->n_slots)
        return -1;
    return v->slots[slot_of(v, piece, len, hash_of(piece, len))];
}

const char *vocab_piece(const struct vocab *v, int32_t id, size_t *len)
{
    if (id < 0 || id >= v->id_end || !v->pieces[id].is_set)
        return NULL;
    *len = v->pieces[id].len;
    return v->pool.data + v->pieces[id].at;
}

void vocab_free(struct vocab *v)
{
    buf_free(&v->pool);
    free(v->pieces);
    free(v->slots);
    *v = (struct vocab){0};
}
