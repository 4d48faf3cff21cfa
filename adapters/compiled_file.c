/* Header, a table of prefixes, their bytes, and a BLAKE2b digest over all of it. */
#define _GNU_SOURCE
#include "adapters/compiled_file.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <sodium.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "adapters/state_files.h"
#include "core/base/buf.h"
#include "core/base/log.h"
#include "core/base/mem.h"

enum { FORMAT = 1, SUM_BYTES = 32, MODEL_SHOWN = 16, NAME_SIZE = 160 };

/* As it lies in the file, in the machine's byte order: the file never leaves the machine
 * for one where the check of format would not find that out. */
struct header {
    char magic[8];
    uint32_t format, layout;
    char model[DIGEST_HEX], version[DIGEST_HEX];
    int64_t tenant;
    char kind[32];
    uint32_t dtype, n_prefixes;
    double compile_ms;
};

struct entry {
    int32_t n_tokens, first_pos;
    uint64_t bytes;
};

static const char magic[8] = "PFXKV\r\n";

static void file_name(const struct compiled_file *f, char out[NAME_SIZE])
{
    const struct model_shape *s = base_model_shape(f->base);
    snprintf(out, NAME_SIZE, "%lld-%s-%.*s-%s", (long long)f->tenant, f->digest, MODEL_SHOWN,
             s->digest, dtype_name(s->kv_dtype));
}

