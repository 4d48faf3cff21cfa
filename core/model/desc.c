/* What a description may say, and what follows from it: digest text and rotary
 * frequencies. */
#include "core/model/desc.h"

#include <math.h>

static int check_dims(const struct model_desc *d, struct err *err)
{
    const struct {
        const char *name;
        int value, max;
    } dims[] = {
        {"number of layers", d->n_layers, 4096},
        {"hidden size", d->dim, 1 << 20},
        {"number of attention heads", d->n_heads, 1 << 14},
        {"number of key/value heads", d->n_kv_heads, 1 << 14},
        {"head dimension", d->head_dim, 1 << 12},
        {"feed-forward size", d->ffn, 1 << 22},
        {"vocabulary size", d->vocab, 1 << 24},
        {"maximum position", d->max_pos, 1 << 30},
    };
    for (size_t i = 0; i < sizeof dims / sizeof dims[0]; i++)
        if (dims[i].value < 1 || dims[i].value > dims[i].max)
            return err_set(err, ERR_INVALID, "the %s is %d; accepted: 1 to %d",
                           dims[i].name, dims[i].value, dims[i].max);
    return 0;
}

static int check_rope(const struct rope_desc *r, struct err *err)
{
    if (!(r->theta > 0 && isfinite((float)r->theta)))
        return err_set(err, ERR_INVALID, "the rope base is %g; accepted: above 0",
                       r->theta);
    if (r->kind != ROPE_DEFAULT && !(r->factor > 0 && isfinite((float)r->factor)))
        return err_set(err, ERR_INVALID, "the rope factor is %g; accepted: above 0",
                       r->factor);
    if (r->kind != ROPE_LLAMA3)
        return 0;
    if (!(r->low_freq_factor > 0 && r->high_freq_factor > r->low_freq_factor &&
          isfinite((float)r->high_freq_factor)))
        return err_set(err, ERR_INVALID,
                       "rope llama3: low_freq_factor %g and high_freq_factor %g; accepted: "
                       "0 < low < high",
                       r->low_freq_factor, r->high_freq_factor);
    if (r->original_max_pos < 1)
        return err_set(err, ERR_INVALID,
                       "rope llama3: original_max_position_embeddings must be above 0");
    return 0;
}

int desc_check(const struct model_desc *d, struct err *err)
{
    if (check_dims(d, err) < 0 || check_rope(&d->rope, err) < 0)
        return -1;
    if (d->head_dim % 2)
        return err_set(err, ERR_INVALID, "the head dimension is %d; accepted: even numbers",
                       d->head_dim);
    if (d->n_heads % d->n_kv_heads)
        return err_set(err, ERR_INVALID,
                       "%d attention heads are no multiple of %d key/value heads",
                       d->n_heads, d->n_kv_heads);
    if (!(d->norm_eps > 0 && d->norm_eps < 1))
        return err_set(err, ERR_INVALID,
                       "the norm epsilon is %g; accepted: between 0 and 1",
                       (double)d->norm_eps);
    if (d->n_eos < 0 || d->n_eos > MODEL_MAX_EOS)
        return err_set(err, ERR_INVALID, "too many end-of-sequence ids");
    return 0;
}

int desc_add_eos(struct model_desc *d, int32_t id, struct err *err)
{
    for (int i = 0; i < d->n_eos; i++)
        if (d->eos[i] == id)
            return 0;
    if (d->n_eos == MODEL_MAX_EOS)
        return err_set(err, ERR_INVALID, "more than %d end-of-sequence ids", MODEL_MAX_EOS);
    d->eos[d->n_eos++] = id;
    return 0;
}

void desc_render(const struct model_desc *d, struct buf *out)
{
    buf_printf(
        out, "llama layers=%d dim=%d heads=%d kv_heads=%d head_dim=%d ffn=%d vocab=%d\n",
        d->n_layers, d->dim, d->n_heads, d->n_kv_heads, d->head_dim, d->ffn, d->vocab);
    buf_printf(out, "max_pos=%d norm_eps=%.9g tied=%d attn_bias=%d mlp_bias=%d\n",
               d->max_pos, (double)d->norm_eps, d->is_tied, d->has_attn_bias,
               d->has_mlp_bias);
    buf_printf(out, "rope=%d theta=%.17g factor=%.17g low=%.17g high=%.17g original=%d\n",
               (int)d->rope.kind, d->rope.theta, d->rope.factor, d->rope.low_freq_factor,
               d->rope.high_freq_factor, d->rope.original_max_pos);
    buf_printf(out, "bos=%d eos=", d->bos);
    for (int i = 0; i < d->n_eos; i++)
        buf_printf(out, "%d,", d->eos[i]);
}

/* Every product, quotient and comparison in f32, scalars rounded to f32 first: so does
 * the reference. */
static float scale_llama3(const struct rope_desc *r, float inv)
{
    float factor = (float)r->factor, old = (float)r->original_max_pos;
    float low = (float)r->low_freq_factor;
    float low_wavelen = (float)(r->original_max_pos / r->low_freq_factor);
    float high_wavelen = (float)(r->original_max_pos / r->high_freq_factor);
    float wavelen = 1.0f / inv * (float)(2 * M_PI);
    if (wavelen > low_wavelen)
        return inv / factor;
    if (wavelen < high_wavelen)
        return inv;
    float span = (float)(r->high_freq_factor - r->low_freq_factor);
    float smooth = (1.0f / wavelen * old - low) / span;
    return (1.0f - smooth) * inv / factor + smooth * inv;
}

void desc_inv_freq(const struct model_desc *d, float *inv_freq)
{
    const struct rope_desc *r = &d->rope;
    for (int i = 0; i < d->head_dim / 2; i++) {
        float exponent = (float)(2 * i) / (float)d->head_dim;
        float inv = 1.0f / powf((float)r->theta, exponent);
        if (r->kind == ROPE_LINEAR)
            inv /= (float)r->factor;
        inv_freq[i] = r->kind == ROPE_LLAMA3 ? scale_llama3(r, inv) : inv;
    }
}
