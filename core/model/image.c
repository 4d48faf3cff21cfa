/* The block's layout and its checks. */
#include "core/model/image.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/mem.h"
#include "core/model/desc.h"
#include "core/model/image_memory.h"
#include "core/model/image_pack.h"
#include "core/model/source.h"

static const char magic[8] = "PFXIMAGE";
static const char layout_name[16] = "panel16quads";

static uint64_t align_up(uint64_t n)
{
    return (n + IMAGE_ALIGN - 1) & ~(uint64_t)(IMAGE_ALIGN - 1);
}

static bool is_matrix_dtype(uint32_t t)
{
    return t == DTYPE_F32 || t == DTYPE_BF16 || t == DTYPE_INT8 || t == DTYPE_INT4;
}

/* Embedding and head of an int4 model are int8: int4 there costs as much perplexity as in all
 * layers. */
static enum dtype dtype_of(enum role role, enum dtype dtype)
{
    bool is_vocabulary = role == ROLE_EMBED || role == ROLE_HEAD;
    if (!roles_is_matrix(role))
        return DTYPE_F32;
    return is_vocabulary && dtype == DTYPE_INT4 ? DTYPE_INT8 : dtype;
}

/* What a slot must look like, apart from its place; desc_check bounds all products. */
static struct image_tensor slot_shape(const struct model_desc *d, enum dtype dtype,
                                      size_t slot)
{
    int layer;
    enum role role = roles_of_slot(slot, &layer);
    struct image_tensor t = {0};
    if (!roles_is_expected(d, role))
        return t;
    struct role_shape s = roles_shape(d, role);
    uint64_t rows = (uint64_t)s.n_out;
    t.n_out = (uint32_t)s.n_out;
    t.n_in = (uint32_t)s.n_in;
    t.dtype = dtype_of(role, dtype);
    if (roles_is_matrix(role))
        rows = (rows + PANEL - 1) / PANEL *
               matrix_panel_elems((enum dtype)t.dtype, (size_t)s.n_in);
    t.bytes = rows * dtype_size((enum dtype)t.dtype);
    return t;
}

/* Fills the table with places one after the other; the block's length. */
static uint64_t lay_out(const struct model_desc *d, enum dtype dtype, uint64_t start,
                        struct image_tensor *table, size_t n_slots)
{
    uint64_t at = align_up(start);
    for (size_t i = 0; i < n_slots; i++) {
        table[i] = slot_shape(d, dtype, i);
        if (!table[i].bytes)
            continue;
        table[i].offset = at;
        at = align_up(at + table[i].bytes);
    }
    return at;
}

static void write_head(unsigned char *base, const struct source *src, enum dtype dtype,
                       const struct image_tensor *table, uint64_t total)
{
    struct image_header *h = (struct image_header *)(void *)base;
    *h = (struct image_header){
        .version = IMAGE_VERSION,
        .header_bytes = sizeof *h,
        .total_bytes = total,
        .table_offset = align_up(sizeof *h),
        .n_slots = src->n_slots,
        .dtype = dtype,
        .desc = src->desc,
    };
    memcpy(h->magic, magic, sizeof magic);
    memcpy(h->layout, layout_name, sizeof layout_name);
    memcpy(base + h->table_offset, table, src->n_slots * sizeof *table);
}

/* Writes the whole image into the descriptor's memory, which stays unmapped after it. */
static int pack_into(int fd, const struct source *src, enum dtype dtype,
                     const struct image_tensor *table, uint64_t total, struct err *err)
{
    unsigned char *base = image_memory_map_writable(fd, total, err);
    if (!base)
        return -1;
    write_head(base, src, dtype, table, total);
    int rc = image_pack_tensors(src, base, err);
    image_memory_unmap(base, total);
    return rc;
}

struct model_image *image_pack(const struct source *src, enum dtype dtype, struct err *err)
{
    size_t table_bytes = src->n_slots * sizeof(struct image_tensor);
    struct image_tensor *table = xcalloc(src->n_slots, sizeof *table);
    uint64_t start = align_up(sizeof(struct image_header));
    uint64_t total = lay_out(&src->desc, dtype, start + table_bytes, table, src->n_slots);
    struct model_image *image = NULL;
    int fd = image_memory_new(total, err);
    if (fd >= 0 && pack_into(fd, src, dtype, table, total, err) == 0 &&
        image_memory_seal(fd, err) == 0)
        image = image_attach(fd, err);
    if (image)
        image_memory_collapse(image->base, image->bytes);
    else if (fd >= 0)
        close(fd);
    free(table);
    return image;
}

