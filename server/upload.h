/* A body as it comes in: bounded, either plain bytes or the parts of multipart/form-data.
 *
 * Thread: loop. What upload_bytes and upload_parts give lives as long as the upload. Bodies
 * of a kind share a budget (budget.h), so that all of them together are bounded too. It is
 * taken as the bytes come: a length that is only announced keeps nobody out.
 *
 *     struct upload *u = upload_new(&opts, &err);        NULL: ERR_NO_MEMORY, try later
 *     upload_add(u, bytes, n); ...; upload_end(u);
 *     if (upload_bytes(u, &bytes, &len, &err) < 0)       413, 503, or 400 for a bad form
 *     upload_free(u);
 */
#ifndef PREFIXD_UPLOAD_H
#define PREFIXD_UPLOAD_H

#include "core/base/buf.h"
#include "core/base/err.h"
#include "server/budget.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { UPLOAD_MAX_PARTS = 8 };

struct upload;

struct upload_opts {
    struct budget *budget; /* outlives the upload */
    int64_t tenant;               /* of whose share */
    size_t max;                   /* bytes of this body */
    size_t expected;              /* refused at once if there is no room for it; 0: unknown */
    bool is_form;
    void *connection; /* of a form: the HTTP library's, whose Content-Type has the boundary */
};

struct upload_part {
    char field[64], file[64]; /* "" if absent; longer names are cut */
    struct buf body;
};

struct upload *upload_new(const struct upload_opts *opts, struct err *err);
void upload_free(struct upload *u); /* accepts NULL */

void upload_add(struct upload *u, const void *bytes, size_t len);
void upload_end(struct upload *u);

/* Refused already: what comes after is not kept. The second says why. */
bool upload_is_refused(const struct upload *u);
int upload_check(const struct upload *u, struct err *err);

int upload_bytes(const struct upload *u, const char **bytes, size_t *len, struct err *err);
int upload_parts(const struct upload *u, const struct upload_part **parts, int *n,
                 struct err *err);

#endif
