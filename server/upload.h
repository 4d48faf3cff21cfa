/* A body as it comes in: bounded, either plain bytes or the parts of multipart/form-data.
 *
 * Thread: loop. What upload_bytes and upload_parts give lives as long as the upload.
 *
 *     struct upload *u = upload_new(max, &counter);      counter: bytes of all uploads in
 * memory upload_add(u, bytes, n); ...; upload_end(u); if (upload_bytes(u, &bytes, &len,
 * &err) < 0) -> 413, or 400 for a form that is none upload_free(u);
 */
#ifndef PREFIXD_UPLOAD_H
#define PREFIXD_UPLOAD_H

#include "core/base/buf.h"
#include "core/base/err.h"

#include <stdbool.h>
#include <stddef.h>

enum { UPLOAD_MAX_PARTS = 8 };

struct upload;

struct upload_part {
    char field[64], file[64]; /* "" if absent; longer names are cut */
    struct buf body;
};

struct upload *upload_new(size_t max, size_t *counter);

/* connection: the HTTP library's, whose Content-Type has the form's boundary. */
struct upload *upload_new_form(size_t max, size_t *counter, void *connection);
void upload_free(struct upload *u); /* accepts NULL */

void upload_add(struct upload *u, const void *bytes, size_t len);
void upload_end(struct upload *u);

/* Refused already: what comes after is not kept. */
bool upload_is_refused(const struct upload *u);

int upload_bytes(const struct upload *u, const char **bytes, size_t *len, struct err *err);
int upload_parts(const struct upload *u, const struct upload_part **parts, int *n,
                 struct err *err);

#endif
