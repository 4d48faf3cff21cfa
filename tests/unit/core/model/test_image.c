/* The image: same digest every time, readable at any address, refused when damaged. */
#include "core/model/image.h"

#include <stdlib.h>
#include <string.h>

#include "core/base/mem.h"
#include "core/model/source.h"
#include "tests/test.h"
#include "tests/unit/core/model/model_files.h"

static struct source *open_tiny(char **dir)
{
    struct err err = {0};
    *dir = model_files_dir();
    model_files_write_text(*dir, "config.json", model_files_config);
    model_files_write_tensors(*dir, "model.safetensors", model_files_tensors,
                              MODEL_FILES_TENSORS);
    return source_open(*dir, &err);
}

static struct model_image *pack_tiny(enum dtype dtype)
{
    char *dir;
    struct err err = {0};
    struct source *src = open_tiny(&dir);
    struct model_image *image = src ? image_pack(src, dtype, &err) : NULL;
    source_free(src);
    model_files_remove(dir);
    return image;
}

TEST(image_digest_depends_on_content_alone)
{
    struct model_image *a = pack_tiny(DTYPE_F32), *b = pack_tiny(DTYPE_F32);
    struct model_image *c = pack_tiny(DTYPE_BF16);
    ASSERT(a && b && c);
    EXPECT_STR(image_header(a)->digest, image_header(b)->digest);
    EXPECT_EQ(memcmp(a->base, b->base, a->bytes), 0);
    EXPECT(strcmp(image_header(a)->digest, image_header(c)->digest) != 0);
    image_free(a);
    image_free(b);
    image_free(c);
}

TEST(image_of_int4_keeps_the_vocabulary_in_int8)
{
    struct model_image *eight = pack_tiny(DTYPE_INT8), *four = pack_tiny(DTYPE_INT4);
    ASSERT(eight && four);
    EXPECT_EQ(image_tensor(eight, ROLE_Q, 0)->dtype, DTYPE_INT8);
    EXPECT_EQ(image_tensor(four, ROLE_Q, 0)->dtype, DTYPE_INT4);
    EXPECT_EQ(image_tensor(four, ROLE_EMBED, -1)->dtype, DTYPE_INT8);
    EXPECT_EQ(image_tensor(four, ROLE_EMBED, -1)->bytes, image_tensor(eight, ROLE_EMBED, -1)->bytes);
    EXPECT(image_tensor(four, ROLE_Q, 0)->bytes < image_tensor(eight, ROLE_Q, 0)->bytes);
    EXPECT(strcmp(image_header(eight)->digest, image_header(four)->digest) != 0);
    image_free(eight);
    image_free(four);
}

TEST(image_digest_sees_every_weight)
{
    char *dir;
    struct err err = {0};
    struct source *src = open_tiny(&dir);
    ASSERT(src != NULL);
    struct model_image *before = image_pack(src, DTYPE_F32, &err);
    unsigned char changed[64 * sizeof(float)];
    struct source_tensor *t = &src->tensors[roles_slot(ROLE_DOWN, 0)];
    memcpy(changed, t->data, 8 * 6 * sizeof(float));
    changed[47 * sizeof(float)] ^= 1; /* the last bit of the last element */
    t->data = changed;
    struct model_image *after = image_pack(src, DTYPE_F32, &err);
    ASSERT(before && after);
    EXPECT(strcmp(image_header(before)->digest, image_header(after)->digest) != 0);
    image_free(before);
    image_free(after);
    source_free(src);
    model_files_remove(dir);
}

/* A writable copy at another address. */
static struct model_image copy_of(const struct model_image *image)
{
    unsigned char *copy = mem_try_aligned(image->bytes, 1);
    memcpy(copy, image->base, image->bytes);
    return (struct model_image){copy, image->bytes, -1};
}

static unsigned char *bytes_of(const struct model_image *image)
{
    return (unsigned char *)(uintptr_t)image->base;
}

