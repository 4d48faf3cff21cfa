/* The digest of a version over its files as they are on disk now.
 *
 * What is read and what is answered is the same open file, which nobody writes: blobs come
 * and go whole, and the descriptor stays with the one that was looked at. */
#include "adapters/whole.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "adapters/spec.h"

enum { PIECE = 1 << 16 };

static int add_bytes(struct digest *d, int fd, off_t size)
{
    char piece[PIECE];
    off_t at = 0;
    while (at < size) {
        ssize_t n = pread(fd, piece, sizeof piece, at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return -1;
        digest_add(d, piece, (size_t)n);
        at += n;
    }
    return at == size ? 0 : -1;
}

/* As spec_digest takes it. */
static int add_file(struct digest *d, const char *name, int fd)
{
    struct stat st;
    if (fstat(fd, &st) < 0)
        return -1;
    digest_part(d, name, strlen(name));
    digest_length(d, (uint64_t)st.st_size);
    return add_bytes(d, fd, st.st_size);
}

/* Its other files are only looked at. */
struct look {
    const struct blobs *blobs;
    int64_t tenant;
    const char *digest, *file;
    int fd;
};

static int add_named(const struct look *l, struct digest *d, const char *name)
{
    if (strcmp(name, l->file) == 0)
        return add_file(d, name, l->fd);
    int fd = blobs_open_file(l->blobs, l->tenant, l->digest, name, NULL);
    if (fd < 0)
        return -1;
    int rc = add_file(d, name, fd);
    close(fd);
    return rc;
}

static bool is_whole(const struct look *l)
{
    char found[DIGEST_HEX + 1];
    struct digest d;
    digest_init(&d);
    digest_part(&d, SPEC_DIGEST_TAG, sizeof SPEC_DIGEST_TAG - 1);
    bool is_text = strcmp(l->file, SPEC_TEXT_FILE) == 0;
    if (is_text ? add_named(l, &d, SPEC_TEXT_FILE) < 0
                : add_named(l, &d, SPEC_CONFIG_FILE) < 0 ||
                      add_named(l, &d, SPEC_WEIGHTS_FILE) < 0)
        return false;
    digest_hex(&d, found);
    return strcmp(found, l->digest) == 0;
}

int whole_open_file(const struct blobs *b, int64_t tenant, const char *digest,
                    const char *file, struct err *err)
{
    struct look l = {b, tenant, digest, file, blobs_open_file(b, tenant, digest, file, err)};
    if (l.fd < 0 || is_whole(&l))
        return l.fd;
    close(l.fd);
    if (!blobs_has(b, tenant, digest)) /* it was deleted meanwhile */
        return err_set(err, ERR_NOT_FOUND, "this version is not stored");
    return err_set(err, ERR_ADAPTER, "the stored files are damaged");
}
