/* The frozen base model: weights and tokenizer opened together, with the shape that others check. */
#include "core/base_model.h"

#include "core/base/log.h"
#include "core/base/mem.h"
#include "core/model/model.h"
#include "core/model/source.h"

#include <malloc.h>
#include <stdlib.h>

enum { MIB = 1 << 20 };

struct base_model {
    struct model *weights;
    struct tokenizer *tokenizer;
    struct model_shape shape;
};

enum dtype_choice base_model_dtype_choice(const char *name)
{
    static const char *const names[] = {
        [DTYPE_CHOICE_AUTO] = "auto", [DTYPE_CHOICE_F32] = "f32",   [DTYPE_CHOICE_BF16] = "bf16",
        [DTYPE_CHOICE_INT8] = "int8", [DTYPE_CHOICE_INT4] = "int4",
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(names[i], name) == 0)
            return (enum dtype_choice)i;
    return DTYPE_CHOICE_AUTO;
}

static struct model_shape shape_of(const struct model *m)
{
    const struct model_desc *d = &m->desc;
    struct model_shape s = {
        .n_layers = d->n_layers,
        .dim = d->dim,
        .n_heads = d->n_heads,
        .n_kv_heads = d->n_kv_heads,
        .head_dim = d->head_dim,
        .vocab = d->vocab,
        .max_pos = d->max_pos,
        .weight_dtype = m->dtype,
        .kv_dtype = m->dtype == DTYPE_F32 ? DTYPE_F32 : DTYPE_BF16,
        .weight_bytes = m->image_bytes,
    };
    memcpy(s.digest, m->digest, sizeof s.digest);
    return s;
}

/* Ids beyond the embeddings are refused wherever they come in; whoever gave the two files
 * together should know. */
static void compare_vocabularies(const struct base_model *b)
{
    int32_t n = tokenizer_n_tokens(b->tokenizer), vocab = b->shape.vocab;
    if (n > vocab)
        log_warn("boot",
                 "the tokenizer has ids up to %d, but the model embeds %d tokens: text with "
                 "tokens from id %d on is refused",
                 (int)n - 1, (int)vocab, (int)vocab);
}

/* What costs little comes first, so that a mistake in it does not cost a whole load. */
struct base_model *base_model_open(const char *path, enum dtype_choice choice, struct err *err)
{
    struct source *src = source_open(path, err);
    if (!src)
        return NULL;
    struct base_model *b = xcalloc(1, sizeof *b);
    log_info("boot", "loading %s (%zu MiB)", path, (source_bytes(src) + MIB - 1) / MIB);
    b->tokenizer = model_open_tokenizer(path, err);
    b->weights = b->tokenizer ? model_pack(src, choice, err) : NULL;
    source_free(src);
    if (!b->weights) {
        base_model_free(b);
        return NULL;
    }
    malloc_trim(0); /* what parsing left would stay in this process and in all that it forks */
    b->shape = shape_of(b->weights);
    compare_vocabularies(b);
    return b;
}

int base_model_attach(struct base_model *b, struct err *err)
{
    struct model *own = model_attach(b->weights, err);
    if (!own)
        return -1;
    model_free(b->weights);
    b->weights = own;
    return 0;
}

void base_model_free(struct base_model *b)
{
    if (!b)
        return;
    tokenizer_free(b->tokenizer);
    model_free(b->weights);
    free(b);
}

const struct model_shape *base_model_shape(const struct base_model *b)
{
    return &b->shape;
}

const struct tokenizer *base_model_tokenizer(const struct base_model *b)
{
    return b->tokenizer;
}

const struct model *base_model_weights(const struct base_model *b)
{
    return b->weights;
}

bool base_model_is_eos(const struct base_model *b, int32_t id)
{
    for (int i = 0; i < b->weights->desc.n_eos; i++)
        if (b->weights->desc.eos[i] == id)
            return true;
    return false;
}
