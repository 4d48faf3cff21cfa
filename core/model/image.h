/* The packed model as one block of memory that any process can read at any address.
 *
 * Thread: image_pack at boot (it starts threads of its own and joins them); the rest
 * any. The block holds a header, a table of slots (core/model/roles.h) and 64-byte
 * aligned tensors; places in it are offsets from its start, never pointers. It lies in a
 * memfd that is sealed once it is written: from then on the kernel lets nobody change it,
 * and whoever has the descriptor can attach it (core/model/image_memory.h).
 *
 *     struct model_image *a = image_pack(src, DTYPE_BF16, &err);
 *     struct model_image *b = image_attach(dup(a->fd), &err);      in any process
 */
#ifndef PREFIXD_IMAGE_H
#define PREFIXD_IMAGE_H

#include "core/base/digest.h"
#include "core/base/err.h"
#include "core/model/model.h"
#include "core/model/roles.h"

#include <stddef.h>
#include <stdint.h>

struct source;

enum { IMAGE_VERSION = 4, IMAGE_ALIGN = 64 };

struct image_tensor { /* all zero: the model has none */
    uint64_t offset, bytes;
    uint32_t n_out, n_in; /* a vector has n_in = 0 */
    uint32_t dtype;       /* enum dtype */
    uint32_t reserved;
};

struct image_header {
    char magic[8];   /* "PFXIMAGE" */
    uint32_t version;
    uint32_t header_bytes;
    char layout[16]; /* "panel16quads": how matrices lie, see model.h */
    uint64_t total_bytes;
    uint64_t table_offset, n_slots; /* struct image_tensor [n_slots] */
    uint32_t dtype;                 /* of the matrices; the table has that of each */
    char digest[DIGEST_HEX + 1];
    struct model_desc desc;
};

struct model_image {
    const unsigned char *base;
    size_t bytes;
    int fd; /* the sealed memory */
};

/* Reads and packs every tensor of a complete source, and seals the result. dtype: that of the
 * matrices, not F16. */
struct model_image *image_pack(const struct source *src, enum dtype dtype, struct err *err);

/* The image behind a descriptor, which it owns from then on; on failure the caller keeps
 * it. Refuses what is not sealed and what image_check refuses; the weights themselves are
 * not looked at (image_check_digest does, at the cost of reading all of them). */
struct model_image *image_attach(int fd, struct err *err);
void image_free(struct model_image *image);

/* Refuses a block that this program does not understand or whose offsets leave it. */
int image_check(const struct model_image *image, struct err *err);

/* Refuses weights whose digest is not the one in the header. After image_check. */
int image_check_digest(const struct model_image *image, struct err *err);

const struct image_header *image_header(const struct model_image *image);
const struct image_tensor *image_tensor(const struct model_image *image, enum role role,
                                        int layer);
const void *image_data(const struct model_image *image, const struct image_tensor *t);

#endif
