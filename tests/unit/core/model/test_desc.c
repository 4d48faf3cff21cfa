/* Rotary frequencies against the bits that transformers computes, and digests' text. */
#include "core/model/desc.h"

#include <math.h>
#include <string.h>

#include "tests/test.h"

/* From transformers' LlamaRotaryEmbedding; powf may differ by one unit in the last place
 * between C libraries, so that much is allowed and no more. */
static void expect_bits(const struct model_desc *d, const uint32_t *want)
{
    float got[64];
    desc_inv_freq(d, got);
    for (int i = 0; i < d->head_dim / 2; i++) {
        uint32_t bits;
        memcpy(&bits, &got[i], sizeof bits);
        int64_t diff = (int64_t)bits - want[i];
        if (diff < -1 || diff > 1)
            test_fail(__FILE__, __LINE__, "inv_freq[%d] is 0x%08x, expected 0x%08x", i,
                      bits, want[i]);
    }
}

TEST(desc_inv_freq_default)
{
    static const uint32_t want[] = {0x3f800000, 0x3e72d423, 0x3d6655c2, 0x3c5a7bf2,
                                    0x3b4f3e38, 0x3a44948c, 0x393a7753, 0x3830df52};
    struct model_desc d = {.head_dim = 16, .rope = {.theta = 100000}};
    expect_bits(&d, want);
}

TEST(desc_inv_freq_linear)
{
    static const uint32_t want[] = {0x3eaaaaab, 0x3dd7e0cf, 0x3d088889, 0x3c2cb3d9,
                                    0x3b5a740d, 0x3a8a297b, 0x39aec33f, 0x38dd0f2b};
    struct model_desc d = {.head_dim = 16,
                           .rope = {.kind = ROPE_LINEAR, .theta = 10000, .factor = 3}};
    expect_bits(&d, want);
}

TEST(desc_inv_freq_llama3) /* high frequencies kept, some blended, low ones divided */
{
    static const uint32_t want[] = {0x3f800000, 0x3ee177bc, 0x3e4693b0, 0x3daee4ad,
                                    0x3d1a08c8, 0x3c87a9c3, 0x3beef74f, 0x3b527720,
                                    0x3a0995d2, 0x38a3418d, 0x380fc8f8, 0x377d45c3,
                                    0x36df10c4, 0x36447610, 0x35ad07a7, 0x351864a7};
    struct model_desc d = {.head_dim = 32,
                           .rope = {.kind = ROPE_LLAMA3,
                                    .theta = 500000,
                                    .factor = 8,
                                    .low_freq_factor = 1,
                                    .high_freq_factor = 4,
                                    .original_max_pos = 8192}};
    expect_bits(&d, want);
}

static const struct model_desc good = {.n_layers = 1,
                                       .dim = 8,
                                       .n_heads = 2,
                                       .n_kv_heads = 1,
                                       .head_dim = 4,
                                       .ffn = 6,
                                       .vocab = 5,
                                       .max_pos = 64,
                                       .norm_eps = 1e-5f,
                                       .rope = {.theta = 10000},
                                       .bos = -1,
                                       .eos = {2},
                                       .n_eos = 1};

TEST(desc_text_tells_every_field_apart)
{
    struct model_desc d[12];
    struct buf text[12] = {{0}};
    struct err err = {0};
    EXPECT_EQ(desc_check(&good, &err), 0);
    for (int i = 0; i < 12; i++)
        d[i] = good;
    d[1].dim = 16;
    d[2].head_dim = 6;
    d[3].norm_eps = 1e-6f;
    d[4].is_tied = true;
    d[5].rope.theta = 10001;
    d[6].rope.kind = ROPE_LINEAR;
    d[7].eos[0] = 3;
    d[8].n_eos = 0;
    d[9].bos = 1;
    d[10].has_attn_bias = true;
    d[11].has_mlp_bias = true;
    for (int i = 0; i < 12; i++)
        desc_render(&d[i], &text[i]);
    for (int i = 0; i < 12; i++)
        for (int j = 0; j < i; j++)
            EXPECT(strcmp(text[i].data, text[j].data) != 0);
    for (int i = 0; i < 12; i++)
        buf_free(&text[i]);
}

TEST(desc_eos_ids_are_a_bounded_set)
{
    struct model_desc d = good;
    struct err err = {0};
    EXPECT(desc_add_eos(&d, 2, &err) == 0 && d.n_eos == 1);
    for (int i = 0; i < MODEL_MAX_EOS - 1; i++)
        EXPECT_EQ(desc_add_eos(&d, 100 + i, &err), 0);
    EXPECT_EQ(desc_add_eos(&d, 99, &err), -1);
    EXPECT_EQ(d.n_eos, MODEL_MAX_EOS);
}
