/* Builds a tokenizer from GGUF metadata of kind "gpt2". */
#include "core/tokenizer.h"

#include <string.h>

#include "core/base/mem.h"
#include "core/text/tokenizer_parts.h"

enum { TYPE_CONTROL = 3, TYPE_USER_DEFINED = 4 };

static int set_smollm(struct tokenizer *t, struct err *err)
{
    if (pretokenizer_add_digits(&t->pretokenizer, true, err) < 0)
        return -1;
    return pretokenizer_add_byte_level(&t->pretokenizer, false, true, err);
}

static int set_gpt2(struct tokenizer *t, struct err *err)
{
    return pretokenizer_add_byte_level(&t->pretokenizer, false, true, err);
}

static int set_split(struct tokenizer *t, const char *regex, struct err *err)
{
    if (pretokenizer_add_split(&t->pretokenizer, regex, false, PRE_ISOLATED, false, err) <
        0)
        return -1;
    return pretokenizer_add_byte_level(&t->pretokenizer, false, false, err);
}

static int set_llama3(struct tokenizer *t, struct err *err)
{
    t->bpe.ignore_merges = true;
    return set_split(t, pretokenizer_llama3, err);
}

static int set_qwen2(struct tokenizer *t, struct err *err)
{
    if (normalizer_add_form(&t->normalizer, NORM_NFC, err) < 0)
        return -1;
    return set_split(t, pretokenizer_qwen2, err);
}

static int set_pre(struct tokenizer *t, const char *pre, struct err *err)
{
    static const struct {
        const char *name;
        int (*set)(struct tokenizer *, struct err *);
    } known[] = {
        {"smollm", set_smollm},    {"gpt-2", set_gpt2},    {"gpt2", set_gpt2},
        {"llama-bpe", set_llama3}, {"llama3", set_llama3}, {"qwen2", set_qwen2},
    };
    for (size_t i = 0; pre && i < sizeof known / sizeof *known; i++)
        if (strcmp(pre, known[i].name) == 0)
            return known[i].set(t, err);
    return err_set(
        err, ERR_INVALID,
        "tokenizer.ggml.pre \"%.64s\" is not supported (smollm, gpt-2, llama-bpe, "
        "llama3, qwen2 are)",
        pre ? pre : "");
}

static int add_tokens(struct tokenizer *t, const struct tokenizer_gguf *g, struct err *err)
{
    if (g->n_tokens > VOCAB_MAX_IDS)
        return err_set(err, ERR_INVALID,
                       "tokenizer.ggml.tokens: %zu tokens, at most %d are "
                       "accepted",
                       g->n_tokens, VOCAB_MAX_IDS);
    for (size_t i = 0; i < g->n_tokens; i++)
        if (vocab_add(&t->bpe.vocab, (int32_t)i, g->tokens[i], strlen(g->tokens[i]), err) <
            0)
            return -1;
    for (size_t i = 0; g->types && i < g->n_tokens; i++) {
        if (g->types[i] != TYPE_CONTROL && g->types[i] != TYPE_USER_DEFINED)
            continue;
        struct added_token token = {.id = (int32_t)i,
                                    .is_special = g->types[i] == TYPE_CONTROL};
        if (tokenizer_add_token(t, &token, g->tokens[i], strlen(g->tokens[i]), err) < 0)
            return -1;
    }
    return 0;
}

static int add_merges(struct tokenizer *t, const struct tokenizer_gguf *g, struct err *err)
{
    for (size_t i = 0; i < g->n_merges; i++) {
        const char *rule = g->merges[i], *space = strchr(rule, ' ');
        if (!space || strchr(space + 1, ' '))
            return err_set(err, ERR_INVALID,
                           "tokenizer.ggml.merges: \"%.64s\" is not two pieces", rule);
        if (bpe_add_merge(&t->bpe, (uint32_t)i, rule, (size_t)(space - rule), space + 1,
                          strlen(space + 1), err) < 0)
            return -1;
    }
    return 0;
}

struct tokenizer *tokenizer_open_gguf(const struct tokenizer_gguf *g, struct err *err)
{
    struct tokenizer *t = xcalloc(1, sizeof *t);
    t->bpe.unk_id = -1;
    t->decoder_spec.byte_level = true;
    if (set_pre(t, g->pre, err) < 0 || add_tokens(t, g, err) < 0 ||
        add_merges(t, g, err) < 0)
        goto fail;
    if (g->add_bos && g->bos >= 0)
        token_list_add(&t->before, g->bos);
    if (tokenizer_seal(t, err) < 0)
        goto fail;
    return t;
fail:
    tokenizer_free(t);
    return NULL;
}