struct model_image *image_attach(int fd, struct err *err)
{
    struct model_image *image = xcalloc(1, sizeof *image);
    image->fd = fd;
    image->base = image_memory_map_sealed(fd, &image->bytes, err);
    if (image->base && image_check(image, err) == 0)
        return image;
    if (image->base)
        image_memory_unmap(image->base, image->bytes);
    free(image);
    return NULL;
}

int image_check_digest(const struct model_image *image, struct err *err)
{
    char digest[DIGEST_HEX + 1];
    image_pack_digest(image->base, digest);
    if (strcmp(digest, image_header(image)->digest) != 0)
        return err_set(err, ERR_INVALID,
                       "model image: its weights are not those of its digest");
    return 0;
}

void image_free(struct model_image *image)
{
    if (!image)
        return;
    image_memory_unmap(image->base, image->bytes);
    close(image->fd);
    free(image);
}

const struct image_header *image_header(const struct model_image *image)
{
    return (const struct image_header *)(const void *)image->base;
}

const struct image_tensor *image_tensor(const struct model_image *image, enum role role,
                                        int layer)
{
    const struct image_header *h = image_header(image);
    const void *table = image->base + h->table_offset;
    return (const struct image_tensor *)table + roles_slot(role, layer);
}

const void *image_data(const struct model_image *image, const struct image_tensor *t)
{
    return t->bytes ? image->base + t->offset : NULL;
}

static int check_header(const struct model_image *image, struct err *err)
{
    const struct image_header *h = image_header(image);
    if (image->bytes < sizeof *h || memcmp(h->magic, magic, sizeof magic) != 0)
        return err_set(err, ERR_INVALID, "not a model image");
    if (h->version != IMAGE_VERSION || h->header_bytes != sizeof *h)
        return err_set(err, ERR_INVALID, "model image of version %u; this program reads %d",
                       h->version, IMAGE_VERSION);
    if (memcmp(h->layout, layout_name, sizeof layout_name) != 0)
        return err_set(err, ERR_INVALID,
                       "model image of layout \"%.16s\"; this program reads %s", h->layout,
                       layout_name);
    if (!is_matrix_dtype(h->dtype))
        return err_set(err, ERR_INVALID, "model image of an unknown dtype");
    if (h->total_bytes != image->bytes || h->digest[DIGEST_HEX] != '\0')
        return err_set(err, ERR_INVALID, "model image is cut or damaged");
    return desc_check(&h->desc, err);
}

static int check_table(const struct model_image *image, struct err *err)
{
    const struct image_header *h = image_header(image);
    uint64_t room = image->bytes;
    if (h->n_slots != roles_n_slots(&h->desc) || h->table_offset % IMAGE_ALIGN ||
        h->table_offset > room ||
        h->n_slots * sizeof(struct image_tensor) > room - h->table_offset)
        return err_set(err, ERR_INVALID, "model image: its table is damaged");
    for (size_t i = 0; i < h->n_slots; i++) {
        int layer;
        enum role role = roles_of_slot(i, &layer);
        const struct image_tensor *t = image_tensor(image, role, layer);
        struct image_tensor want = slot_shape(&h->desc, (enum dtype)h->dtype, i);
        if (t->bytes != want.bytes || t->n_out != want.n_out || t->n_in != want.n_in ||
            t->dtype != want.dtype)
            return err_set(err, ERR_INVALID, "model image: tensor %zu is misshapen", i);
        if (t->offset % IMAGE_ALIGN || t->offset > room || t->bytes > room - t->offset)
            return err_set(err, ERR_INVALID, "model image: tensor %zu leaves the image", i);
    }
    return 0;
}

int image_check(const struct model_image *image, struct err *err)
{
    return check_header(image, err) < 0 ? -1 : check_table(image, err);
}
