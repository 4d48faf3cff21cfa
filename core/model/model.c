/* Opening a model: source to image, image to the pointers of the forward pass. */
#include "core/model/model.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/clock.h"
#include "core/base/log.h"
#include "core/base/mem.h"
#include "core/model/gguf_tokenizer.h"
#include "core/model/image.h"
#include "core/model/source.h"

static enum dtype choose_dtype(const struct source *src, enum dtype_choice choice)
{
    bool is_quantised = false, has_f32 = false, has_f16 = false;
    for (size_t i = 0; i < src->n_slots; i++) {
        const struct source_tensor *t = &src->tensors[i];
        if (!t->data || !t->n_in)
            continue;
        is_quantised |= dequant_is_quantised(t->format);
        has_f32 |= t->format == FORMAT_F32;
        has_f16 |= t->format == FORMAT_F16;
    }
    switch (choice) {
    case DTYPE_CHOICE_F32: return DTYPE_F32;
    case DTYPE_CHOICE_BF16: return DTYPE_BF16;
    case DTYPE_CHOICE_INT8: return DTYPE_INT8;
    case DTYPE_CHOICE_INT4: return DTYPE_INT4;
    case DTYPE_CHOICE_AUTO: break;
    }
    if (has_f32 && !is_quantised)
        return DTYPE_F32;
    if (has_f16)
        log_info("boot", "F16 weights are rounded to bf16; --dtype f32 keeps them exact");
    return DTYPE_BF16;
}

static const float *bind_vector(const struct model_image *image, enum role role, int layer)
{
    return image_data(image, image_tensor(image, role, layer));
}

static struct matrix bind_matrix(const struct model_image *image, enum role role, int layer)
{
    const struct image_tensor *t = image_tensor(image, role, layer);
    return (struct matrix){
        .dtype = (enum dtype)t->dtype,
        .n_out = (int)t->n_out,
        .n_in = (int)t->n_in,
        .data = image_data(image, t),
    };
}

static struct linear bind_linear(const struct model_image *image, enum role weight,
                                 enum role bias, int layer)
{
    return (struct linear){bind_matrix(image, weight, layer),
                           bind_vector(image, bias, layer)};
}

static void bind_layer(const struct model_image *image, int layer,
                       struct layer_weights *out)
{
    out->attn_norm = bind_vector(image, ROLE_ATTN_NORM, layer);
    out->ffn_norm = bind_vector(image, ROLE_FFN_NORM, layer);
    out->q = bind_linear(image, ROLE_Q, ROLE_Q_BIAS, layer);
    out->k = bind_linear(image, ROLE_K, ROLE_K_BIAS, layer);
    out->v = bind_linear(image, ROLE_V, ROLE_V_BIAS, layer);
    out->o = bind_linear(image, ROLE_O, ROLE_O_BIAS, layer);
    out->gate = bind_linear(image, ROLE_GATE, ROLE_GATE_BIAS, layer);
    out->up = bind_linear(image, ROLE_UP, ROLE_UP_BIAS, layer);
    out->down = bind_linear(image, ROLE_DOWN, ROLE_DOWN_BIAS, layer);
}

struct model *model_bind(struct model_image *image, struct err *err)
{
    if (image_check(image, err) < 0)
        return NULL;
    const struct image_header *h = image_header(image);
    struct model *m = xcalloc(1, sizeof *m);
    struct layer_weights *layers = xcalloc((size_t)h->desc.n_layers, sizeof *layers);
    m->desc = h->desc;
    m->dtype = (enum dtype)h->dtype;
    m->embed = bind_matrix(image, ROLE_EMBED, -1);
    m->head = m->desc.is_tied ? m->embed : bind_matrix(image, ROLE_HEAD, -1);
    m->final_norm = bind_vector(image, ROLE_FINAL_NORM, -1);
    m->inv_freq = bind_vector(image, ROLE_INV_FREQ, -1);
    for (int i = 0; i < m->desc.n_layers; i++)
        bind_layer(image, i, &layers[i]);
    m->layers = layers;
    m->image_bytes = image->bytes;
    memcpy(m->digest, h->digest, sizeof m->digest);
    m->image = image;
    return m;
}

static void log_opened(const struct model *m, int64_t start_us)
{
    const struct model_desc *d = &m->desc;
    double ms = (double)(clock_us() - start_us) / 1e3;
    log_info("boot",
             "model llama: %d layers, dim %d, heads %d/%d of %d, ffn %d, vocab %d, "
             "context %d, %s, "
             "%zu bytes, digest %.12s, %.0f ms",
             d->n_layers, d->dim, d->n_heads, d->n_kv_heads, d->head_dim, d->ffn, d->vocab,
             d->max_pos, dtype_name(m->dtype), m->image_bytes, m->digest, ms);
}

struct model *model_pack(const struct source *src, enum dtype_choice choice,
                         struct err *err)
{
    int64_t start = clock_us();
    struct model_image *image = image_pack(src, choose_dtype(src, choice), err);
    struct model *m = image ? model_bind(image, err) : NULL;
    if (m)
        log_opened(m, start);
    else
        image_free(image);
    return m;
}

struct model *model_open(const char *path, enum dtype_choice choice, struct err *err)
{
    struct source *src = source_open(path, err);
    struct model *m = src ? model_pack(src, choice, err) : NULL;
    source_free(src);
    return m;
}

struct model *model_attach(const struct model *m, struct err *err)
{
    int fd = fcntl(m->image->fd, F_DUPFD_CLOEXEC, 0);
    if (fd < 0) {
        err_set(err, ERR_IO, "no descriptor for the model: %s", strerror(errno));
        return NULL;
    }
    struct model_image *image = image_attach(fd, err);
    if (!image) {
        close(fd);
        return NULL;
    }
    struct model *own = model_bind(image, err);
    if (!own)
        image_free(image);
    return own;
}

void model_free(struct model *m)
{
    if (!m)
        return;
    image_free(m->image);
    free((struct layer_weights *)(uintptr_t)m->layers);
    free(m);
}

struct tokenizer *model_open_tokenizer(const char *path, struct err *err)
{
    struct stat st;
    if (stat(path, &st) == 0 && S_ISDIR(st.st_mode))
        return tokenizer_open_dir(path, err);
    return gguf_tokenizer_open(path, err);
}
