/* How a version comes into memory: from its compiled file, or else from its files.
 *
 * Thread: any but the loop's and the engine's (make_at_once: any); blocks for the disk and while the
 * engine computes. A maker is immutable, and any number of threads may use it at once.
 *
 *     struct made m;
 *     if (make_from_store(&maker, tenant, digest, &m, &err) < 0) return -1;
 *     ... takes m.compiled, or compile_fini(&m.compiled)
 */
#ifndef PREFIXD_MAKE_H
#define PREFIXD_MAKE_H

#include "adapters/compile.h"
#include "adapters/spec.h"
#include "adapters/store.h"

struct maker {
    struct engine *engine;
    const struct base_model *base;
    struct store *store;
    struct spec_limits limits;
    size_t at_once_bytes; /* the largest prefixes that make_at_once reads */
};

struct made {
    struct compiled compiled;
    enum kind kind;
    bool has_computed; /* or was it read */
};

struct make_asking { /* as of struct compile_with */
    int (*allow)(void *ud, int64_t n_tokens, struct err *err);
    void *ud;
};

/* From files that were checked. What it has computed is not kept yet. */
int make_from_spec(const struct maker *m, int64_t tenant, const char *digest,
                   const struct adapter_spec *spec, const struct make_asking *asking,
                   struct made *out, struct err *err);

/* Leaves a compiled file behind. */
void make_keep(const struct maker *m, int64_t tenant, const char *digest, const struct made *made);

/* A version of the store. ERR_NOT_FOUND if its files are not there, ERR_ADAPTER if they are not
 * what they were or do not suit. */
int make_from_store(const struct maker *m, int64_t tenant, const char *digest, struct made *out,
                    struct err *err);

/* Whether a version of the store could be had without waiting: its compiled file is small and in the
 * page cache. */
bool make_at_once(const struct maker *m, int64_t tenant, const char *digest, struct made *out);

/* Takes back the compiled file of a version that did not get into the store. */
void make_unkeep(const struct maker *m, int64_t tenant, const char *digest);

/* Whether making a version that has so many virtual tokens in all its tasks (0: not known), of
 * files of so many bytes, takes more than a moment. */
bool make_is_long(int64_t n_tokens, int64_t bytes);

int make_check_tokens(int n_tokens, int most, struct err *err); /* ERR_ADAPTER */

#endif
