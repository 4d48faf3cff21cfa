/* The tokenizer in a GGUF file's metadata, handed to the tokenizer's own constructor. */
#include "core/model/gguf_tokenizer.h"

#include <stdint.h>
#include <string.h>

#include "core/base/arena.h"
#include "core/model/gguf.h"
#include "core/model/mapped_file.h"
#include "core/tokenizer.h"

static int bad_key(struct err *err, const char *key, const char *what)
{
    return err_set(err, ERR_INVALID, "GGUF metadata %s: %s", key, what);
}

static char *copy_string(struct arena *a, struct gguf_string s)
{
    return memchr(s.s, '\0', s.len) ? NULL : arena_strndup(a, s.s, s.len);
}

static const char *const *read_strings(const struct gguf *g, const char *key,
                                       struct arena *a, size_t *n, struct err *err)
{
    const struct gguf_value *v = gguf_find(g, key);
    if (!v || !v->is_array || v->type != GGUF_STRING || v->n > 1 << 24) {
        bad_key(err, key, "must be a list of strings");
        return NULL;
    }
    *n = (size_t)v->n;
    char **out = arena_array(a, *n + 1, sizeof *out);
    size_t at = 0;
    for (size_t i = 0; i < *n; i++) {
        out[i] = copy_string(a, gguf_next_string(v, &at));
        if (!out[i]) {
            bad_key(err, key, "a string holds NUL");
            return NULL;
        }
    }
    return (const char *const *)out;
}

static int read_types(const struct gguf *g, struct arena *a, struct tokenizer_gguf *t,
                      struct err *err)
{
    static const char key[] = "tokenizer.ggml.token_type";
    const struct gguf_value *v = gguf_find(g, key);
    if (!v)
        return 0;
    if (!v->is_array || v->type != GGUF_I32 || v->n != t->n_tokens)
        return bad_key(err, key, "must be a list of one I32 per token");
    int32_t *types = arena_array(a, t->n_tokens + 1, sizeof *types);
    memcpy(types, v->data, t->n_tokens * sizeof *types);
    t->types = types;
    return 0;
}

/* Files for Llama 3 leave the flag out and mean yes. */
static int read_bos(const struct gguf *g, struct tokenizer_gguf *t, struct err *err)
{
    static const char id_key[] = "tokenizer.ggml.bos_token_id";
    static const char add_key[] = "tokenizer.ggml.add_bos_token";
    uint64_t id;
    t->bos = -1;
    if (gguf_find(g, id_key)) {
        if (!gguf_u64(g, id_key, &id) || id >= t->n_tokens)
            return bad_key(err, id_key, "must be the number of a token");
        t->bos = (int32_t)id;
    }
    t->add_bos = strcmp(t->pre, "llama-bpe") == 0 || strcmp(t->pre, "llama3") == 0;
    if (gguf_find(g, add_key) && !gguf_bool(g, add_key, &t->add_bos))
        return bad_key(err, add_key, "must be true or false");
    if (t->bos < 0)
        t->add_bos = false;
    return 0;
}

static int read_all(const struct gguf *g, struct arena *a, struct tokenizer_gguf *t,
                    struct err *err)
{
    static const char model_key[] = "tokenizer.ggml.model";
    struct gguf_string kind = {"", 0}, pre = {"default", 7};
    gguf_string(g, model_key, &kind);
    if (!gguf_string_is(kind, "gpt2"))
        return err_set(err, ERR_INVALID, "GGUF metadata %s is \"%.*s\"; accepted: gpt2",
                       model_key, (int)(kind.len < 40 ? kind.len : 40), kind.s);
    gguf_string(g, "tokenizer.ggml.pre", &pre);
    t->pre = copy_string(a, pre);
    if (!t->pre)
        return bad_key(err, "tokenizer.ggml.pre", "holds NUL");
    t->tokens = read_strings(g, "tokenizer.ggml.tokens", a, &t->n_tokens, err);
    if (!t->tokens)
        return -1;
    t->merges = read_strings(g, "tokenizer.ggml.merges", a, &t->n_merges, err);
    if (!t->merges || read_types(g, a, t, err) < 0)
        return -1;
    return read_bos(g, t, err);
}

static struct tokenizer *open_parsed(const struct gguf *g, struct err *err)
{
    struct arena a = {0};
    struct tokenizer_gguf t = {0};
    struct tokenizer *out =
        read_all(g, &a, &t, err) == 0 ? tokenizer_open_gguf(&t, err) : NULL;
    arena_free(&a);
    return out;
}

struct tokenizer *gguf_tokenizer_open(const char *path, struct err *err)
{
    struct mapped_file f;
    struct gguf g;
    if (mapped_file_open(&f, path, err) < 0)
        return NULL;
    struct tokenizer *out = NULL;
    if (gguf_parse(&g, f.data, f.len, err) == 0) {
        out = open_parsed(&g, err);
        gguf_fini(&g);
    }
    mapped_file_close(&f);
    return out;
}