static int open_folder(const struct compiled_file *f)
{
    return openat(f->folder, STATE_COMPILED, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
}

static struct header header_of(const struct compiled_file *f)
{
    const struct model_shape *s = base_model_shape(f->base);
    struct header h;
    memset(&h, 0, sizeof h); /* the bytes between the fields are written too */
    h.format = FORMAT;
    h.layout = KV_LAYOUT;
    h.tenant = f->tenant;
    h.dtype = s->kv_dtype;
    memcpy(h.magic, magic, sizeof h.magic);
    memcpy(h.model, s->digest, sizeof h.model);
    memcpy(h.version, f->digest, sizeof h.version);
    return h;
}

/* ---- reading ------------------------------------------------------------------------- */

struct reader {
    int fd;
    int flags; /* RWF_NOWAIT: fails where it would have to wait */
    size_t max_bytes; /* of the prefixes */
    crypto_generichash_state sum;
};

/* Reads on and adds to the sum. */
static int read_on(void *ud, void *to, size_t len, struct err *err)
{
    struct reader *r = ud;
    for (size_t at = 0; at < len;) {
        const struct iovec rest = {(char *)to + at, len - at};
        ssize_t n = preadv2(r->fd, &rest, 1, -1, r->flags);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return err_set(err, ERR_IO, "%s", n < 0 ? strerror(errno) : "it is cut off");
        at += (size_t)n;
    }
    crypto_generichash_update(&r->sum, to, len);
    return 0;
}

static int is_other(struct err *err)
{
    return err_set(err, ERR_INVALID, "its header is not the one of this version and model");
}

static int read_header(struct reader *r, const struct compiled_file *f, struct header *h,
                       enum kind *kind, struct err *err)
{
    struct header expected = header_of(f);
    if (read_on(r, h, sizeof *h, err) < 0)
        return -1;
    h->kind[sizeof h->kind - 1] = '\0';
    if (kind_from_name(h->kind, kind) < 0 || h->n_prefixes < 1 || h->n_prefixes > SPEC_MAX_TASKS ||
        !(h->compile_ms >= 0))
        return is_other(err);
    expected.n_prefixes = h->n_prefixes;
    expected.compile_ms = h->compile_ms;
    memcpy(expected.kind, h->kind, sizeof h->kind);
    return memcmp(&expected, h, sizeof expected) == 0 ? 0 : is_other(err);
}

/* All sizes, before anything is allocated by them. */
static int check_sizes(const struct compiled_file *f, const struct entry *table, uint32_t n,
                       size_t max_bytes, size_t file_size, struct err *err)
{
    const struct model_shape *s = base_model_shape(f->base);
    size_t around = sizeof(struct header) + n * sizeof *table + SUM_BYTES, total = around;
    for (uint32_t i = 0; i < n; i++) {
        const struct entry *e = &table[i];
        if (e->n_tokens < 1 || e->n_tokens > s->max_pos || e->first_pos < 0 ||
            e->first_pos > s->max_pos || e->n_tokens != table[0].n_tokens ||
            e->bytes != kv_prefix_bytes(s, e->n_tokens) ||
            __builtin_add_overflow(total, e->bytes, &total))
            return is_other(err);
    }
    if (total - around > max_bytes)
        return err_set(err, ERR_INVALID, "it is too large");
    return total == file_size ? 0 : err_set(err, ERR_INVALID, "its size is not the expected one");
}

static int read_prefixes(struct reader *r, const struct compiled_file *f,
                         const struct entry *table, uint32_t n, struct compiled *out,
                         struct err *err)
{
    out->prefixes = xcalloc(n, sizeof *out->prefixes);
    for (uint32_t i = 0; i < n; i++) {
        struct kv_prefix *p = kv_prefix_from_bytes(f->base, table[i].n_tokens,
                                                   table[i].first_pos, read_on, r, err);
        if (!p)
            return -1;
        out->prefixes[out->n_prefixes++] = p;
        out->bytes += p->bytes;
    }
    out->n_tokens = table[0].n_tokens;
    return 0;
}

static int check_sum(struct reader *r, struct err *err)
{
    unsigned char computed[SUM_BYTES], stored[SUM_BYTES];
    crypto_generichash_final(&r->sum, computed, sizeof computed);
    if (read_on(r, stored, sizeof stored, err) < 0)
        return -1;
    if (memcmp(computed, stored, sizeof stored) != 0)
        return err_set(err, ERR_INVALID, "its checksum does not match");
    return 0;
}

static int read_all(struct reader *r, const struct compiled_file *f, size_t size,
                    struct compiled *out, enum kind *kind, struct err *err)
{
    struct header h;
    crypto_generichash_init(&r->sum, NULL, 0, SUM_BYTES);
    if (read_header(r, f, &h, kind, err) < 0)
        return -1;
    struct entry *table = xcalloc(h.n_prefixes, sizeof *table);
    int rc = read_on(r, table, h.n_prefixes * sizeof *table, err);
    if (rc == 0)
        rc = check_sizes(f, table, h.n_prefixes, r->max_bytes, size, err);
    if (rc == 0)
        rc = read_prefixes(r, f, table, h.n_prefixes, out, err);
    free(table);
    if (rc == 0)
        rc = check_sum(r, err);
    out->ms = h.compile_ms;
    return rc;
}

enum { READ_FLAGS = O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK };

static int open_file(const struct compiled_file *f)
{
    char name[NAME_SIZE];
    file_name(f, name);
    int folder = open_folder(f);
    int fd = folder < 0 ? -1 : openat(folder, name, READ_FLAGS);
    if (folder >= 0)
        close(folder);
    return fd;
}

/* Only if the kernel has the whole path at hand. */
static int open_file_now(const struct compiled_file *f)
{
    char name[NAME_SIZE], path[sizeof STATE_COMPILED + NAME_SIZE];
    const struct open_how how = {.flags = READ_FLAGS, .resolve = RESOLVE_CACHED};
    file_name(f, name);
    snprintf(path, sizeof path, STATE_COMPILED "/%s", name);
    return (int)syscall(SYS_openat2, f->folder, path, &how, sizeof how);
}

static int read_file(struct reader *r, const struct compiled_file *f, struct compiled *out,
                     enum kind *kind, struct err *err)
{
    struct stat st;
    if (fstat(r->fd, &st) < 0 || !S_ISREG(st.st_mode))
        return err_set(err, ERR_INVALID, "it is no regular file");
    return read_all(r, f, (size_t)st.st_size, out, kind, err);
}

int compiled_file_read(const struct compiled_file *f, struct compiled *out, enum kind *kind,
                       struct err *err)
{
    struct err why = {0};
    struct reader r = {.fd = open_file(f), .max_bytes = SIZE_MAX};
    memset(out, 0, sizeof *out);
    if (r.fd < 0)
        return 0;
    int rc = read_file(&r, f, out, kind, &why);
    close(r.fd);
    if (rc == 0)
        return 1;
    compile_fini(out);
    if (why.code == ERR_NO_MEMORY)
        return err_set(err, why.code, "%s", why.msg);
    log_warn("adapters", "the compiled file of version %.12s is not used and made anew: %s",
             f->digest, why.msg);
    compiled_file_remove(f);
    return 0;
}

int compiled_file_read_now(const struct compiled_file *f, size_t max_bytes, struct compiled *out,
                           enum kind *kind)
{
    struct reader r = {
        .fd = open_file_now(f), .flags = RWF_NOWAIT, .max_bytes = max_bytes};
    memset(out, 0, sizeof *out);
    if (r.fd < 0)
        return 0;
    int rc = read_file(&r, f, out, kind, NULL);
    close(r.fd);
    if (rc < 0)
        compile_fini(out);
    return rc == 0;
}

/* ---- writing ------------------------------------------------------------------------- */

struct writer {
    int fd;
    crypto_generichash_state sum;
};

static int write_on(struct writer *w, const void *bytes, size_t len)
{
    for (size_t at = 0; at < len;) {
        ssize_t n = write(w->fd, (const char *)bytes + at, len - at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -1;
        at += (size_t)n;
    }
    crypto_generichash_update(&w->sum, bytes, len);
    return 0;
}

static int write_prefixes(struct writer *w, const struct compiled *c)
{
    int rc = 0;
    for (int i = 0; i < c->n_prefixes && rc == 0; i++) {
        const struct kv_prefix *p = c->prefixes[i];
        const struct entry e = {p->n_tokens, p->first_pos, p->bytes};
        rc = write_on(w, &e, sizeof e);
    }
    for (int i = 0; i < c->n_prefixes && rc == 0; i++) {
        const struct kv_prefix *p = c->prefixes[i];
        rc = write_on(w, p->k, p->bytes / 2);
        if (rc == 0)
            rc = write_on(w, p->v, p->bytes / 2);
    }
    return rc;
}

static int write_all(struct writer *w, const struct compiled_file *f, const struct compiled *c,
                     enum kind kind)
{
    struct header h = header_of(f);
    unsigned char sum[SUM_BYTES];
    h.n_prefixes = (uint32_t)c->n_prefixes;
    h.compile_ms = c->ms;
    strncpy(h.kind, kind_name(kind), sizeof h.kind - 1);
    crypto_generichash_init(&w->sum, NULL, 0, SUM_BYTES);
    if (write_on(w, &h, sizeof h) < 0 || write_prefixes(w, c) < 0)
        return -1;
    crypto_generichash_final(&w->sum, sum, sizeof sum);
    return write_on(w, sum, sizeof sum);
}

/* Under a name of this thread's own until it is whole. */
static int write_file(int folder, const struct compiled_file *f, const struct compiled *c,
                      enum kind kind)
{
    char name[NAME_SIZE], tmp[64];
    file_name(f, name);
    snprintf(tmp, sizeof tmp, ".new-%d-%d", (int)getpid(), (int)gettid());
    struct writer w = {.fd = openat(folder, tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC |
                                                     O_NOFOLLOW, 0600)};
    if (w.fd < 0)
        return -1;
    int rc = write_all(&w, f, c, kind);
    int why = errno;
    if (close(w.fd) < 0 && rc == 0) {
        rc = -1;
        why = errno;
    }
    if (rc == 0 && renameat(folder, tmp, folder, name) == 0)
        return 0;
    if (rc == 0)
        why = errno;
    unlinkat(folder, tmp, 0);
    errno = why;
    return -1;
}

void compiled_file_write(const struct compiled_file *f, const struct compiled *c, enum kind kind)
{
    if (mkdirat(f->folder, STATE_COMPILED, 0700) < 0 && errno != EEXIST)
        return log_warn("adapters", "no folder for compiled files: %s", strerror(errno));
    int folder = open_folder(f);
    if (folder < 0 || write_file(folder, f, c, kind) < 0)
        log_warn("adapters", "version %.12s is not kept compiled: %s", f->digest,
                 strerror(errno));
    if (folder >= 0)
        close(folder);
}

void compiled_file_remove(const struct compiled_file *f)
{
    char name[NAME_SIZE];
    int folder = open_folder(f);
    file_name(f, name);
    if (folder >= 0) {
        unlinkat(folder, name, 0);
        close(folder);
    }
}
