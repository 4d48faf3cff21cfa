/* Collecting a body, or the parts of a form. */
#include "server/upload.h"

#include "core/base/check.h"
#include "core/base/mem.h"

#include <microhttpd.h>
#include <stdio.h>
#include <stdlib.h>

enum { FORM_BUFFER = 64 * 1024 };

struct upload {
    size_t max, len;
    struct budget *budget;
    int64_t tenant;
    struct budget_hold hold;
    struct buf bytes;
    struct MHD_PostProcessor *form; /* until the end */
    struct upload_part parts[UPLOAD_MAX_PARTS];
    int n_parts;
    bool is_form, is_too_large, is_out_of_memory, is_malformed, has_too_many_parts;
};

static int refuse_for_now(struct err *err)
{
    return err_set(err, ERR_NO_MEMORY,
                   "There is no memory for this body beside those that are being received");
}

/* ---- parts of a form ----------------------------------------------------------------- */

static struct upload_part *part_of(struct upload *u, const char *field, const char *file,
                                   uint64_t off)
{
    if (off > 0)
        return u->n_parts ? &u->parts[u->n_parts - 1] : NULL;
    if (u->n_parts == UPLOAD_MAX_PARTS)
        return NULL;
    struct upload_part *p = &u->parts[u->n_parts++];
    snprintf(p->field, sizeof p->field, "%s", field ? field : "");
    snprintf(p->file, sizeof p->file, "%s", file ? file : "");
    return p;
}

static enum MHD_Result on_part(void *cls, enum MHD_ValueKind kind, const char *field,
                               const char *file, const char *type, const char *encoding,
                               const char *data, uint64_t off, size_t size)
{
    struct upload *u = cls;
    struct upload_part *p = part_of(u, field, file, off);
    (void)kind, (void)type, (void)encoding;
    if (!p) {
        u->has_too_many_parts = true;
        return MHD_NO;
    }
    if (buf_try_add(&p->body, data, size) < 0) {
        u->is_out_of_memory = true;
        return MHD_NO;
    }
    return MHD_YES;
}

/* ---- life ---------------------------------------------------------------------------- */

static void start_form(struct upload *u, const struct upload_opts *opts)
{
    u->form = MHD_create_post_processor(opts->connection, FORM_BUFFER, on_part, u);
    u->is_malformed = !u->form; /* no boundary */
}

struct upload *upload_new(const struct upload_opts *opts, struct err *err)
{
    if (!budget_has_room(opts->budget, opts->tenant, opts->expected)) {
        refuse_for_now(err);
        return NULL;
    }
    struct upload *u = xcalloc(1, sizeof *u);
    u->max = opts->max;
    u->budget = opts->budget;
    u->tenant = opts->tenant;
    u->is_form = opts->is_form;
    if (u->is_form)
        start_form(u, opts);
    return u;
}

static void drop_bytes(struct upload *u)
{
    budget_drop(&u->hold);
    u->len = 0;
    buf_free(&u->bytes);
    for (int i = 0; i < u->n_parts; i++)
        buf_free(&u->parts[i].body);
}

void upload_free(struct upload *u)
{
    if (!u)
        return;
    if (u->form)
        MHD_destroy_post_processor(u->form);
    drop_bytes(u);
    free(u);
}

bool upload_is_refused(const struct upload *u)
{
    return u->is_too_large || u->is_out_of_memory || u->is_malformed;
}

static void keep(struct upload *u, const void *bytes, size_t len)
{
    u->len += len;
    if (!budget_take(&u->hold, u->budget, u->tenant, len))
        u->is_out_of_memory = true;
    else if (!u->is_form)
        u->is_out_of_memory = buf_try_add(&u->bytes, bytes, len) < 0;
    else if (MHD_post_process(u->form, bytes, len) != MHD_YES)
        u->is_malformed = true;
}

void upload_add(struct upload *u, const void *bytes, size_t len)
{
    if (upload_is_refused(u))
        return;
    if (len > u->max - u->len)
        u->is_too_large = true;
    else
        keep(u, bytes, len);
    if (upload_is_refused(u))
        drop_bytes(u);
}

void upload_end(struct upload *u)
{
    if (u->form && MHD_destroy_post_processor(u->form) != MHD_YES)
        u->is_malformed = true;
    u->form = NULL;
}

int upload_check(const struct upload *u, struct err *err)
{
    if (u->is_too_large)
        return err_set(err, ERR_TOO_LARGE, "The body is larger than the limit of %zu bytes",
                       u->max);
    if (u->is_out_of_memory)
        return refuse_for_now(err);
    if (u->has_too_many_parts)
        return err_set(err, ERR_INVALID, "The form has more than %d parts",
                       UPLOAD_MAX_PARTS);
    if (u->is_malformed)
        return err_set(err, ERR_INVALID, "The body is no well-formed multipart/form-data");
    return 0;
}

int upload_bytes(const struct upload *u, const char **bytes, size_t *len, struct err *err)
{
    *bytes = u->bytes.data ? u->bytes.data : "";
    *len = u->bytes.len;
    CHECK(!u->form);
    return upload_check(u, err);
}

int upload_parts(const struct upload *u, const struct upload_part **parts, int *n,
                 struct err *err)
{
    *parts = u->parts;
    *n = u->n_parts;
    CHECK(!u->form);
    return upload_check(u, err);
}