TEST(image_binds_at_any_address)
{
    struct model_image *image = pack_tiny(DTYPE_F32);
    ASSERT(image != NULL);
    struct model_image copy = copy_of(image), *moved = xcalloc(1, sizeof *moved);
    struct err err = {0};
    *moved = copy;
    struct model *m = model_bind(moved, &err);
    ASSERT(m != NULL);
    const unsigned char *q = m->layers[0].q.w.data;
    EXPECT(q >= copy.base && q + 8 * 16 * sizeof(float) <= copy.base + copy.bytes);
    EXPECT(m->image_bytes == image->bytes && m->desc.vocab == 5);
    float first;
    memcpy(&first, q, sizeof first);
    EXPECT(first == model_files_value("model.layers.0.self_attn.q_proj.weight", 0));
    m->image = NULL; /* model_free would unmap what came from malloc */
    free((void *)(uintptr_t)m->layers);
    free(m);
    free(bytes_of(&copy));
    free(moved);
    image_free(image);
}

static void expect_damaged(struct model_image *copy, const char *says)
{
    struct err err = {0};
    if (image_check(copy, &err) == 0 || !strstr(err.msg, says))
        test_fail(__FILE__, __LINE__, "got \"%s\", expected \"%s\"", err.msg, says);
    free(bytes_of(copy));
}

static struct image_header *header_of(const struct model_image *image)
{
    return (struct image_header *)(void *)bytes_of(image);
}

static struct image_tensor *tensor_of(const struct model_image *image, enum role role)
{
    struct image_tensor *table = (void *)(bytes_of(image) + header_of(image)->table_offset);
    return table + roles_slot(role, 0);
}

TEST(image_refuses_damaged_headers)
{
    struct model_image *image = pack_tiny(DTYPE_BF16), c;
    struct err err = {0};
    ASSERT(image != NULL);
    EXPECT_EQ(image_check(image, &err), 0);
    c = copy_of(image);
    header_of(&c)->magic[0] ^= 1;
    expect_damaged(&c, "not a model image");
    c = copy_of(image);
    c.bytes = sizeof(struct image_header) - 1;
    expect_damaged(&c, "not a model image");
    c = copy_of(image);
    header_of(&c)->version++;
    expect_damaged(&c, "version 5");
    c = copy_of(image);
    header_of(&c)->layout[0] = 'q';
    expect_damaged(&c, "layout");
    c = copy_of(image);
    header_of(&c)->dtype = DTYPE_F16;
    expect_damaged(&c, "dtype");
    c = copy_of(image);
    c.bytes -= 64;
    expect_damaged(&c, "cut or damaged");
    c = copy_of(image);
    header_of(&c)->desc.n_layers = 1 << 30;
    expect_damaged(&c, "number of layers");
    c = copy_of(image);
    header_of(&c)->desc.n_layers = 2;
    expect_damaged(&c, "table is damaged");
    c = copy_of(image);
    header_of(&c)->table_offset = ~(uint64_t)63;
    expect_damaged(&c, "table is damaged");
    image_free(image);
}

TEST(image_refuses_tensors_that_leave_it)
{
    struct model_image *image = pack_tiny(DTYPE_BF16), c;
    ASSERT(image != NULL);
    c = copy_of(image);
    tensor_of(&c, ROLE_DOWN)->offset = c.bytes;
    expect_damaged(&c, "leaves the image");
    c = copy_of(image);
    tensor_of(&c, ROLE_Q)->offset = ~(uint64_t)63;
    expect_damaged(&c, "leaves the image");
    c = copy_of(image);
    tensor_of(&c, ROLE_Q)->offset += 2;
    expect_damaged(&c, "leaves the image");
    c = copy_of(image);
    tensor_of(&c, ROLE_K)->n_in++;
    expect_damaged(&c, "misshapen");
    c = copy_of(image);
    tensor_of(&c, ROLE_K)->bytes += 64;
    expect_damaged(&c, "misshapen");
    c = copy_of(image);
    memset(tensor_of(&c, ROLE_V), 0, sizeof(struct image_tensor));
    expect_damaged(&c, "misshapen");
    image_free(image);
}
