/* Compiled files first, because they cost no step of the engine. */
#include "adapters/make.h"

#include <string.h>

#include "adapters/compiled_file.h"
#include "adapters/loaded.h"

enum { LONG_TOKENS = 256, LONG_BYTES = 16 << 20 };

static struct compiled_file file_of(const struct maker *m, int64_t tenant, const char *digest)
{
    return (struct compiled_file){store_folder(m->store), m->base, tenant, digest};
}

bool make_is_long(int64_t n_tokens, int64_t bytes)
{
    return n_tokens <= 0 || n_tokens > LONG_TOKENS || bytes > LONG_BYTES;
}

int make_check_tokens(int n_tokens, int most, struct err *err)
{
    if (most <= 0 || n_tokens <= most)
        return 0;
    return err_set(err, ERR_ADAPTER, "%d virtual tokens; at most %d are accepted here", n_tokens,
                   most);
}

/* 1: it was there and suits. The limit may have been another when the file was made. */
static int read_compiled(const struct maker *m, const struct compiled_file *f, struct made *out,
                         struct err *err)
{
    int rc = compiled_file_read(f, &out->compiled, &out->kind, err);
    if (rc <= 0)
        return rc;
    if (make_check_tokens(out->compiled.n_tokens, m->limits.max_virtual_tokens, err) == 0)
        return 1;
    compile_fini(&out->compiled);
    return -1;
}

static int compute(const struct maker *m, const struct compiled_file *f,
                   const struct adapter_spec *spec, const struct make_asking *asking,
                   struct made *out, struct err *err)
{
    const struct compile_with with = {.engine = m->engine,
                                      .base = m->base,
                                      .max_virtual_tokens = m->limits.max_virtual_tokens,
                                      .domain = (uint32_t)f->tenant,
                                      .allow = asking->allow,
                                      .ud = asking->ud};
    out->kind = spec->kind;
    out->has_computed = true;
    return compile_spec(spec, &with, &out->compiled, err);
}

int make_from_spec(const struct maker *m, int64_t tenant, const char *digest,
                   const struct adapter_spec *spec, const struct make_asking *asking,
                   struct made *out, struct err *err)
{
    const struct compiled_file f = file_of(m, tenant, digest);
    memset(out, 0, sizeof *out);
    int rc = read_compiled(m, &f, out, err);
    if (rc != 0)
        return rc < 0 ? -1 : 0;
    return compute(m, &f, spec, asking, out, err);
}

void make_keep(const struct maker *m, int64_t tenant, const char *digest, const struct made *made)
{
    const struct compiled_file f = file_of(m, tenant, digest);
    compiled_file_write(&f, &made->compiled, made->kind);
}

static int is_damaged(struct err *err)
{
    return err_set(err, ERR_ADAPTER, "the stored files are damaged");
}

/* Its tenant paid for it when it was put. */
static int compute_loaded(const struct maker *m, const struct compiled_file *f,
                          const struct loaded *l, struct made *out, struct err *err)
{
    static const struct make_asking nobody = {0};
    char digest[DIGEST_HEX + 1];
    struct adapter_spec spec;
    spec_digest(l->files, l->n_files, digest);
    if (strcmp(digest, f->digest) != 0)
        return is_damaged(err);
    int rc = spec_parse(&spec, l->files, l->n_files, &m->limits, err);
    if (rc == 0)
        rc = compute(m, f, &spec, &nobody, out, err);
    if (rc == 0)
        compiled_file_write(f, &out->compiled, spec.kind);
    spec_fini(&spec);
    return rc;
}

int make_from_store(const struct maker *m, int64_t tenant, const char *digest, struct made *out,
                    struct err *err)
{
    struct loaded l = {0};
    struct err why = {0};
    const struct compiled_file f = file_of(m, tenant, digest);
    memset(out, 0, sizeof *out);
    int rc = read_compiled(m, &f, out, err);
    if (rc != 0)
        return rc < 0 ? -1 : 0;
    rc = loaded_read_stored(&l, store_blobs(m->store), tenant, digest, m->limits.max_bytes, &why);
    if (rc == 0)
        rc = compute_loaded(m, &f, &l, out, err);
    else if (why.code == ERR_NOT_FOUND)
        err_set(err, ERR_NOT_FOUND, "its stored files are missing");
    else if (why.code == ERR_NO_MEMORY || why.code == ERR_IO)
        err_set(err, why.code, "%s", why.msg);
    else
        is_damaged(err);
    loaded_fini(&l);
    return rc;
}

bool make_at_once(const struct maker *m, int64_t tenant, const char *digest, struct made *out)
{
    const struct compiled_file f = file_of(m, tenant, digest);
    memset(out, 0, sizeof *out);
    if (!compiled_file_read_now(&f, m->at_once_bytes, &out->compiled, &out->kind))
        return false;
    if (make_check_tokens(out->compiled.n_tokens, m->limits.max_virtual_tokens, NULL) == 0)
        return true;
    compile_fini(&out->compiled);
    return false;
}

void make_unkeep(const struct maker *m, int64_t tenant, const char *digest)
{
    const struct compiled_file f = file_of(m, tenant, digest);
    compiled_file_remove(&f);
}
