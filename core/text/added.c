/* Added tokens in two byte tries, and the split of a text by them. */
#include "core/text/added.h"

#include <stdlib.h>
#include <string.h>

#include "core/base/mem.h"
#include "core/base/utf8.h"
#include "core/text/chars.h"

struct added_node {
    int32_t child, sibling; /* indices into nodes, 0 for none */
    int32_t token;          /* index into tokens, -1 for none */
    unsigned char byte;
};

static int32_t new_node(struct added_trie *t, unsigned char byte)
{
    if (t->n == t->cap) {
        t->cap = t->cap ? 2 * t->cap : 64;
        t->nodes = xrealloc(t->nodes, t->cap * sizeof *t->nodes);
    }
    t->nodes[t->n] = (struct added_node){0, 0, -1, byte};
    return (int32_t)t->n++;
}

/* The child of node for a byte; 0 if there is none. */
static int32_t child_of(const struct added_trie *t, int32_t node, unsigned char byte)
{
    if (node == 0)
        return t->first[byte];
    int32_t c = t->nodes[node].child;
    while (c && t->nodes[c].byte != byte)
        c = t->nodes[c].sibling;
    return c;
}

static void trie_put(struct added_trie *t, const char *pattern, size_t len, int32_t token)
{
    int32_t node = 0;
    if (!t->n)
        new_node(t, 0);
    for (size_t i = 0; i < len; i++) {
        unsigned char byte = (unsigned char)pattern[i];
        int32_t next = child_of(t, node, byte);
        if (!next) {
            next = new_node(t, byte);
            if (node == 0) {
                t->first[byte] = next;
            } else {
                t->nodes[next].sibling = t->nodes[node].child;
                t->nodes[node].child = next;
            }
        }
        node = next;
    }
    t->nodes[node].token = token;
}

/* The longest token that starts at s: its index, or -1; *match is its length. */
static int32_t trie_match(const struct added_trie *t, const char *s, size_t len,
                          size_t *match)
{
    int32_t found = -1, node = 0;
    for (size_t i = 0; i < len; i++) {
        node = child_of(t, node, (unsigned char)s[i]);
        if (!node)
            break;
        if (t->nodes[node].token >= 0) {
            found = t->nodes[node].token;
            *match = i + 1;
        }
    }
    return found;
}

int added_put(struct added *a, const struct added_token *token, const char *content,
              size_t len, const char *pattern, size_t pattern_len, struct err *err)
{
    if (!len || len > ADDED_MAX_LEN || !pattern_len)
        return err_set(err, ERR_INVALID, "added token %d: 1 to %d bytes are accepted",
                       token->id, ADDED_MAX_LEN);
    if (vocab_add(&a->names, token->id, content, len, err) < 0)
        return -1;
    if (a->n == a->cap) {
        a->cap = a->cap ? 2 * a->cap : 16;
        a->tokens = xrealloc(a->tokens, a->cap * sizeof *a->tokens);
    }
    a->tokens[a->n] = *token;
    enum added_kind kind = token->is_normalized ? ADDED_NORMALIZED : ADDED_RAW;
    trie_put(&a->tries[kind], pattern, pattern_len, (int32_t)a->n++);
    return 0;
}

const struct added_token *added_find(const struct added *a, int32_t id)
{
    for (size_t i = 0; i < a->n; i++)
        if (a->tokens[i].id == id)
            return &a->tokens[i];
    return NULL;
}

static void add_piece(struct added_pieces *p, size_t at, size_t end, int32_t id)
{
    if (at >= end)
        return;
    if (p->n == p->cap) {
        p->cap = p->cap ? 2 * p->cap : 16;
        p->list = xrealloc(p->list, p->cap * sizeof *p->list);
    }
    p->list[p->n++] = (struct added_piece){at, end - at, id};
}

static bool word_ends_at(const char *text, size_t at)
{
    int n = chars_last_len(text, at);
    return n && chars_is_word(utf8_decode(text + at - n, n));
}

static bool word_starts_at(const char *text, size_t len, size_t at)
{
    int n = utf8_char_len(text + at, len - at, NULL);
    return n && chars_is_word(utf8_decode(text + at, n));
}

/* Back over the white space before `at`, not beyond least. */
static size_t strip_left(const char *text, size_t at, size_t least)
{
    while (at > least) {
        int n = chars_last_len(text, at);
        if (!chars_is_space(utf8_decode(text + at - n, n)))
            break;
        at -= (size_t)n;
    }
    return at < least ? least : at;
}

static size_t strip_right(const char *text, size_t len, size_t at)
{
    while (at < len) {
        int n = utf8_char_len(text + at, len - at, NULL);
        if (!chars_is_space(utf8_decode(text + at, n)))
            break;
        at += (size_t)n;
    }
    return at;
}

void added_split(const struct added *a, enum added_kind kind, const char *text, size_t len,
                 struct added_pieces *out)
{
    const struct added_trie *trie = &a->tries[kind];
    size_t done = 0, match = 0;
    out->n = 0;
    for (size_t at = 0; trie->n && at < len;) {
        int32_t i = trie_match(trie, text + at, len - at, &match);
        if (i < 0) {
            at++;
            continue;
        }
        const struct added_token *t = &a->tokens[i];
        size_t start = at, end = at + match;
        at = end;
        if (t->single_word && (word_ends_at(text, start) || word_starts_at(text, len, end)))
            continue;
        if (t->lstrip)
            start = strip_left(text, start, done);
        if (t->rstrip)
            end = strip_right(text, len, end);
        /* A token of white space may lie in what the one before swallowed; it counts all
         * the same. */
        add_piece(out, done, start, -1);
        add_piece(out, start, end, t->id);
        done = end;
    }
    add_piece(out, done, len, -1);
}

void added_pieces_free(struct added_pieces *p)
{
    free(p->list);
    *p = (struct added_pieces){0};
}

void added_free(struct added *a)
{
    vocab_free(&a->names);
    free(a->tokens);
    free(a->tries[ADDED_RAW].nodes);
    free(a->tries[ADDED_NORMALIZED].nodes);
    *a = (struct added){0};
}
