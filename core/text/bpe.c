/* Byte pair encoding with a heap of mergeable pairs over a linked list of symbols. */
#include "core/text/bpe.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/mem.h"
#include "core/base/utf8.h"

#define NO_RANK UINT32_MAX

struct bpe_symbol {
    int32_t id;         /* -1: merged into the one before */
    int32_t prev, next; /* -1 at the ends */
    uint32_t rank;      /* of merging with next; NO_RANK if the two do not merge */
    int32_t merged;     /* the token that merging gives */
};

void bpe_prepare(struct bpe *b)
{
    struct buf c = {0};
    for (uint32_t i = 0; i < BPE_FAST_CHARS; i++) {
        buf_clear(&c);
        utf8_encode(&c, i);
        b->char_ids[i] = vocab_find(&b->vocab, c.data, c.len);
    }
    buf_free(&c);
    for (unsigned i = 0; i < 256; i++) {
        char name[8];
        int len = snprintf(name, sizeof name, "<0x%02X>", i);
        b->byte_ids[i] = vocab_find(&b->vocab, name, (size_t)len);
    }
}

int bpe_add_merge(struct bpe *b, uint32_t rank, const char *left, size_t left_len,
                  const char *right, size_t right_len, struct err *err)
{
    char stack[256];
    size_t len = left_len + right_len;
    char *whole = len <= sizeof stack ? stack : xmalloc(len);
    memcpy(whole, left, left_len);
    memcpy(whole + left_len, right, right_len);
    struct merge m = {vocab_find(&b->vocab, left, left_len),
                      vocab_find(&b->vocab, right, right_len), rank,
                      vocab_find(&b->vocab, whole, len)};
    if (whole != stack)
        free(whole);
    if (m.left < 0 || m.right < 0 || m.token < 0)
        return err_set(err, ERR_INVALID,
                       "merge %u (\"%.*s\" + \"%.*s\"): a piece is not in the vocabulary",
                       rank, (int)(left_len < 64 ? left_len : 64), left,
                       (int)(right_len < 64 ? right_len : 64), right);
    merges_put(&b->merges, m);
    return 0;
}

/* A heap entry orders by rank, then by place: the leftmost of equal pairs merges first. */
static uint64_t heap_entry(uint32_t rank, size_t at)
{
    return (uint64_t)rank << 32 | (uint32_t)at;
}

static void heap_sift_down(uint64_t *heap, size_t n, size_t i, uint64_t entry)
{
    for (size_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && heap[child + 1] < heap[child])
            child++;
        if (heap[child] >= entry)
            break;
        heap[i] = heap[child];
    }
    heap[i] = entry;
}

static uint64_t heap_pop(struct bpe_scratch *s)
{
    uint64_t top = s->heap[0];
    uint64_t last = s->heap[--s->n_heap];
    if (s->n_heap)
        heap_sift_down(s->heap, s->n_heap, 0, last);
    return top;
}

static void heap_push(struct bpe_scratch *s, uint64_t entry)
{
    size_t i = s->n_heap++;
    for (size_t parent; i && s->heap[parent = (i - 1) / 2] > entry; i = parent)
        s->heap[i] = s->heap[parent];
    s->heap[i] = entry;
}

/* Room for n symbols and for every heap entry they can cause: one per pair at the start,
 * and at most two per merge, of which one follows from a pop. */
static int reserve(struct bpe_scratch *s, size_t n, struct err *err)
{
    if (n <= s->symbol_cap)
        return 0;
    size_t cap = n < 2 * s->symbol_cap ? 2 * s->symbol_cap : n < 256 ? 256 : n;
    bpe_scratch_free(s);
    s->symbols = mem_try_calloc(cap, sizeof *s->symbols);
    s->heap = mem_try_calloc(cap, 2 * sizeof *s->heap);
    if (!s->symbols || !s->heap) {
        bpe_scratch_free(s);
        return err_set(err, ERR_NO_MEMORY, "not enough memory to tokenise the text");
    }
    s->symbol_cap = cap;
    s->heap_cap = 2 * cap;
    return 0;
}

static void add_symbol(struct bpe_scratch *s, size_t *n, int32_t id)
{
    s->symbols[*n] = (struct bpe_symbol){id, (int32_t)*n - 1, (int32_t)*n + 1, NO_RANK, -1};
    ++*n;
}

static int32_t char_id(const struct bpe *b, const char *c, int len)
{
    uint32_t code = utf8_decode(c, len);
    return code < BPE_FAST_CHARS ? b->char_ids[code]
                                 : vocab_find(&b->vocab, c, (size_t)len);
}

/* False if a byte of the character has no token: then the character is unknown. */
static bool add_bytes(const struct bpe *b, struct bpe_scratch *s, size_t *n, const char *c,
                      int len)
{
    for (int i = 0; i < len; i++)
        if (b->byte_ids[(unsigned char)c[i]] < 0)
            return false;
    for (int i = 0; i < len; i++)
        add_symbol(s, n, b->byte_ids[(unsigned char)c[i]]);
    return true;
}

/* The characters of the word as symbols. An unknown run is written only when a known
 * character or the end follows, as the reference does, even where byte tokens stand in
 * between. */
static size_t add_symbols(const struct bpe *b, struct bpe_scratch *s, const char *word,
                          size_t len)
{
    size_t n = 0;
    bool has_unk = false;
    for (size_t at = 0; at < len;) {
        int c_len = utf8_char_len(word + at, len - at, NULL);
        int32_t id = char_id(b, word + at, c_len);
        if (id >= 0) {
            if (has_unk)
                add_symbol(s, &n, b->unk_id);
            has_unk = false;
            add_symbol(s, &n, id);
        } else if (!b->byte_fallback || !add_bytes(b, s, &n, word + at, c_len)) {
            if (has_unk && !b->fuse_unk)
                add_symbol(s, &n, b->unk_id);
            has_unk = b->unk_id >= 0;
        }
        at += (size_t)c_len;
    }
    if (has_unk)
        add_symbol(s, &n, b->unk_id);
    if (n)
        s->symbols[n - 1].next = -1;
    return n;
}

/* Looks up the pair that starts at symbol i; gives whether it merges. */
static bool rank_pair(const struct bpe *b, struct bpe_symbol *symbols, int32_t i)
{
    struct bpe_symbol *sym = &symbols[i];
    const struct merge *m =
        sym->next >= 0 ? merges_find(&b->merges, sym->id, symbols[sym->next].id) : NULL;
    sym->rank = m ? m->rank : NO_RANK;
    sym->merged = m ? m->token : -1;
    return m != NULL;
}

static void push_pair(const struct bpe *b, struct bpe_scratch *s, int32_t i)
{
    if (i >= 0 && rank_pair(b, s->symbols, i))
        heap_push(s, heap_entry(s->symbols[i].rank, (size_t)i));
}

static void merge_all(const struct bpe *b, struct bpe_scratch *s, size_t n)
{
    struct bpe_symbol *symbols = s->symbols;
    s->n_heap = 0;
    for (size_t i = 0; i + 1 < n; i++)
        if (rank_pair(b, symbols, (int32_t)i))
            s->heap[s->n_heap++] = heap_entry(symbols[i].rank, i);
    for (size_t i = s->n_heap / 2; i-- > 0;)
        heap_sift_down(s->heap, s->n_heap, i, s->heap[i]);
    while (s->n_heap) {
        uint64_t top = heap_pop(s);
        int32_t at = (int32_t)(uint32_t)top;
        struct bpe_symbol *sym = &symbols[at];
        if (sym->id < 0 || sym->rank != top >> 32)
            continue; /* a neighbour changed since this was pushed */
        struct bpe_symbol *gone = &symbols[sym->next];
        sym->id = sym->merged;
        sym->next = gone->next;
        gone->id = -1;
        if (sym->next >= 0)
            symbols[sym->next].prev = at;
        push_pair(b, s, sym->prev);
        push_pair(b, s, at);
    }
}

int bpe_encode(const struct bpe *b, struct bpe_scratch *s, const char *word, size_t len,
               struct token_list *out, struct err *err)
{
    if (!len)
        return 0;
    int32_t whole = b->ignore_merges ? vocab_find(&b->vocab, word, len) : -1;
    if (whole >= 0) {
        token_list_add(out, whole);
        return 0;
    }
    if (reserve(s, len + 1, err) < 0)
        return -1;
    size_t n = add_symbols(b, s, word, len);
    merge_all(b, s, n);
    for (int32_t i = n ? 0 : -1; i >= 0; i = s->symbols[i].next)
        token_list_add(out, s->symbols[i].id);
    return 0;
}

void bpe_scratch_free(struct bpe_scratch *s)
{
    free(s->symbols);
    free(s->heap);
    *s = (struct bpe_scratch){0};
}

void bpe_free(struct bpe *b)
{
    vocab_free(&b->vocab);
    merges_free(&b->merges);
}
